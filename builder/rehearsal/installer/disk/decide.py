# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""Decide what is to be on the disks: what the kickstart asks for, and which disks it gives free.

Invariant: a disk that the kickstart did not give free is in no layout.

Sources: Anaconda, rhel7-branch, kickstart.py: doKickstartStorage, PartitionData; blivet 0.61 (rhel7-branch,
partitioning.py: doAutoPartition).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ..parse import KickstartError, constants
from . import lvm, plan
from .disks import Disk, matches
from .layout import Group, Layout, Request, StorageError, Wanted

FILE_SYSTEMS = ("xfs", "ext4", "ext3", "ext2", "swap", "efi", "vfat")
DEFAULT_FS = "xfs"
One = TypeVar("One", Request, Wanted)


@dataclass(frozen=True)
class Machine:
    """Facts about the hardware that decide the layout.

    Args:
        efi: booted by UEFI firmware.
        memory: MiB.
        gpt: inst.gpt was given, or it is what the release makes in any case.
    """

    efi: bool
    memory: int
    gpt: bool


def _names(ks: Any, specifications: list[str], disks: list[Disk], command: str) -> list[str]:
    found: list[str] = []
    for specification in specifications:
        matched = matches(specification, disks)
        if not matched:
            lineno = getattr(ks, command).lineno or 0
            text = f'Disk "{specification}" given in {command} command does not exist.'
            raise KickstartError(text, lineno=lineno)
        found += [name for name in matched if name not in found]
    return found


def usable(ks: Any, disks: list[Disk]) -> list[Disk]:
    """The disks that ignoredisk leaves. A disk labelled OEMDRV is never used.

    Raises:
        KickstartError: a disk it names is not there.
    """
    ignored = _names(ks, ks.ignoredisk.ignoredisk, disks, "ignoredisk")
    only = _names(ks, ks.ignoredisk.onlyuse, disks, "ignoredisk")
    _names(ks, ks.clearpart.drives, disks, "clearpart")
    return [
        disk
        for disk in disks
        if disk.name not in ignored and (not only or disk.name in only) and "LABEL=OEMDRV" not in disk.holds
    ]


def _kind(data: Any) -> str:
    if "biosboot" in (data.mountpoint, data.fstype):
        return "biosboot"
    if data.mountpoint.startswith("pv."):
        return "lvmpv"
    if data.mountpoint == "/boot/efi":
        return "efi"
    return "swap" if data.mountpoint == "swap" else data.fstype or DEFAULT_FS


def refuse(ks: Any) -> None:
    """Stop at what this installer cannot make, before anything is done.

    Raises:
        KickstartError: a file system that it does not know, or a partition that is no partition of its own.
    """
    for data in (*ks.partition.partitions, *ks.logvol.lvList):
        known = data.mountpoint.startswith(("/", "pv.")) or data.mountpoint in ("swap", "biosboot", "None", "none")
        if not known or _kind(data) not in (*FILE_SYSTEMS, "biosboot", "lvmpv"):
            text = f"the rehearsal cannot make this: {data.mountpoint} {data.fstype}"
            raise KickstartError(text.strip(), lineno=data.lineno)


def _last_of_each(asked: Sequence[One]) -> list[One]:
    """The requests that remain when a mount point is claimed more than once: the last one has it."""
    seen: set[str] = set()
    kept: list[One] = []
    for one in reversed(asked):
        mount = (one.request if isinstance(one, Wanted) else one).mount
        if mount not in seen:
            kept.insert(0, one)
        seen |= {mount} if mount else set()
    return kept


def _partition(data: Any, disks: list[Disk], memory: int) -> Request:
    kind, on = _kind(data), ""
    if data.disk:
        found = matches(data.disk, disks)
        if not found:
            raise KickstartError(f'Disk "{data.disk}" given in part command does not exist.', lineno=data.lineno)
        on = found[0]
    size, grow = int(data.size or plan.PARTITION), bool(data.grow)
    if kind == "swap" and (data.recommended or data.hibernation):
        free = sum(disk.size for disk in disks)
        size, grow = plan.recommended_swap(memory, free, hibernation=data.hibernation), False
    return Request(
        data.mountpoint if data.mountpoint.startswith("/") else "",
        kind,
        size,
        grow,
        int(data.maxSizeMB or 0),
        on,
        data.primOnly,
        "defaults,uid=0,gid=0,umask=0077,shortname=winnt" if kind == "efi" else data.fsopts or "",
        data.label or "",
        data.mkfsopts or "",
        data.mountpoint if kind == "lvmpv" else "",
    )


