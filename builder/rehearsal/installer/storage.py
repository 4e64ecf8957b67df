# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""Partition, format and mount disks as the kickstart says, and write /etc/fstab.

Invariant: nothing is written to a disk that the kickstart did not give free.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import log, plan, program
from .disks import Disk, matches
from .parse import KickstartError, constants
from .plan import Layout, Partition, Request, StorageError

ROOT = Path("/mnt/sysimage")
MAKERS = {
    "xfs": ("mkfs.xfs", "-q", "-f"),
    "ext4": ("mkfs.ext4", "-q", "-F"),
    "ext3": ("mkfs.ext3", "-q", "-F"),
    "ext2": ("mkfs.ext2", "-q", "-F"),
    "swap": ("mkswap", "-f"),
    "efi": ("mkfs.vfat", "-F", "16"),
    "vfat": ("mkfs.vfat",),
}
DEFAULT_FS = "xfs"


@dataclass(frozen=True)
class Machine:
    """Facts about the hardware that decide the layout.

    Args:
        efi: booted by UEFI firmware.
        memory: MiB.
        gpt: inst.gpt was given.
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


def _size(data: Any, memory: int) -> int:
    if data.recommended or data.hibernation:
        return plan.recommended_swap(memory)
    return int(data.size or 1)


def _kind(data: Any) -> str:
    if "biosboot" in (data.mountpoint, data.fstype):
        return "biosboot"
    return data.fstype or ("swap" if data.mountpoint == "swap" else DEFAULT_FS)


def refuse(ks: Any) -> None:
    """Stop at what this installer cannot make, before anything is done.

    Raises:
        KickstartError: LVM, RAID, encryption or a partition that is to be used again.
    """
    auto = ks.autopart
    if auto.autopart and (auto.type not in (None, constants.AUTOPART_TYPE_PLAIN) or auto.encrypted):
        raise KickstartError("the rehearsal makes plain partitions only: autopart --type=plain", lineno=auto.lineno)
    for data in ks.partition.partitions:
        known = data.mountpoint.startswith("/") or data.mountpoint in ("swap", "biosboot")
        if not known or _kind(data) not in (*MAKERS, "biosboot") or data.encrypted or data.onPart or not data.format:
            raise KickstartError(f"the rehearsal cannot make this partition: {data.mountpoint}", lineno=data.lineno)


def requests(ks: Any, disks: list[Disk], table: str, machine: Machine) -> list[Request]:
    """Everything that part, reqpart and autopart ask for.

    Raises:
        KickstartError: a disk that is not there.
    """
    wanted: list[Request] = []
    if ks.reqpart.reqpart:
        wanted += plan.stage1(table, efi=machine.efi)
        if ks.reqpart.addBoot:
            wanted.append(Request("/boot", DEFAULT_FS, plan.BOOT))
    if ks.autopart.autopart:
        free = sum(disk.size for disk in disks)
        fstype = ks.autopart.fstype or DEFAULT_FS
        home = not getattr(ks.autopart, "nohome", False)
        wanted += plan.automatic(table, efi=machine.efi, memory=machine.memory, free=free, home=home, fstype=fstype)
    for data in ks.partition.partitions:
        kind = _kind(data)
        on = ""
        if data.disk:
            found = matches(data.disk, disks)
            if not found:
                text = f'Disk "{data.disk}" given in part command does not exist.'
                raise KickstartError(text, lineno=data.lineno)
            on = found[0]
        mount = data.mountpoint if data.mountpoint.startswith("/") else ""
        grow, limit = bool(data.grow), int(data.maxSizeMB or 0)
        size = _size(data, machine.memory)
        wanted.append(Request(mount, kind, size, grow, limit, on, data.primOnly, data.fsopts or "", data.label or ""))
    return wanted


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
    wanted = requests(ks, free, table, machine)
    drive = ks.bootloader.bootDrive
    boot = matches(drive, free)[:1] if drive else [free[0].name]
    if not boot:
        raise KickstartError(
            f'Requested boot drive "{drive}" doesn\'t exist or cannot be used.', lineno=ks.bootloader.lineno
        )
    return plan.place(wanted, free, table=table, boot=boot[0])


def write(made: Layout, say: Callable[[str], None]) -> None:
    """Make partition tables and file systems.

    Raises:
        ProgramError: a program failed; the disk may have refused.
    """
    for name in made.disks:
        node = f"/dev/{name}"
        say(f"Creating disklabel on {node}")
        log.info("blivet", f"creating {made.table} disklabel on {node}")
        program.run("wipefs", "-a", "-f", node)
        program.run(
            "sfdisk",
            "--no-reread",
            "--wipe",
            "always",
            "--wipe-partitions",
            "always",
            node,
            stdin=plan.script(made, name),
        )
        program.run("udevadm", "settle", "--timeout=30")
    for partition in made.partitions:
        kind = partition.request.fstype
        if kind == "biosboot":
            continue
        say(f"Creating {kind} on {partition.node}")
        log.info("blivet", f"creating {kind} on {partition.node}, {partition.size} MiB")
        label = ("-n" if kind in ("efi", "vfat") else "-L", partition.request.label) if partition.request.label else ()
        program.run(*MAKERS[kind], *label, partition.node)
    program.run("udevadm", "settle", "--timeout=30")


def mount(made: Layout) -> None:
    """Mount everything below ROOT, shortest paths first, and what a chroot needs."""
    for partition in sorted(made.partitions, key=lambda each: each.request.mount):
        if partition.request.mount:
            place = ROOT / partition.request.mount.lstrip("/")
            place.mkdir(parents=True, exist_ok=True)
            kind = "vfat" if partition.request.fstype == "efi" else partition.request.fstype
            program.run("mount", "-t", kind, partition.node, str(place))


def bind() -> None:
    """Give the new root the kernel's file systems: /dev too, so that scripts reach the serial ports."""
    for name in ("dev", "proc", "sys", "run"):
        (ROOT / name).mkdir(exist_ok=True)
        program.run("mount", "--rbind", f"/{name}", str(ROOT / name))


