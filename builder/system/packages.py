"""Names of the packages that bring what builder needs of a host, for apt and for dnf.

Invariant: `packages.txt` is the only list; the Makefile reads the same file, before there is a Python.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Manager = Literal["apt", "dnf"]

TABLE = Path(__file__).with_name("packages.txt")
NONE = "-"


@dataclass(frozen=True)
class Package:
    """A row of the table.

    Args:
        section: what it is for, as the head of the table lists them.
        apt: its name for apt; None where Debian has none or needs none.
        dnf: its name for dnf; None likewise.
        brings: programs, absolute paths, and `uefi`.
    """

    section: str
    apt: str | None
    dnf: str | None
    brings: tuple[str, ...]

    def name(self, manager: Manager | None) -> str | None:
        """Return its name for a package manager; apt's where the manager is unknown."""
        return self.dnf if manager == "dnf" else self.apt


@functools.cache
def table() -> tuple[Package, ...]:
    """Read the table."""
    lines = (line.split() for line in TABLE.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    rows = filter(None, lines)
    return tuple(Package(section, _or_none(apt), _or_none(dnf), tuple(brings)) for section, apt, dnf, *brings in rows)


def _or_none(name: str) -> str | None:
    return None if name == NONE else name


def find_program(name: str) -> str | None:
    """Find a program on PATH or in the system directories that an ordinary user's PATH leaves out."""
    return shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")


def manager() -> Manager | None:
    """Return the package manager of this host; None when it is neither apt nor dnf."""
    if find_program("apt-get"):
        return "apt"
    return "dnf" if find_program("dnf") else None


def in_sections(sections: Collection[str], manager: Manager) -> list[str]:
    """List the packages of some sections, by the names that a manager has for them."""
    names = (package.name(manager) for package in table() if package.section in sections)
    return [name for name in names if name]


def brought_by(sections: Collection[str]) -> list[str]:
    """List the programs and files that the packages of some sections bring."""
    return [each for package in table() if package.section in sections for each in package.brings]


def naming(wanted: Iterable[str], manager: Manager | None) -> list[str]:
    """Name the packages that bring programs, files or `uefi`; what no package of the table brings names itself."""
    names = [_package_of(each, manager) or each for each in wanted]
    return list(dict.fromkeys(names))


def hint(*wanted: str) -> str:
    """Return the command that installs what brings these, for this host's package manager.

    Args:
        wanted: programs, absolute paths, or `uefi`.
    """
    found = manager()
    names = [_package_of(each, found) for each in wanted]
    if found is None or None in names:
        return f"install the packages that bring {' '.join(wanted)}"
    return " ".join(["apt-get" if found == "apt" else "dnf", "install", *naming(wanted, found)])


def _package_of(wanted: str, manager: Manager | None) -> str | None:
    return next((package.name(manager) for package in table() if wanted in package.brings), None)
