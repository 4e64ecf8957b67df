"""The rehearsal obeys the kickstart: two installs that each change many things, each checked in the booted result.

Each row names where its expectation was read: a bare file name is one of Anaconda's rhel7-branch, 21.48.22.159 (the
installer of 7.9), below pyanaconda/; pykickstart is its handlers/rhel7.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.system.process import run
from builder.system.retry import until
from tests.rehearsal.machine import Machine, empty_disk, kickstart_cd, machine

pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(2400)]

LINE = r"inst.stage2=hd:LABEL=CentOS\x207\x20x86_64 inst.ks=hd:LABEL=BUILDER_KS:/ks.cfg inst.nosave=all"
CONSOLE = "net.ifnames=0 biosdevname=0 console=tty0 console=ttyS0,115200n8"

BIOS = """#version=RHEL7
text
install
cdrom
lang en_US.UTF-8
keyboard us
timezone Europe/Berlin --isUtc --nontp
network --bootproto=static --device=eth0 --ip=10.0.2.77 --netmask=255.255.255.0 --gateway=10.0.2.2 --nameserver=10.0.2.3
network --hostname=bios.example
rootpw --plaintext secret12
user --name=worker --groups=wheel --plaintext --password=worker12
sshkey --username=root "@KEY@"
selinux --permissive
firewall --disabled
services --enabled=acpid --disabled=chronyd,nonexistent
zerombr
%include /tmp/disk.ks
clearpart --all --initlabel
part / --fstype=ext4 --size=3000
part swap --size=300
bootloader --location=mbr --timeout=1 --append="audit=0"
poweroff
%packages --excludedocs
@core
chrony
acpid
tree
-postfix
%end
%pre --interpreter=/usr/bin/python3
open("/tmp/disk.ks", "w").write("ignoredisk --only-use=disk/by-id/*BUILDER-SYSTEM*\\n")
%end
%post --erroronfail --log=/root/post.log
echo said-in-post
echo written >/root/from-post
echo marker-line >/dev/ttyS1
kver=$(rpm -q --qf '%{VERSION}-%{RELEASE}.%{ARCH}' kernel)
dracut -f --no-hostonly "/boot/initramfs-$kver.img" "$kver"
restorecon -R /root
%end
%post --nochroot
echo outside >/mnt/sysimage/root/from-nochroot
%end
"""

UEFI = """cmdline
cdrom
lang en_US.UTF-8
keyboard de
timezone UTC
network --bootproto=dhcp --device=eth0 --onboot=on --noipv6 --hostname=uefi.example
rootpw --plaintext secret12
sshkey --username=root "@KEY@"
selinux --enforcing
ignoredisk --only-use=disk/by-id/scsi-0QEMU_QEMU_HARDDISK_BUILDER-SYSTEM
zerombr
clearpart --all --initlabel
reqpart --add-boot
part / --fstype=xfs --size=1500 --grow
bootloader --timeout=1
poweroff
%packages
@^minimal
nano
-chrony
%end
%addon com_redhat_kdump --disable
%end
%post --erroronfail
: >/etc/machine-id
sed -i 's/^GRUB_TIMEOUT=.*/GRUB_TIMEOUT=0/; s/^\\(GRUB_CMDLINE_LINUX="[^"]*\\)"/\\1 panic=5"/' /etc/default/grub
grub2-mkconfig -o /boot/efi/EFI/centos/grub.cfg
%end
"""

BOOTLOADER = "bootloader.py: --append, the last console= and net.ifnames, biosdevname go to the kernel line"
COMMANDS = "pykickstart, kickstart.py: timezone, keyboard, selinux, user, rootpw"
KDUMP = "%addon com_redhat_kdump --disable: kdump fails below 2 GB and would be a failed unit"
NETWORK = "pykickstart (network), network.py: ifcfg-eth0, --hostname, the device by name"
NOSAVE = "kickstart.py, 99-copy-logs.ks: written after %post, unless inst.nosave=all"
OURS = "what builder's own first-boot unit and its search of the sealed disk rely on"
PACKAGES = "packaging/yumpayload.py: @core always, -name excludes, a kickstart's --nontp or exclusion keeps chrony out"
RELEASE = "centos-release and kernel of 7.9.2009, as a kickstart's %post finds them by rpm"
REQPART = "pykickstart (reqpart --add-boot): biosboot or /boot/efi as the firmware needs, and /boot"
SCRIPTS = "kickstart.py: %post runs in /mnt/sysimage, --nochroot outside; --log is written below the new root"
SERVICES = "kickstart.py: systemctl in the new root; a unit that is not there is only logged"
SSHD = "/etc/sysconfig/sshd of EL7: RSA, ECDSA and ED25519 keys are made at the first start"
STORAGE = "pykickstart (part, clearpart, ignoredisk), blivet: sizes in MiB, --grow takes the rest, xfs or ext4"
SYSTEMD = "systemd 219: an empty machine-id is filled at boot"


@dataclass(frozen=True)
class Row:
    """One thing the kickstart asked for.

    Args:
        ask: run in the installed system.
        answer: a pattern that the whole answer must match.
        source: where the expectation was read.
    """

    name: str
    ask: str
    answer: str
    source: str


COMMON = [
    Row("nothing failed", "systemctl --failed --no-legend; systemctl is-system-running --wait", "running", KDUMP),
    Row("host keys", "ls /etc/ssh/ssh_host_*_key | wc -l", "3", SSHD),
    Row("machine id", "cat /etc/machine-id", "[0-9a-f]{32}", SYSTEMD),
    Row("no traces", "ls -d /root/*ks.cfg /var/log/anaconda /opt/rehearsal 2>/dev/null | wc -l", "0", NOSAVE),
    Row("console inherited", "cat /proc/cmdline", ".*console=ttyS0,115200n8.*", BOOTLOADER),
    Row("names preserved", "cat /proc/cmdline", ".*net.ifnames=0 biosdevname=0.*", BOOTLOADER),
    Row("release", "cat /etc/centos-release", r"CentOS Linux release 7\.9\.2009 \(Core\)", RELEASE),
    Row(
        "no private key but the host's",
        "grep -rlIE '^-----BEGIN .*PRIVATE KEY-----' /etc /root /usr/lib /home | grep -v /etc/ssh/ssh_host_ | wc -l",
        "0",
        OURS,
    ),
    Row(
        "tools",
        "for t in parted xfs_growfs resize2fs blkid ssh-keygen hostnamectl; do command -v $t; done | wc -l",
        "6",
        OURS,
    ),
]
ROWS = {
    "bios": [
        *COMMON,
        Row("hostname", "hostname", r"bios\.example", NETWORK),
        Row("time zone", "readlink /etc/localtime; date +%Z", r"\S+/Europe/Berlin\nCES?T", COMMANDS),
        Row("root file system", "findmnt -no FSTYPE /", "ext4", STORAGE),
        Row("root size", "lsblk -bdno SIZE $(findmnt -no SOURCE /)", str(3000 << 20), STORAGE),
        Row("swap", "swapon --show=SIZE --noheadings", "300M", STORAGE),
        Row("service off", "systemctl is-enabled chronyd", "disabled", SERVICES),
        Row(
            "package with a service",
            "systemctl is-enabled acpid; systemctl is-active acpid.socket",
            "enabled\nactive",
            SERVICES,
        ),
        Row("package added", "rpm -q --qf '%{NAME}' tree; tree --version | wc -l", "tree1", PACKAGES),
        Row("package excluded", "rpm -q postfix", "package postfix is not installed", PACKAGES),
        Row("%post file", "cat /root/from-post /root/post.log", "written\nsaid-in-post", SCRIPTS),
        Row("%post --nochroot", "cat /root/from-nochroot", "outside", SCRIPTS),
        Row("static address", "ip -4 -o address show eth0", r".*10\.0\.2\.77/24.*", NETWORK),
        Row(
            "route and resolver",
            "ip route show default; cat /etc/resolv.conf",
            r"default via 10\.0\.2\.2 .*\n(?:.*\n)*nameserver 10\.0\.2\.3",
            NETWORK,
        ),
        Row("kernel argument", "cat /proc/cmdline", ".*audit=0.*", BOOTLOADER),
        Row("user", "id -nG worker; grep -c '^worker:[$]6[$]' /etc/shadow", "worker wheel\n1", COMMANDS),
        Row("selinux", "getenforce", "Permissive", COMMANDS),
        Row(
            "kernel by rpm",
            "test -d /lib/modules/$(rpm -q --qf '%{VERSION}-%{RELEASE}.%{ARCH}' kernel) && echo there",
            "there",
            RELEASE,
        ),
    ],
    "uefi": [
        *COMMON,
        Row("hostname", "hostname", r"uefi\.example", NETWORK),
        Row("firmware", "test -d /sys/firmware/efi && echo efi", "efi", OURS),
        Row("esp", "findmnt -no FSTYPE /boot/efi; blkid -p -s PTTYPE -o value /dev/sda", "vfat\ngpt", REQPART),
        Row("boot partition", "findmnt -no FSTYPE /boot", "xfs", REQPART),
        Row(
            "root grown",
            "test $(lsblk -bdno SIZE $(findmnt -no SOURCE /)) -gt 2700000000 && echo large",
            "large",
            STORAGE,
        ),
        Row("root file system", "findmnt -no FSTYPE /", "xfs", STORAGE),
        Row("package added", "nano --version | head -n 1 | cut -d' ' -f2,3", "GNU nano,", PACKAGES),
        Row("chrony excluded", "command -v chronyd || rpm -q chrony", "package chrony is not installed", PACKAGES),
        Row("grub2-mkconfig of %post", "cat /proc/cmdline", ".*panic=5.*", BOOTLOADER),
        Row("keymap", "cat /etc/vconsole.conf", '(?s)KEYMAP="de".*', COMMANDS),
        Row("selinux", "getenforce", "Enforcing", COMMANDS),
        Row("address by DHCP", "ip -4 -o address show eth0", r".*10\.0\.2\.15/24.*", NETWORK),
    ],
}


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's SSH key."""
    path = tmp_path_factory.mktemp("key") / "id"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "me", "-f", path])
    return path


