# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""The layout of the disks: partitions, volume groups and logical volumes, as asked for and with their places.

Sizes are MiB, extents of volume groups KiB.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# Partitions without a file system of their own.
BARE = ("biosboot", "lvmpv")


class StorageError(Exception):
    """The layout cannot be made; the text is what Anaconda shows."""


@dataclass(frozen=True)
class Request:
    """A partition or volume that is asked for.

    Args:
        mount: mount point; `swap` and `biosboot` have none and are their own fstype.
        maxsize: MiB, 0 for no limit.
        disk: on this disk only.
        options: mount options, empty for the file system's defaults.
        label: of the file system.
        making: options for the program that makes the file system.
        pv: the name of a physical volume (`pv.01`).
    """

    mount: str
    fstype: str
    size: int
    grow: bool = False
    maxsize: int = 0
    disk: str = ""
    primary: bool = False
    options: str = ""
    label: str = ""
    making: str = ""
    pv: str = ""


@dataclass(frozen=True)
class Partition:
    """A partition with its place.

    Args:
        number: in the table; 4 is skipped on msdos when it is the extended one's.
        start: MiB from the start of the disk.
    """

    disk: str
    number: int
    start: int
    size: int
    logical: bool
    request: Request

    @property
    def node(self) -> str:
        """Its device node."""
        between = "p" if self.disk[-1].isdigit() else ""
        return f"/dev/{self.disk}{between}{self.number}"


@dataclass(frozen=True)
class Group:
    """A volume group.

    Args:
        pvs: names of its physical volumes.
        extent: KiB.
        reserved: MiB that no volume gets.
        reserved_percent: the same as a share of it.
    """

    name: str
    pvs: tuple[str, ...]
    extent: int = 4096
    reserved: int = 0
    reserved_percent: int = 0


@dataclass(frozen=True)
class Wanted:
    """A logical volume that is asked for; `percent` is of what is free in its group."""

    group: str
    name: str
    request: Request
    percent: int = 0


@dataclass(frozen=True)
class Volume:
    """A logical volume with its size in extents."""

    group: Group
    name: str
    extents: int
    request: Request

    @property
    def node(self) -> str:
        """Its device node, as the device mapper names it: hyphens doubled."""
        return f"/dev/mapper/{self.group.name.replace('-', '--')}-{self.name.replace('-', '--')}"

    @property
    def size(self) -> int:
        """MiB."""
        return self.extents * self.group.extent // 1024


@dataclass(frozen=True)
class Layout:
    """Partitions, volumes and file systems to be written to the disks.

    Args:
        table: `msdos` or `gpt`.
        disks: those that get a new table.
        boot: the disk the boot loader goes to.
    """

    table: str
    disks: tuple[str, ...]
    boot: str
    partitions: tuple[Partition, ...] = field(default=())
    groups: tuple[Group, ...] = field(default=())
    volumes: tuple[Volume, ...] = field(default=())

    @property
    def formatted(self) -> tuple[Partition | Volume, ...]:
        """All that gets a file system or swap."""
        return (*(each for each in self.partitions if each.request.fstype not in BARE), *self.volumes)

    def physical(self, group: Group) -> list[Partition]:
        """The partitions of a group."""
        return [each for each in self.partitions if each.request.pv in group.pvs and each.request.pv]
