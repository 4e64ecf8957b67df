# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""Plan partitions: decide where each one goes, without touching a disk.

Sizes are MiB. Requests are placed in blivet's order, in whatever order they were written: what the boot loader needs,
/boot, fixed sizes before those that grow, larger before smaller. Those that grow share what is left in proportion to
their size, none beyond its maximum.

Sources: blivet 0.61 (rhel7-branch, partitioning.py: partitionCompare, getNextPartitionType; platform.py: weight).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cmp_to_key

from .disks import Disk
from .layout import Layout, Partition, Request, StorageError, Volume

FIRST = 1  # MiB left free before the first partition, for the boot loader and alignment
BIOSBOOT = 1
ESP = 200
ROOT = 1024
ROOT_MOST = 50 << 10  # autopart's root is never larger, and from here on there is /home
PARTITION = 500  # of a partition that says no size (blivet: PartitionDevice.defaultSize)
MIN_RAM_WITHOUT_SWAP = 520
NO_SPACE = "not enough free space on disks"


def table_type(asked: str, *, efi: bool, force_gpt: bool, largest: int) -> str:
    """The kind of partition table: msdos on BIOS unless the disk is too large for it or GPT is asked for."""
    if asked:
        return "gpt" if asked == "gpt" else "msdos"
    return "gpt" if efi or force_gpt or largest >= 2 << 20 else "msdos"


def stage1(table: str, *, efi: bool, esp: int = ESP) -> list[Request]:
    """The partition that the firmware needs (what `reqpart` makes).

    Args:
        esp: MiB of an EFI system partition.
    """
    if efi:
        return [Request("/boot/efi", "efi", esp)]
    return [Request("", "biosboot", BIOSBOOT)] if table == "gpt" else []


def recommended_swap(memory: int, disk: int, *, hibernation: bool = False) -> int:
    """The installer's own idea of swap, in MiB (blivet 0.61, devicelibs/swap.py: swapSuggestion).

    Args:
        memory: MiB of the machine.
        disk: MiB that were free before; without hibernation swap is a tenth of them at most.
    """
    size = 2 * memory if memory < 2 << 10 else memory if memory < 8 << 10 else memory // 2
    size = 4 << 10 if memory >= 64 << 10 else size
    if hibernation:
        return size + memory if memory <= 64 << 10 else size
    return min(size, max(disk // 10, 1))


def system(*, memory: int, free: int, home: bool, fstype: str) -> list[Request]:
    """Requests of every kind of autopart: root, perhaps /home, and swap (installclass.py: setDefaultPartitioning).

    Args:
        free: MiB on the disks.
        home: there is room for /home, and it is wanted.
    """
    requests = [Request("/", fstype, ROOT, grow=True, maxsize=ROOT_MOST)]
    requests += [Request("/home", fstype, 500, grow=True)] if home else []
    return [*requests, Request("", "swap", recommended_swap(memory, free))]


def _weight(request: Request) -> int:
    """Sort weight by which the platform moves a partition to the front."""
    if request.fstype in ("biosboot", "efi") or request.mount == "/boot/efi":
        return 5000
    return 2000 if request.mount == "/boot" else 0


def sign(first: float | str, second: float | str) -> int:
    """Below, equal or above: -1, 0, 1."""
    return (first > second) - (first < second)  # type: ignore[operator]


def _compare(first: Request, second: Request) -> int:
    """Which comes first, as partitionCompare adds it up: below zero for the first one."""
    score = _weight(second) - _weight(first)
    score -= 500 * sign(bool(first.disk), bool(second.disk))
    score -= 200 * sign(first.primary, second.primary)
    score += 100 * sign(first.grow, second.grow)
    score -= 50 * sign(first.size, second.size)
    if first.grow and second.grow:
        # Without a maximum it is the largest of all.
        score -= 25 * sign(first.maxsize or float("inf"), second.maxsize or float("inf"))
    if first.mount and second.mount:
        score += 10 * sign(first.mount, second.mount)
    return score


def share(bases: Sequence[int], growing: Sequence[bool], limits: Sequence[int], pool: int) -> list[int]:
    """Growth of each request, in proportion to its base (blivet: Chunk.growRequests).

    Args:
        limits: of the whole size, 0 for none.
        pool: units that are free.
    """
    growth = [0] * len(bases)
    open_ = [each for each, grows in enumerate(growing) if grows and not 0 < limits[each] <= bases[each]]

    def give(each: int, units: int) -> int:
        most = limits[each] - bases[each] - growth[each] if limits[each] else units
        growth[each] += min(units, most)
        if limits[each] and growth[each] + bases[each] >= limits[each]:
            open_.remove(each)
        return min(units, most)

    last = 0
    while open_ and pool > 0 and last != pool:
        last, total = pool, sum(bases[each] for each in open_) or 1
        for each in list(open_):
            pool -= give(each, bases[each] * last // total)
    for each in list(open_):
        pool -= give(each, pool)
    return growth


def _grow(requests: list[Request], room: int) -> list[Request]:
    sizes = [request.size for request in requests]
    growth = share(sizes, [one.grow for one in requests], [one.maxsize for one in requests], room - sum(sizes))
    return [replace(one, size=one.size + more) for one, more in zip(requests, growth, strict=True)]


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
            "lvmpv": "E6D6D379-F507-44C2-A23C-238F2A3DF928",
            "": "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
        },
        "msdos": {"swap": "82", "efi": "ef", "lvmpv": "8e", "": "83"},
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


# What may not be a file system of its own, and what must be one of Linux (storage_utils.py).
ON_ROOT = ("/bin", "/dev", "/sbin", "/etc", "/lib", "/root", "/mnt", "/proc")
ON_LINUX = ("/", "/var", "/tmp", "/usr", "/home", "/usr/share", "/usr/lib")


def check(
    layout: Layout, *, efi: bool, memory: int, loader: bool = True, product: str = "CentOS Linux"
) -> tuple[list[str], list[str]]:
    """Errors and warnings of Anaconda's check of the finished layout.

    Args:
        loader: a boot loader is to be installed.
        product: that is installed.
    """
    errors, warnings = [], []
    places = {each.request.mount: each for each in layout.formatted}
    types = {each.request.fstype for each in layout.formatted}
    if "/" not in places:
        errors.append(
            f"You have not defined a root partition (/), which is required for installation of {product} to continue."
        )
    errors += _loader_errors(layout, places, efi=efi) if loader else []
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
    for mount, each in places.items():
        if mount in ON_ROOT:
            errors.append(f"This mount point is invalid. The {mount} directory must be on the / file system.")
        if mount in ON_LINUX and each.request.fstype in ("vfat", "efi"):
            errors.append(f"The mount point {mount} must be on a linux file system.")
    return errors, warnings


def _loader_errors(layout: Layout, places: dict[str, Partition | Volume], *, efi: bool) -> list[str]:
    errors = []
    kinds = {partition.request.fstype for partition in layout.partitions}
    if efi and not (places.get("/boot/efi") and places["/boot/efi"].request.fstype == "efi"):
        errors.append(
            "No valid boot loader target device found. See below for details.\n"
            "For a UEFI installation, you must include an EFI System Partition on a GPT-formatted disk, mounted at "
            "/boot/efi."
        )
    if not efi and layout.table == "gpt" and "biosboot" not in kinds:
        errors.append(
            "Your BIOS-based system needs a special partition to boot from a GPT disk label. To continue, please "
            "create a 1MiB 'biosboot' type partition."
        )
    if isinstance(places.get("/boot") or places.get("/"), Volume):
        errors.append("/boot file system cannot be of type lvmlv")
    return errors