def _ssh(vm: Machine, key: Path, script: str) -> str:
    words: list[str | Path] = [
        "-F",
        "/dev/null",
        "-i",
        key,
        "-p",
        str(vm.ssh_port),
        "-o",
        "BatchMode=yes",
        "-o",
        "ConnectTimeout=5",
    ]
    words += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "root@127.0.0.1", "sh"]

    def attempt() -> str | None:
        done = run(["ssh", *words], stdin=script, check=False)
        return None if done.status == 255 else done.stdout

    said = until(attempt, within=240, every=1)
    assert said is not None, vm.screen()[-3000:]
    return said


def answers(vm: Machine, key: Path, rows: list[Row]) -> dict[str, str]:
    """Ask a booted system, and return what it answers by row."""
    script = "".join(f"echo '<<< {number}'\n( {row.ask} ) 2>&1\n" for number, row in enumerate(rows))
    parts = re.split(r"<<< \d+\n", _ssh(vm, key, script))[1:]
    return {row.name: part.strip() for row, part in zip(rows, parts, strict=True)}


@dataclass(frozen=True)
class Installed:
    """What one install left: its console, its log, what %post said on the second line, and the booted answers."""

    screen: str
    log: str
    marker: str
    answers: dict[str, str]


@pytest.fixture(scope="module")
def installed(
    rehearsal_iso: Path, rehearsal_boot: tuple[Path, Path], key: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Installed]:
    """Install and boot one kind, once."""
    done: dict[str, Installed] = {}
    failed: set[str] = set()

    def make(kind: str) -> Installed:
        if kind in failed:
            pytest.fail(f"the {kind} install failed, see the first test that needed it")
        if kind not in done:
            failed.add(kind)
            folder = tmp_path_factory.mktemp(kind)
            text = {"bios": BIOS, "uefi": UEFI}[kind].replace("@KEY@", key.with_suffix(".pub").read_text().strip())
            cd = kickstart_cd(folder / "ks.iso", text)
            disk = empty_disk(folder / "disk.qcow2", "5G")
            boot = (*rehearsal_boot, f"{LINE} {CONSOLE}")
            efi = kind == "uefi"
            with machine(folder / "install", disk=disk, cds=[rehearsal_iso, cd], boot=boot, efi=efi) as vm:
                vm.off(within=900)
            with machine(folder / "run", disk=disk, efi=efi, net=NET[kind]) as booted:
                said = answers(booted, key, ROWS[kind])
            failed.discard(kind)
            done[kind] = Installed(vm.screen(), vm.log(), vm.screen("serial1.log"), said)
        return done[kind]

    return make


