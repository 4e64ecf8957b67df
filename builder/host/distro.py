"""The one rule: which distribution, package manager and init system this is, is decided here.

Package names: those of Debian 12 and of RHEL 9 and its kin.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from builder.host.finding import read

# What each program or purpose is called by apt and by dnf.
PACKAGES = {
    "qemu-system-x86_64": ("qemu-system-x86", "qemu-kvm"),
    "qemu-img": ("qemu-utils", "qemu-img"),
    "libvirtd": ("libvirt-daemon-system", "libvirt"),
    "virsh": ("libvirt-clients", "libvirt-client"),
    "virt-install": ("virtinst", "virt-install"),
    "dnsmasq": ("dnsmasq-base", "dnsmasq"),
    "uefi": ("ovmf", "edk2-ovmf"),
    "mcopy": ("mtools", "mtools"),
    "fsck.fat": ("dosfstools", "dosfstools"),
    "openssl": ("openssl", "openssl"),
    "gpg": ("gpg", "gnupg2"),
    "ip": ("iproute2", "iproute"),
    "semanage": ("policycoreutils-python-utils", "policycoreutils-python-utils"),
    "setpriv": ("util-linux", "util-linux"),
    "virt-manager": ("virt-manager", "virt-manager"),
}
# Found in one of these places on the distributions named above.
KVM_PROGRAM = Path("/usr/libexec/qemu-kvm")


@dataclass(frozen=True)
class System:
    """What runs this host.

    Args:
        name: as the distribution calls itself.
        manager: its package manager; None when it is neither of the known ones.
        systemd: systemd is process 1 (it is not in a chroot or most containers).
    """

    name: str
    manager: Literal["apt", "dnf"] | None
    systemd: bool


def find() -> System:
    """This host."""
    manager: Literal["apt", "dnf"] | None = None
    if program("apt-get"):
        manager = "apt"
    elif program("dnf"):
        manager = "dnf"
    return System(_name(), manager, Path("/run/systemd/system").is_dir())


def program(name: str) -> str | None:
    """Its path, also where an ordinary user's PATH leaves the system directories out."""
    return shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")


def packages(system: System, wanted: Iterable[str]) -> list[str]:
    """The names that this host's manager has for programs or purposes."""
    column = 1 if system.manager == "dnf" else 0
    return list(dict.fromkeys(PACKAGES[name][column] for name in wanted))


def install_words(system: System, names: Iterable[str]) -> list[str]:
    """The command that installs packages without asking."""
    if system.manager == "dnf":
        return ["dnf", "install", "-y", *names]
    return ["apt-get", "install", "-y", "--no-install-recommends", *names]


def install_line(system: System, wanted: Iterable[str]) -> str:
    """The same as a line for a shell; without a known manager, the names alone."""
    names = packages(system, wanted)
    return shlex.join(install_words(system, names)) if system.manager else f"install {' '.join(names)}"


def _name() -> str:
    for line in read("/etc/os-release").splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME":
            return value.strip("\"'")
    return "unknown distribution"
