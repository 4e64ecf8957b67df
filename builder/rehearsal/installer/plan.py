# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""Plan partitions: decide where each one goes, without touching a disk.

Sizes are MiB. Requests are placed in blivet's order, in whatever order they were written: what the boot loader needs,
/boot, fixed sizes before those that grow, larger before smaller. Those that grow share what is left in proportion to
their size, none beyond its maximum.

Sources: blivet 0.61 (rhel7-branch, partitioning.py: partitionCompare, getNextPartitionType; platform.py: weight).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cmp_to_key

from .disks import Disk

FIRST = 1  # MiB left free before the first partition, for the boot loader and alignment
BIOSBOOT = 1
ESP = 200
BOOT = 1024
ROOT = 1024
MIN_RAM_WITHOUT_SWAP = 520
NO_SPACE = "not enough free space on disks"


class StorageError(Exception):
    """The layout cannot be made; the text is what Anaconda shows."""


@dataclass(frozen=True)
class Request:
    """A partition that is asked for.

    Args:
        mount: mount point; `swap` and `biosboot` have none and are their own fstype.
        maxsize: MiB, 0 for no limit.
        disk: on this disk only.
        options: mount options, empty for the file system's defaults.
        label: of the file system.
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
class Layout:
    """Partitions and file systems to be written to the disks.

    Args:
        table: `msdos` or `gpt`.
        disks: those that get a new table.
        boot: the disk the boot loader goes to.
    """

    table: str
    disks: tuple[str, ...]
    boot: str
    partitions: tuple[Partition, ...] = field(default=())


def table_type(asked: str, *, efi: bool, force_gpt: bool, largest: int) -> str:
    """The kind of partition table: msdos on BIOS unless the disk is too large for it or GPT is asked for."""
    if asked:
        return "gpt" if asked == "gpt" else "msdos"
    return "gpt" if efi or force_gpt or largest >= 2 << 20 else "msdos"


def stage1(table: str, *, efi: bool) -> list[Request]:
    """The partition that the firmware needs (what `reqpart` makes)."""
    if efi:
        return [Request("/boot/efi", "efi", ESP)]
    return [Request("", "biosboot", BIOSBOOT)] if table == "gpt" else []


def recommended_swap(memory: int) -> int:
    """The installer's own idea of swap, in MiB, for so much memory."""
    if memory < 2 << 10:
        return 2 * memory
    if memory < 8 << 10:
        return memory
    return min(memory // 2, 64 << 10)


def automatic(table: str, *, efi: bool, memory: int, free: int, home: bool, fstype: str) -> list[Request]:
    """Partitions that `autopart --type=plain` requests."""
    swap = min(recommended_swap(memory), max(free // 10, 1))
    requests = [*stage1(table, efi=efi), Request("/boot", fstype, BOOT)]
    if home and free > 50 << 10:
        requests += [
            Request("/", fstype, ROOT, grow=True, maxsize=50 << 10),
            Request("/home", fstype, 500, grow=True),
        ]
    else:
        requests += [Request("/", fstype, ROOT, grow=True)]
    return [*requests, Request("", "swap", swap)]


def _weight(request: Request) -> int:
    """Sort weight by which the platform moves a partition to the front."""
    if request.fstype in ("biosboot", "efi") or request.mount == "/boot/efi":
        return 5000
    return 2000 if request.mount == "/boot" else 0


def _sign(first: float | str, second: float | str) -> int:
    return (first > second) - (first < second)  # type: ignore[operator]


def _compare(first: Request, second: Request) -> int:
    """Which comes first, as partitionCompare adds it up: below zero for the first one."""
    score = _weight(second) - _weight(first)
    score -= 500 * _sign(bool(first.disk), bool(second.disk))
    score -= 200 * _sign(first.primary, second.primary)
    score += 100 * _sign(first.grow, second.grow)
    score -= 50 * _sign(first.size, second.size)
    if first.grow and second.grow:
        # Without a maximum it is the largest of all.
        score -= 25 * _sign(first.maxsize or float("inf"), second.maxsize or float("inf"))
    if first.mount and second.mount:
        score += 10 * _sign(first.mount, second.mount)
    return score


def _grow(requests: list[Request], room: int) -> list[Request]:
    sizes = [request.size for request in requests]
    spare = room - sum(sizes)
    open_ = [number for number, request in enumerate(requests) if request.grow]
    while spare > 0 and open_:
        total = sum(sizes[number] or 1 for number in open_)
        shares = {number: max(spare * (sizes[number] or 1) // total, 1) for number in open_}
        for number in list(open_):
            limit = requests[number].maxsize
            more = min(shares[number], spare, limit - sizes[number] if limit else spare)
            sizes[number] += more
            spare -= more
            if limit and sizes[number] >= limit:
                open_.remove(number)
    return [replace(request, size=size) for request, size in zip(requests, sizes, strict=True)]


def place(requests: list[Request], disks: list[Disk], *, table: str, boot: str) -> Layout:
    """Give every request a place on the (empty) disks.

    Raises:
        StorageError: they do not fit.
    """
    if not disks:
        raise StorageError("No disks detected.")
    shares: dict[str, list[Request]] = {disk.name: [] for disk in disks}
    left = {disk.name: disk.size - FIRST - 1 for disk in disks}
    for request in sorted(requests, key=cmp_to_key(_compare)):
        names = [request.disk] if request.disk else [boot, *(name for name in shares if name != boot)]
        home = next((name for name in names if left.get(name, -1) >= request.size), None)
        if home is None:
            raise StorageError(NO_SPACE)
        shares[home].append(request)
        left[home] -= request.size
    partitions: list[Partition] = []
    for disk in disks:
        partitions += _lay(disk, shares[disk.name], table)
    used = tuple(name for name, mine in shares.items() if mine)
    return Layout(table, used, boot, tuple(partitions))


def _numbers(requests: list[Request], table: str) -> list[int]:
    """The number of each in the table.

    msdos has four places. The last one is kept for an extended partition, which has all others in it, from 5 on; only a
    request for a primary one can have it.

    Raises:
        StorageError: there is no place left.
    """
    if table == "gpt":
        return [number for number, _ in enumerate(requests, start=1)]
    numbers: list[int] = []
    for request in requests:
        count = len(numbers)
        if count < 3 or (count == 3 and request.primary):
            numbers.append(count + 1)
        elif request.primary or 4 in numbers:
            raise StorageError("Unable to allocate requested partition scheme.")
        else:
            numbers.append(max(numbers[-1], 4) + 1)
    return numbers


def _lay(disk: Disk, requests: list[Request], table: str) -> list[Partition]:
    numbers = _numbers(requests, table)
    logical = [table == "msdos" and number > 4 for number in numbers]
    lost = sum(logical)  # a MiB in front of each logical one, for its own link
    end = FIRST if table == "msdos" else FIRST + 1  # a GPT ends in its own copy
    grown = _grow(requests, disk.size - end - lost)
    if sum(request.size for request in grown) > disk.size - end - lost:
        raise StorageError(NO_SPACE)
    laid, start = [], FIRST
    for request, number, inside in zip(grown, numbers, logical, strict=True):
        start += inside
        laid.append(Partition(disk.name, number, start, request.size, inside, request))
        start += request.size
    return laid


def script(layout: Layout, disk: str) -> str:
    """The input of sfdisk for one disk."""
    kinds = {
        "gpt": {
            "biosboot": "21686148-6449-6E6F-744E-656564454649",
            "efi": "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
            "swap": "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F",
            "": "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
        },
        "msdos": {"swap": "82", "efi": "ef", "": "83"},
    }[layout.table]
    lines = [f"label: {'dos' if layout.table == 'msdos' else 'gpt'}", ""]
    mine = [partition for partition in layout.partitions if partition.disk == disk]
    for partition in mine:
        if partition.logical and not any("type=5" in line for line in lines):
            lines.append(f"4 : start={partition.start - 1}MiB, type=5")
        kind = kinds.get(partition.request.fstype, kinds[""])
        active = layout.table == "msdos" and partition.number == 1 and disk == layout.boot
        lines.append(
            f"{partition.number} : start={partition.start}MiB, size={partition.size}MiB, type={kind}"
            f"{', bootable' if active else ''}"
        )
    return "\n".join([*lines, ""])


def check(layout: Layout, *, efi: bool, memory: int) -> tuple[list[str], list[str]]:
    """Errors and warnings of Anaconda's check of the finished layout."""
    errors, warnings = [], []
    mounts = {partition.request.mount for partition in layout.partitions}
    types = {partition.request.fstype for partition in layout.partitions}
    if "/" not in mounts:
        errors.append(
            "You have not defined a root partition (/), which is required for installation of CentOS Linux to continue."
        )
    if efi and not any(p.request.fstype == "efi" and p.request.mount == "/boot/efi" for p in layout.partitions):
        errors.append(
            "No valid boot loader target device found. See below for details.\n"
            "For a UEFI installation, you must include an EFI System Partition on a GPT-formatted disk, mounted at "
            "/boot/efi."
        )
    if not efi and layout.table == "gpt" and "biosboot" not in types:
        errors.append(
            "Your BIOS-based system needs a special partition to boot from a GPT disk label. To continue, please "
            "create a 1MiB 'biosboot' type partition."
        )
    if "swap" not in types:
        if memory < MIN_RAM_WITHOUT_SWAP:
            errors.append(
                f"You have not specified a swap partition.  {MIN_RAM_WITHOUT_SWAP} MiB of memory is required to "
                f"continue installation without a swap partition, but you only have {memory} MiB."
            )
        else:
            warnings.append(
                "You have not specified a swap partition.  Although not strictly required in all cases, it will "
                "significantly improve performance for most installations."
            )
    return errors, warnings
