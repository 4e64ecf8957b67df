# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""Partition, format and mount disks as it was decided, and write /etc/fstab."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from .. import log, program
from . import plan, volumes
from .layout import Layout, Partition, Volume

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
    volumes.write(made, say)
    for each in made.formatted:
        kind = each.request.fstype
        say(f"Creating {kind} on {each.node}")
        log.info("blivet", f"creating {kind} on {each.node}, {each.size} MiB")
        label = ("-n" if kind in ("efi", "vfat") else "-L", each.request.label) if each.request.label else ()
        program.run(*MAKERS[kind], *shlex.split(each.request.making), *label, each.node)
    program.run("udevadm", "settle", "--timeout=30")


def mount(made: Layout) -> None:
    """Mount everything below ROOT, shortest paths first, and what a chroot needs."""
    for each in sorted(made.formatted, key=lambda each: each.request.mount):
        if each.request.mount:
            place = ROOT / each.request.mount.lstrip("/")
            place.mkdir(parents=True, exist_ok=True)
            kind = "vfat" if each.request.fstype == "efi" else each.request.fstype
            program.run("mount", "-t", kind, each.node, str(place))


def bind() -> None:
    """Give the new root the kernel's file systems: /dev too, so that scripts reach the serial ports."""
    for name in ("dev", "proc", "sys", "run"):
        (ROOT / name).mkdir(exist_ok=True)
        program.run("mount", "--rbind", f"/{name}", str(ROOT / name))


def uuid(partition: Partition | Volume) -> str:
    """The file system's UUID."""
    return program.run("blkid", "-p", "-o", "value", "-s", "UUID", partition.node).strip()


def _source(each: Partition | Volume) -> str:
    """Return the name in /etc/fstab: a volume by its path (blivet 0.61, devices/dm.py: fstabSpec)."""
    return each.node if isinstance(each, Volume) else f"UUID={uuid(each)}"


def fstab(made: Layout) -> str:
    """The text of /etc/fstab, in Anaconda's form."""
    lines = ["", "#", "# /etc/fstab", "# Created by anaconda", "#"]
    lines += ["# Accessible filesystems, by reference, are maintained under '/dev/disk'", "#"]
    for each in sorted(made.formatted, key=lambda each: each.request.mount or "~"):
        request = each.request
        if not (request.mount or request.fstype == "swap"):
            continue
        kind = "vfat" if request.fstype == "efi" else request.fstype
        place = request.mount or "swap"
        options = request.options or ("umask=0077,shortname=winnt" if request.fstype == "efi" else "defaults")
        passno = "1 1" if place == "/" and kind != "xfs" else "1 2" if kind.startswith("ext") else "0 0"
        lines.append(f"{_source(each)} {place:<23} {kind:<7} {options:<15} {passno}")
    return "\n".join([*lines, ""])


def release(made: Layout) -> None:
    """Give free blocks back to the host and unmount everything."""
    program.run("sync")
    mounted = [each.request.mount for each in made.formatted if each.request.mount]
    for mount_point in mounted:
        program.run("fstrim", str(ROOT / mount_point.lstrip("/")), check=False)
    for name in ("run", "sys", "proc", "dev"):
        program.run("umount", "-R", "-l", str(ROOT / name), check=False)
    for mount_point in sorted(mounted, reverse=True):
        program.run("umount", str(ROOT / mount_point.lstrip("/")), check=False)
    volumes.release(made)
    program.run("sync")
