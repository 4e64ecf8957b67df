# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""Make volume groups and logical volumes, and an initramfs that finds root on one.

The tools are on the medium as packages. They are unpacked beside the installer when there is something to make, and
installed in the new system; a system without volumes has nothing of it, nor has its initramfs.
"""

from __future__ import annotations

import gzip
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from .. import debs, log, program
from .layout import Layout, Volume

PACKAGE = "lvm2"
TOOLS = Path("/run/install/lvm")
# No udev rules of LVM run here: the tools make the device nodes themselves.
ALONE = "activation{udev_sync=0 udev_rules=0} backup{backup=0 archive=0}"
# Run by the initramfs (boot/init) with the device of root, until it is there.
ACTIVATE = """#!/bin/sh
[ -e /run/lvm-ready ] || {
    mkdir -p /run/lock/lvm
    for module in $(cat /lvm/modules); do insmod "/lvm/$module"; done
    : >/run/lvm-ready
}
exec /lvm/lvm lvchange --config '@ALONE@' --activate y --sysinit --quiet "@VOLUME@" 2>/dev/null
"""


def _lvm(*words: str, check: bool = True) -> None:
    folders = [TOOLS / "usr/lib/x86_64-linux-gnu", TOOLS / "lib/x86_64-linux-gnu"]
    path = ":".join(map(str, folders))
    program.run("env", f"LD_LIBRARY_PATH={path}", str(TOOLS / "lvm"), *words, "--config", ALONE, check=check)


def write(made: Layout, say: Callable[[str], None]) -> None:
    """Make the groups and volumes of the layout; its partitions are there.

    Raises:
        ProgramError: a tool failed.
    """
    if not made.groups:
        return
    program.run("modprobe", "dm_mod")
    for deb in debs.needed(PACKAGE):
        program.run("dpkg-deb", "--extract", str(deb), str(TOOLS))
    (TOOLS / "lvm").symlink_to(next(path for path in TOOLS.glob("**/sbin/lvm")))
    for group in made.groups:
        nodes = [partition.node for partition in made.physical(group)]
        for node in nodes:
            say(f"Creating lvmpv on {node}")
            log.info("blivet", f"creating lvmpv on {node}")
            _lvm("pvcreate", "--yes", "--force", "--force", "--dataalignment", "1024k", node)
        _lvm("vgcreate", "--physicalextentsize", f"{group.extent}k", group.name, *nodes)
    for volume in made.volumes:
        log.info("blivet", f"creating {volume.group.name}/{volume.name}, {volume.size} MiB")
        words = ("--yes", "--wipesignatures", "y", "--extents", str(volume.extents), "--name", volume.name)
        _lvm("lvcreate", *words, volume.group.name)
    program.run("udevadm", "settle", "--timeout=30")


def release(made: Layout) -> None:
    """Let go of the groups, as far as nothing that a script left behind still uses them: the machine ends anyway."""
    for group in made.groups:
        _lvm("vgchange", "--activate", "n", group.name, check=False)


def root(made: Layout) -> Volume | None:
    """The volume that root is on."""
    return next((volume for volume in made.volumes if volume.request.mount == "/"), None)


def kernel_words(made: Layout) -> list[str]:
    """Words of the kernel line for volumes: root, then swap (bootloader.py: set_boot_args)."""
    needed = [one for one in made.volumes if one.request.mount == "/"]
    needed += [one for one in made.volumes if one.request.fstype == "swap"]
    return [f"rd.lvm.lv={one.group.name}/{one.name}" for one in needed]


def initramfs(made: Layout, target: Path) -> None:
    """Give the new system's initramfs what finds root, if that is a volume: a second archive behind the first.

    (Linux, Documentation/driver-api/early-userspace/buffer-format.rst: an initramfs is any number of archives.)
    """
    volume = root(made)
    tool = next((target / place for place in ("usr/sbin/lvm", "sbin/lvm") if (target / place).exists()), None)
    if volume is None or tool is None:
        return
    image = next((target / "boot").glob("initramfs-*.img"))
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name)
        (tree / "lvm").mkdir()
        shutil.copy2(tool, tree / "lvm" / "lvm")
        inside = f"/{tool.relative_to(target)}"
        for word in program.run("ldd", inside, root=target).split():
            if word.startswith("/"):
                copy = tree / word.lstrip("/")
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2((target / word.lstrip("/")).resolve(), copy)
        version = image.name.removeprefix("initramfs-").removesuffix(".img")
        said = program.run("modprobe", "--show-depends", "--set-version", version, "dm_mod", root=target)
        modules = [line.split()[1] for line in said.splitlines() if line.startswith("insmod ")]
        for module in modules:
            shutil.copy2(target / module.lstrip("/"), tree / "lvm")
        (tree / "lvm" / "modules").write_text("\n".join(Path(module).name for module in modules))
        script = ACTIVATE.replace("@ALONE@", ALONE).replace("@VOLUME@", f"{volume.group.name}/{volume.name}")
        (tree / "activate").write_text(script)
        (tree / "activate").chmod(0o755)
        packed = tree.with_suffix(".cpio")
        listing = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
        busybox = "/opt/rehearsal/busybox"
        program.run("sh", "-c", f'cd "$1" && {busybox} cpio -o -H newc >"$2"', "sh", name, str(packed), stdin=listing)
        with image.open("ab") as file:
            file.write(b"\0" * (-image.stat().st_size % 4))
            file.write(gzip.compress(packed.read_bytes(), 1))
        packed.unlink()
