"""A host that looks like RHEL 9 with SELinux, made of fakes over the machine of the tests; nothing of RHEL's runs here.

rpm, dnf, semanage and restorecon are scripts; QEMU and libvirt are where RHEL's packages put them.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path

RELEASE = 'NAME="Red Hat Enterprise Linux"\nID="rhel"\nPRETTY_NAME="Red Hat Enterprise Linux 9.6 (Plow)"\n'
# What Debian has and RHEL has not, or has elsewhere.
HIDDEN = (
    *("bin/apt-get", "bin/dpkg-query", "bin/mmdebstrap", "bin/qemu-system-x86_64", "sbin/libvirtd"),
    *(f"share/qemu/firmware/{name}.json" for name in ("40-edk2-x86_64-secure-enrolled", "50-edk2-x86_64-secure")),
    "share/qemu/firmware/60-edk2-x86_64.json",
)
QEMU_VERSION = "9.1.0 (qemu-kvm-9.1.0-15.el9)"
PROGRAMS = {
    "bin/rpm": '#!/bin/sh\nfor name; do :; done\nexec grep -qxF -e "$name" {state}/installed\n',
    "bin/dnf": """\
#!/bin/sh
echo "dnf $*" >> {state}/log
case "$1" in
install) shift 2; printf '%s\\n' "$@" >> {state}/installed;;
remove) shift 2; for name; do sed -i "/^$name\\$/d" {state}/installed; done;;
esac
""",
    # libvirt asks a QEMU what it can do, so behind it there is a real one.
    "libexec/qemu-kvm": f"""\
#!/bin/sh
if [ "$*" = --version ]; then echo "QEMU emulator version {QEMU_VERSION}"; exit; fi
exec /usr/libexec/qemu "$@"
""",
    # The socket is the one of the modular daemon, the daemon behind it is the machine's own.
    "sbin/virtqemud": """\
#!/bin/sh
echo "virtqemud $*" >> {state}/log
ln -sf libvirt-sock /run/libvirt/virtqemud-sock
exec {state}/libvirtd "$@"
""",
    **{
        f"sbin/{name}": f"""\
#!/usr/bin/python3
import pathlib, socket, sys
with open("{{state}}/log", "a") as log:
    print("{name}", *sys.argv[1:], file=log)
pathlib.Path("/run/libvirt").mkdir(exist_ok=True)
server = socket.socket(socket.AF_UNIX)
server.bind("/run/libvirt/{name}-sock")
server.listen()
while True:
    server.accept()[0].close()
"""
        for name in ("virtnetworkd", "virtstoraged")
    },
    "sbin/semanage": """\
#!/usr/bin/python3
import json, pathlib, sys
rules = pathlib.Path("{state}/rules")
known = json.loads(rules.read_text())
word, pattern = sys.argv[2], sys.argv[-1]
if (word == "-a") == (pattern in known):
    sys.exit("ValueError: File context for " + pattern + (" already" if word == "-a" else " is not") + " defined")
if word == "-a":
    known[pattern] = sys.argv[4]
else:
    del known[pattern]
rules.write_text(json.dumps(known))
""",
    # As restorecon does, it gives every file below what the policy says, and default_t where that says nothing.
    "sbin/restorecon": """\
#!/usr/bin/python3
import json, os, pathlib, re, sys
known = json.loads(pathlib.Path("{state}/rules").read_text())
top = pathlib.Path(sys.argv[-1])
for path in (top, *top.rglob("*")):
    kind = next((kind for pattern, kind in known.items() if re.fullmatch(pattern, str(path))), "default_t")
    os.setxattr(path, "security.selinux", f"system_u:object_r:{{kind}}:s0".encode() + b"\\0")
""",
}
# One as RHEL 9 ships it, and before it one that builder's machines cannot use.
FIRMWARE = {
    "40-edk2-ovmf-x64-sb.json": ("OVMF_CODE.secboot.fd", ["requires-smm", "secure-boot"]),
    "50-edk2-ovmf-x64-nosb.json": ("OVMF_CODE.fd", ["verbose-dynamic"]),
}
# To be run in the cell, as root of its own mounts.
LAY_OVER = """\
set -e
cp /usr/sbin/libvirtd {state}/libvirtd
mount -t overlay -o lowerdir={usr}:/usr redhat /usr
rm -f /etc/os-release && cp {state}/os-release /etc/os-release
mount -t tmpfs fs /sys/fs
mkdir /sys/fs/cgroup /sys/fs/selinux
mount --rbind {work}/cgroup /sys/fs/cgroup
echo 1 > /sys/fs/selinux/enforce
"""


def write(folder: Path, work: Path) -> str:
    """Write the tree of such a host below `folder`, and return the script that lays it over a cell.

    Args:
        work: where the cell keeps its control groups.
    """
    usr, state = folder / "usr", folder / "state"
    state.mkdir(parents=True)
    (state / "rules").write_text("{}")
    (state / "installed").touch()
    (state / "os-release").write_text(RELEASE)
    for place, text in PROGRAMS.items():
        path = usr / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("{state}", str(state)).replace("{{", "{").replace("}}", "}"))
        path.chmod(0o755)
    shutil.copy("/usr/bin/qemu-system-x86_64", usr / "libexec/qemu")
    for place in HIDDEN:
        path = usr / place
        path.parent.mkdir(parents=True, exist_ok=True)
        # overlayfs hides what a character device 0:0 lies upon.
        os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))
    for name, (file, features) in FIRMWARE.items():
        firmware = usr / "share/edk2/ovmf" / file
        firmware.parent.mkdir(parents=True, exist_ok=True)
        firmware.touch()
        (usr / "share/qemu/firmware" / name).write_text(
            descriptor(firmware=f"/usr/share/edk2/ovmf/{file}", features=features)
        )
    return LAY_OVER.format(usr=usr, state=state, work=work)


def descriptor(firmware: str, features: list[str], machine: str = "pc-q35-*") -> str:
    """A firmware descriptor (QEMU's docs/interop/firmware.json)."""
    template = {"filename": "/usr/share/edk2/ovmf/OVMF_VARS.fd", "format": "raw"}
    return json.dumps(
        {
            "description": "UEFI",
            "interface-types": ["uefi"],
            "mapping": {
                "device": "flash",
                "executable": {"filename": firmware, "format": "raw"},
                "nvram-template": template,
            },
            "targets": [{"architecture": "x86_64", "machines": [machine]}],
            "features": features,
            "tags": [],
        }
    )
