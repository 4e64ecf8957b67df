"""The rehearsals of Enterprise Linux 8 to 10 and of Fedora obey the kickstart and leave the files of their release.

One install a release, BIOS and UEFI in turn. Each row names where its expectation was read: a bare file name is one of
Anaconda's branches rhel-8 (33.16.10.5), rhel-9 (34.25.7.19) and rhel-10 (40.22.3.57), below pyanaconda/.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.rehearsal.shapes import SHAPES
from builder.releases import Name
from tests.conftest import Rehearsal
from tests.rehearsal.failing import CONSOLE, stage2
from tests.rehearsal.machine import boot_files, empty_disk, kickstart_cd, machine
from tests.rehearsal.test_obeys import Row, answers, key

pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(2400)]
__all__ = ["key"]

KICKSTART = """cmdline
cdrom
lang en_US.UTF-8
keyboard --vckeymap=us
timezone Europe/Berlin --utc
{more}
network {network} --device=eth0 --hostname={name}.example
sshkey --username=root "@KEY@"
selinux --enforcing
services --disabled=chronyd
ignoredisk --only-use=disk/by-id/*BUILDER-SYSTEM*
zerombr
clearpart --all --initlabel
reqpart
part / --fstype=xfs --size=2000 --grow
bootloader --timeout=1 --append="audit=0"
poweroff
%packages
@core
chrony
tree
%end
%addon com_redhat_kdump --disable
%end
%post --erroronfail
ls /root > /root/seen-by-post
: > /etc/machine-id
%end
"""
STATIC = "--bootproto=static --ip=10.0.2.77 --netmask=255.255.255.0 --gateway=10.0.2.2 --nameserver=10.0.2.3"
DHCP = "--bootproto=dhcp --onboot=on"
PLAIN = "rootpw --plaintext secret12"
KEYFILE = "/etc/NetworkManager/system-connections/eth0.nmconnection"
IFCFG = "/etc/sysconfig/network-scripts/ifcfg-eth0"

FILES = "rhel-8 modules/network/installation.py; rhel-9 modules/network/config_file.py: ifcfg, then keyfiles"
KEYS = "openssh of EL8: sshd-keygen.target, sshd-keygen@.service"
LABEL = "blivet of EL10: GPT for BIOS, too; reqpart makes biosboot"
ORDER = "rhel-8 installation.py, rhel-9 installation.py: the kickstart is stored before %post"
PLATFORM = "modules/storage/platform.py: 200 MiB, from EL10 on 500"
PRESERVED = "data/anaconda.conf: preserved_arguments"
ROOT = "modules/users/installation.py: ConfigureRootPasswordSSHLoginTask"
VENDOR = "redhat-release, os-release of the vendors' media"


def _common(release: Name) -> list[Row]:
    shape = SHAPES[release]
    return [
        Row("nothing failed", "systemctl --failed --no-legend; systemctl is-system-running --wait", "running", KEYS),
        Row("host keys", "ls /etc/ssh/ssh_host_*_key | wc -l", "3", KEYS),
        Row("release", "cat /etc/redhat-release", re.escape(shape.system), VENDOR),
        Row("os-release", ". /etc/os-release; echo $ID $VERSION_ID", f"{shape.os_id} {shape.version}", VENDOR),
        Row("hostname", "hostname", rf"{release}\.example", FILES),
        Row(
            "network service",
            "systemctl is-active NetworkManager; systemctl cat network",
            r"(?s)active\n.*No files.*",
            FILES,
        ),
        Row("service off", "systemctl is-enabled chronyd", "disabled", "modules/services/installation.py"),
        Row("package", "rpm -q --qf '%{NAME} ' tree dnf; tree --version | wc -l", "tree dnf 1", VENDOR),
        Row("kickstart before %post", "cat /root/seen-by-post", "(?s).*anaconda-ks.cfg.*", ORDER),
        Row("kernel line", "cat /proc/cmdline", r".*audit=0 .*console=ttyS0,115200n8.*", PRESERVED),
    ]


@dataclass(frozen=True)
class Column:
    """One release: its kickstart, its firmware, the address that it is reached at, and what is asked of it."""

    network: str
    more: str
    efi: bool
    address: str
    rows: tuple[Row, ...]


STUB = "cat /boot/efi/EFI/*/grub.cfg; grep -c menuentry /boot/grub2/grub.cfg"
COLUMNS: dict[Name, Column] = {
    "el8": Column(
        STATIC,
        PLAIN,
        False,
        "10.0.2.77",
        (
            Row("ifcfg", f"grep -c IPADDR {IFCFG}; ls {KEYFILE}", "(?s)1\n.*cannot access.*", FILES),
            Row("address", "ip -4 -o address show eth0", r".*10\.0\.2\.77/24.*", FILES),
            Row("disk label", "blkid -p -s PTTYPE -o value /dev/sda", "dos", LABEL),
        ),
    ),
    "el9": Column(
        STATIC,
        f"{PLAIN} --allow-ssh\ntimesource --ntp-server=ntp.example",
        True,
        "10.0.2.77",
        (
            Row(
                "keyfile",
                f"stat -c %a {KEYFILE}; grep address1 {KEYFILE}",
                "600\naddress1=10.0.2.77/24,10.0.2.2",
                FILES,
            ),
            Row("no ifcfg", f"ls {IFCFG}", ".*cannot access.*", FILES),
            Row("address", "ip -4 -o address show eth0", r".*10\.0\.2\.77/24.*", FILES),
            Row("resolver", "cat /etc/resolv.conf", r"(?s).*nameserver 10\.0\.2\.3.*", FILES),
            Row("esp", "lsblk -bdno SIZE $(findmnt -no SOURCE /boot/efi)", str(200 << 20), PLATFORM),
            Row("grub.cfg of UEFI", STUB, r"(?s)search .*configfile \(\$dev\)/boot/grub2/grub.cfg\n1", "grub2 of EL9"),
            Row("root over SSH", "sshd -T | grep -i ^permitrootlogin", "permitrootlogin yes", ROOT),
            Row("time source", "grep -c ntp.example /etc/chrony/chrony.conf", "1", "modules/timezone/installation.py"),
        ),
    ),
    "el10": Column(
        DHCP,
        PLAIN,
        False,
        "10.0.2.15",
        (
            Row(
                "disk label",
                "blkid -p -s PTTYPE -o value /dev/sda; lsblk -bno SIZE /dev/sda1",
                f"gpt\n{1 << 20}",
                LABEL,
            ),
            Row("keyfile", f"grep -c method=auto {KEYFILE}", "2", FILES),
            Row(
                "root over SSH",
                "sshd -T | grep -i ^permitrootlogin",
                "permitrootlogin (without|prohibit)-password",
                ROOT,
            ),
        ),
    ),
    "fedora": Column(
        DHCP,
        PLAIN,
        True,
        "10.0.2.15",
        (
            Row("esp", "lsblk -bdno SIZE $(findmnt -no SOURCE /boot/efi)", str(500 << 20), PLATFORM),
            Row("keyfile", f"grep -c method=auto {KEYFILE}", "2", FILES),
        ),
    ),
}
ROWS = {release: [*_common(release), *column.rows] for release, column in COLUMNS.items()}
ALL = [(release, row) for release, rows in ROWS.items() for row in rows]