def requests(ks: Any, disks: list[Disk], table: str, machine: Machine) -> list[Request]:
    """Every partition that part, reqpart and autopart ask for.

    Raises:
        KickstartError: a disk that is not there, or a physical volume twice.
    """
    asked: list[Request] = []
    if ks.autopart.autopart:
        asked += plan.stage1(table, efi=machine.efi, esp=ks.release.esp)
        asked.append(Request("/boot", DEFAULT_FS, ks.release.boot))
        if by_volumes(ks):
            for disk in disks:
                asked.append(Request("", "lvmpv", plan.PARTITION, True, disk=disk.name, pv=f"pv.{disk.name}"))
        else:
            largest = sorted(disk.size for disk in disks)[-2:]
            asked += _system(ks, disks, machine, sum(largest))
    if ks.reqpart.reqpart:
        asked += plan.stage1(table, efi=machine.efi, esp=ks.release.esp)
        if ks.reqpart.addBoot:
            asked.append(Request("/boot", DEFAULT_FS, ks.release.boot))
    for data in ks.partition.partitions:
        made = _partition(data, disks, machine.memory)
        if made.pv and made.pv in {one.pv for one in asked}:
            raise KickstartError(f'PV partition "{made.pv}" is defined multiple times.', lineno=data.lineno)
        asked.append(made)
    return _last_of_each(asked)


def by_volumes(ks: Any) -> bool:
    """Is autopart to make logical volumes? It is when it says nothing of it (Anaconda: Blivet.autoPartType)."""
    return bool(ks.autopart.autopart) and ks.autopart.type in (None, constants.AUTOPART_TYPE_LVM)


def _system(ks: Any, disks: list[Disk], machine: Machine, room: int) -> list[Request]:
    """Root, swap and perhaps /home, for which there must be room (MiB)."""
    home = room >= lvm.HOME_FROM and not ks.autopart.nohome
    free = sum(disk.size for disk in disks)
    return plan.system(memory=machine.memory, free=free, home=home, fstype=ks.autopart.fstype or DEFAULT_FS)


def with_volumes(ks: Any, made: Layout, disks: list[Disk], machine: Machine) -> Layout:
    """Add groups and volumes to the partitions.

    Raises:
        StorageError: they do not fit.
        KickstartError: they are not possible.
    """
    pvs = [each.request.pv for each in made.partitions if each.request.pv]
    groups = lvm.groups(ks, pvs)
    if by_volumes(ks):
        hosts = [data.hostname for data in ks.network.network if data.hostname]
        groups.insert(0, Group(lvm.container(hosts[-1] if hosts else ""), tuple(pvs)))
    made = replace(made, groups=tuple(groups))
    room = {group.name: lvm.extents(group, made.physical(group)) for group in groups}
    free = sum(disk.size for disk in disks)
    asked = lvm.wanted(ks, groups, machine.memory, free, DEFAULT_FS)
    if by_volumes(ks):
        size = room[groups[0].name] * groups[0].extent // 1024
        names = {"/": "root", "/home": "home", "": "swap"}
        system = _system(ks, disks, machine, size)
        asked = [*(Wanted(groups[0].name, names[one.mount], one) for one in system), *asked]
    asked = _last_of_each(asked)
    volumes = [
        volume
        for group in groups
        for volume in lvm.place(group, room[group.name], [one for one in asked if one.group == group.name])
    ]
    claimed = {volume.request.mount for volume in volumes} - {""}
    kept = tuple(each for each in made.partitions if each.request.mount not in claimed)
    return replace(made, partitions=kept, volumes=tuple(volumes))


def _cleared(clear: Any, disk: Disk) -> bool:
    """Does clearpart take everything off the disk? One that keeps anything is left alone: only whole disks are used.

    blivet 0.61 (rhel7-branch, __init__.py: shouldClear): --linux takes partitions that are Linux's own, --list those it
    names.
    """
    if clear.type == constants.CLEARPART_TYPE_ALL:
        return True
    taken: set[str] = set()
    if clear.type == constants.CLEARPART_TYPE_LINUX:
        taken = set(disk.linux)
    elif clear.type == constants.CLEARPART_TYPE_LIST:
        taken = {name.removeprefix("/dev/") for name in clear.devices}
    return bool(disk.partitions) and taken >= set(disk.partitions)


def layout(ks: Any, disks: list[Disk], machine: Machine) -> Layout:
    """Decide the whole layout.

    Raises:
        StorageError: it does not fit, or a disk is not free to use.
        KickstartError: see `requests`.
    """
    if not disks:
        raise StorageError("No disks detected.  Please shut down the computer, connect at least one disk, and restart.")
    clear = ks.clearpart
    listed = matches("|".join(clear.drives), disks) if clear.drives else [disk.name for disk in disks]
    free = []
    for disk in disks:
        cleared = disk.name in listed and _cleared(clear, disk)
        if cleared or (not disk.used and (clear.initAll or ks.zerombr.zerombr or disk.label)):
            free.append(disk)
    if not free:
        raise StorageError(plan.NO_SPACE)
    asked = getattr(clear, "disklabel", "") or ""
    table = plan.table_type(asked, efi=machine.efi, force_gpt=machine.gpt, largest=max(disk.size for disk in free))
    asked = requests(ks, free, table, machine)
    drive = ks.bootloader.bootDrive
    boot = matches(drive, free)[:1] if drive else [free[0].name]
    if not boot:
        raise KickstartError(
            f'Requested boot drive "{drive}" doesn\'t exist or cannot be used.', lineno=ks.bootloader.lineno
        )
    return with_volumes(ks, plan.place(asked, free, table=table, boot=boot[0]), free, machine)
