# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""Plan volume groups and logical volumes, without touching a disk.

Sources: Anaconda, rhel7-branch, kickstart.py: VolGroupData, LogVolData; blivet 0.61 (rhel7-branch, partitioning.py:
growLVM, lvCompare, Chunk.growRequests; devices/lvm.py; __init__.py: suggestContainerName).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cmp_to_key
from typing import Any

from ..parse import KickstartError
from .layout import Group, Partition, Request, StorageError, Volume, Wanted
from .plan import recommended_swap, share, sign

PE_START = 1024  # KiB in front of the first extent
HOME_FROM = 50 << 10  # MiB that a group must have to get /home by itself
NO_ROOM = "not enough space for LVM requests"


def container(hostname: str) -> str:
    """The name of the group that autopart makes."""
    host = re.sub(r"[^0-9a-zA-Z._-]", "", hostname.split(".")[0].lower())
    return f"centos_{host}" if host not in ("", "localhost") else "centos"


def groups(ks: Any, pvs: Iterable[str]) -> list[Group]:
    """The volume groups of the kickstart.

    Args:
        pvs: names of the physical volumes that `part` makes.

    Raises:
        KickstartError: one that is not there, or is not possible.
    """
    made: list[Group] = []
    known = set(pvs)
    for data in ks.volgroup.vgList:
        for name in data.physvols:
            if name not in known:
                text = f'Tried to use undefined partition "{name}" in Volume Group specification'
                raise KickstartError(text, lineno=data.lineno)
        if data.vgname in {group.name for group in made}:
            raise KickstartError(f'The volume group name "{data.vgname}" is already in use.', lineno=data.lineno)
        extent = data.pesize or 4096
        if extent & (extent - 1):
            text = f'Volume group given physical extent size of "{extent} KiB", but must be a power of two.'
            raise KickstartError(text, lineno=data.lineno)
        spare = (data.reserved_space or 0, 0 if data.reserved_space else data.reserved_percent or 0)
        made.append(Group(data.vgname, tuple(data.physvols), extent, *spare))
    return made


def wanted(ks: Any, made: Sequence[Group], memory: int, free: int, fstype: str) -> list[Wanted]:
    """The logical volumes of the kickstart.

    Args:
        memory: MiB of the machine.
        free: MiB on the disks.
        fstype: where none is named.

    Raises:
        KickstartError: a group that is not there, a name twice, or no size.
    """
    asked: list[Wanted] = []
    by_name = {group.name: group for group in made}
    for data in ks.logvol.lvList:
        group = by_name.get(data.vgname)
        if group is None:
            text = f'No volume group exists with the name "{data.vgname}".  '
            raise KickstartError(f"{text}Specify volume groups before logical volumes.", lineno=data.lineno)
        if any((one.group, one.name) == (data.vgname, data.name) for one in asked):
            text = f'Logical volume name "{data.name}" is already in use in volume group "{data.vgname}".'
            raise KickstartError(text, lineno=data.lineno)
        swap = recommended_swap(memory, free, hibernation=data.hibernation)
        asked.append(_wanted(data, group, swap, fstype))
    return asked


def _wanted(data: Any, group: Group, swap: int, fstype: str) -> Wanted:
    is_swap = data.mountpoint == "swap"
    own_idea = is_swap and (data.recommended or data.hibernation)
    mount = data.mountpoint if data.mountpoint not in ("swap", "none", "None") else ""
    if mount and not mount.startswith("/"):
        raise KickstartError(f'The mount point "{mount}" is not valid.  It must start with a /.', lineno=data.lineno)
    size = swap if own_idea else 0 if data.percent else int(data.size or 0)
    grow = bool(data.grow) and not own_idea
    if not data.percent and not grow and size * 1024 < group.extent:
        text = f'Logical volume size "{size} MiB" must be larger than the volume group extent size of '
        raise KickstartError(f'{text}"{group.extent} KiB".', lineno=data.lineno)
    request = Request(
        mount,
        "swap" if is_swap else data.fstype or fstype,
        size,
        grow,
        int(data.maxSizeMB or 0),
        options=data.fsopts or "",
        label=data.label or "",
        making=data.mkfsopts or "",
    )
    return Wanted(data.vgname, data.name, request, int(data.percent or 0))


def extents(group: Group, partitions: Iterable[Partition]) -> int:
    """Return the number of extents that the volumes of a group can have."""
    total = sum((each.size * 1024 - PE_START) // group.extent for each in partitions)
    reserved = total * group.reserved_percent / 100 or group.reserved * 1024 / group.extent
    return total - -int(-reserved // 1)


def _compare(first: Wanted, second: Wanted) -> int:
    """Which one grows first: larger ones before smaller, and of equals fixed ones before growing ones."""
    one, other = first.request, second.request
    score = -100 * sign(one.size, other.size) + 50 * sign(one.grow, other.grow)
    if one.grow and other.grow:
        score -= 25 * sign(one.maxsize or float("inf"), other.maxsize or float("inf"))
    return score


def place(group: Group, room: int, asked: Sequence[Wanted]) -> list[Volume]:
    """Give every volume of a group its size.

    Args:
        room: extents.

    Raises:
        StorageError: they do not fit.
    """
    order = sorted(asked, key=cmp_to_key(_compare))
    bases = {one.name: -(-one.request.size * 1024 // group.extent) for one in order}
    free = room - sum(bases.values())
    if free < 0:
        raise StorageError(NO_ROOM)
    shares = [one for one in order if one.percent]
    if sum(one.percent for one in shares) > 100:
        raise StorageError("sum of percentages within a vg cannot exceed 100")
    for one in shares:
        bases[one.name] = one.percent * free // 100
    limits = [one.request.maxsize * 1024 // group.extent for one in order]
    growth = share(
        [bases[one.name] for one in order], [one.request.grow for one in order], limits, room - sum(bases.values())
    )
    sizes = {one.name: bases[one.name] + more for one, more in zip(order, growth, strict=True)}
    return [Volume(group, one.name, sizes[one.name], one.request) for one in asked]