@pytest.fixture(scope="module")
def installed(
    rehearsal_of: Rehearsal, key: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Name], dict[str, str]]:
    """Install and boot one release, once; the answers by row."""
    done: dict[Name, dict[str, str] | None] = {}

    def make(release: Name) -> dict[str, str]:
        if release not in done:
            done[release] = None
            folder, column, iso = tmp_path_factory.mktemp(release), COLUMNS[release], rehearsal_of(release)
            text = KICKSTART.format(more=column.more, network=column.network, name=release)
            text = text.replace("@KEY@", key.with_suffix(".pub").read_text().strip())
            cd, disk = kickstart_cd(folder / "ks.iso", text), empty_disk(folder / "disk.qcow2", "5G")
            line = f"{stage2(release)} inst.ks=hd:LABEL=BUILDER_KS:/ks.cfg {CONSOLE}"
            boot = (*boot_files(iso, folder), line)
            with machine(folder / "install", disk=disk, cds=[iso, cd], boot=boot, efi=column.efi) as vm:
                vm.off(within=600)
            with machine(folder / "run", disk=disk, efi=column.efi, net=column.address) as booted:
                done[release] = answers(booted, key, ROWS[release])
        found = done[release]
        if found is None:
            pytest.fail(f"the install of {release} failed, see the first test that needed it")
        return found

    return make


@pytest.mark.parametrize(("release", "row"), ALL, ids=[f"{release}: {row.name}" for release, row in ALL])
def test_a_release_obeys(release: Name, row: Row, installed: Callable[[Name], dict[str, str]]) -> None:
    assert re.fullmatch(row.answer, installed(release)[row.name]), row.source