NET = {"bios": "10.0.2.77", "uefi": "10.0.2.15"}
ALL = [(kind, row) for kind, rows in ROWS.items() for row in rows]


@pytest.mark.parametrize(("kind", "row"), ALL, ids=[f"{kind}: {row.name}" for kind, row in ALL])
def test_obeys(kind: str, row: Row, installed: Callable[[str], Installed]) -> None:
    assert re.fullmatch(row.answer, installed(kind).answers[row.name]), row.source


ORDER = """Welcome to CentOS Linux 7 (Core) dracut-033-572.el7 (Initramfs)!
Starting installer, one moment...
anaconda 21.48.22.159-1 for CentOS 7 started.
Running pre-installation scripts
Not asking for VNC because
Starting automated install....
Generating updated storage configuration
Checking storage configuration...
Progress
Setting up the installation environment
Creating disklabel on /dev/sda
Creating ext4 on /dev/sda1
Starting package installation process
Preparing transaction from installation source
Installing libgcc (1/
Performing post-installation setup tasks
Installing boot loader
Configuring installed system
Writing network configuration
Creating users
Configuring addons
Generating initramfs
Running post-installation scripts
dracut Warning: Killing all remaining processes
Powering off.
Power down""".splitlines()


def test_console_lines_come_in_anacondas_order(installed: Callable[[str], Installed]) -> None:
    screen = installed("bios").screen
    places = [screen.index(words) for words in ORDER]
    assert places == sorted(places)


def test_log_port_has_lines_of_anacondas_form(installed: Callable[[str], Installed]) -> None:
    lines = installed("bios").log.splitlines()
    form = re.compile(
        r"\d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING|ERR|CRIT) (anaconda|blivet|program|packaging|ifcfg):.*"
    )
    assert [line for line in lines if not form.fullmatch(line)] == []
    assert any("packaging:" in line for line in lines)


def test_post_reaches_the_second_serial_port(installed: Callable[[str], Installed]) -> None:
    assert installed("bios").marker == "marker-line\n"
