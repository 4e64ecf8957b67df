"""Detect this host's distribution, package manager and init system, and the packages it lacks."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.host.finding import read
from builder.system import packages, process
from builder.system.packages import Manager

# Where RHEL and its kin keep QEMU: not on PATH, since only libvirt is meant to run it.
KVM_PROGRAM = Path("/usr/libexec/qemu-kvm")


@dataclass(frozen=True)
class System:
    """Distribution of this host.

    Args:
        name: as the distribution calls itself.
        manager: its package manager; None when it is neither of the known ones.
        systemd: systemd is process 1 (it is not in a chroot or most containers).
    """

    name: str
    manager: Manager | None
    systemd: bool


def find() -> System:
    """Look at this host."""
    return System(_name(), packages.manager(), Path("/run/systemd/system").is_dir())


def program(name: str) -> str | None:
    """Find a program, QEMU also where RHEL and its kin keep it."""
    found = packages.find_program(name)
    if found is None and name == "qemu-system-x86_64" and KVM_PROGRAM.exists():
        return str(KVM_PROGRAM)
    return found


def present(wanted: str) -> bool:
    """Tell whether a program is installed, or a file of this path is there."""
    return Path(wanted).exists() if wanted.startswith("/") else program(wanted) is not None


def missing_packages(manager: Manager, names: Sequence[str]) -> list[str]:
    """List those packages that are not installed, as the Makefile does.

    Raises:
        HostError: there is neither dpkg-query nor rpm.
    """
    if manager == "dnf":
        # A name may be provided by a package of another name: python3.12 by EL10's python3.
        query = ["rpm", "--query", "--quiet", "--whatprovides"]
        return [name for name in names if process.run([*query, name], check=False).status != 0]
    shown = process.run(
        ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n", *names], check=False
    ).stdout
    return [name for name in names if f"{name} installed" not in shown.splitlines()]


def install_words(manager: Manager | None, names: Iterable[str]) -> list[str]:
    """Return the command that installs packages without asking."""
    if manager == "dnf":
        return ["dnf", "install", "-y", *names]
    return ["apt-get", "install", "-y", "--no-install-recommends", *names]


def install_line(system: System, wanted: Iterable[str]) -> str:
    """Return a line for a shell that installs what brings programs or files; without a known manager, names alone."""
    names = packages.naming(wanted, system.manager)
    return shlex.join(install_words(system.manager, names)) if system.manager else f"install {' '.join(names)}"


def _name() -> str:
    for line in read("/etc/os-release").splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME":
            return value.strip("\"'")
    return "unknown distribution"