def uuid(partition: Partition) -> str:
    """The file system's UUID."""
    return program.run("blkid", "-p", "-o", "value", "-s", "UUID", partition.node).strip()


def fstab(made: Layout) -> str:
    """The text of /etc/fstab, in Anaconda's form."""
    lines = ["", "#", "# /etc/fstab", "# Created by anaconda", "#"]
    lines += ["# Accessible filesystems, by reference, are maintained under '/dev/disk'", "#"]
    for partition in sorted(made.partitions, key=lambda each: each.request.mount or "~"):
        request = partition.request
        if request.fstype == "biosboot" or not (request.mount or request.fstype == "swap"):
            continue
        kind = "vfat" if request.fstype == "efi" else request.fstype
        place = request.mount or "swap"
        options = request.options or ("umask=0077,shortname=winnt" if request.fstype == "efi" else "defaults")
        passno = "1 1" if place == "/" and kind != "xfs" else "1 2" if kind.startswith("ext") else "0 0"
        lines.append(f"UUID={uuid(partition)} {place:<23} {kind:<7} {options:<15} {passno}")
    return "\n".join([*lines, ""])


def release(made: Layout) -> None:
    """Give free blocks back to the host and unmount everything."""
    program.run("sync")
    mounted = [partition for partition in made.partitions if partition.request.mount]
    for partition in mounted:
        program.run("fstrim", str(ROOT / partition.request.mount.lstrip("/")), check=False)
    for name in ("run", "sys", "proc", "dev"):
        program.run("umount", "-R", "-l", str(ROOT / name), check=False)
    for partition in sorted(mounted, key=lambda each: each.request.mount, reverse=True):
        program.run("umount", str(ROOT / partition.request.mount.lstrip("/")), check=False)
    program.run("sync")
