# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""Find disks, and match them with the specifications of a kickstart, by blivet's names and rules.

A specification may have several parts separated by `|`, tried from left to right; each is a shell pattern over device
names, nodes and all udev links (`sda`, `sd*`, `disk/by-id/*SERIAL*`), or LABEL= or UUID= of what is on the disk.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .. import program

MIB = 1 << 20
# What `clearpart --linux` means (blivet 0.61, rhel7-branch: _linuxNative of formats/): names as blkid has them.
LINUX = {
    *("ext2", "ext3", "ext4", "xfs", "btrfs", "gfs2", "jfs", "reiserfs", "swap", "biosboot"),
    *("LVM2_member", "linux_raid_member", "crypto_LUKS"),
}
# Types of partitions as blkid writes them: on msdos, of an extended one; on GPT, for the boot loader of a BIOS.
EXTENDED = {"0x5", "0xf", "0x85"}
BIOSBOOT = "21686148-6449-6e6f-744e-656564454649"


@dataclass(frozen=True)
class Disk:
    """One whole disk.

    Args:
        name: of the kernel (`sda`).
        size: MiB, rounded down.
        links: udev's links below /dev, as full paths.
        label: partition table on it now, empty for none.
        used: it has partitions.
        holds: LABEL= and UUID= tokens of the file systems on it.
        partitions: names of its partitions (`sda1`), without an extended one.
        linux: those of them that hold what is Linux's own.
    """

    name: str
    size: int
    links: tuple[str, ...] = ()
    label: str = ""
    used: bool = False
    holds: tuple[str, ...] = ()
    partitions: tuple[str, ...] = ()
    linux: tuple[str, ...] = ()


def matches(specification: str, disks: Iterable[Disk]) -> list[str]:
    """Names of the disks that a specification means, in the order of its parts."""
    found: list[str] = []
    disks = list(disks)
    for part in specification.split("|"):
        pattern = part if part.startswith("/dev/") else os.path.normpath(f"/dev/{part}")
        for disk in disks:
            ways = (f"/dev/{disk.name}", *disk.links)
            if (
                any(fnmatch.fnmatchcase(way, pattern) for way in ways) or part in disk.holds
            ) and disk.name not in found:
                found.append(disk.name)
    return found


def _links(name: str) -> tuple[str, ...]:
    said = program.run("udevadm", "info", "--query=symlink", "--root", f"--name={name}", check=False, quiet=True)
    return tuple(said.split())


def _holds(name: str) -> tuple[str, ...]:
    tokens = []
    nodes = [f"/dev/{name}", *(f"/dev/{entry.name}" for entry in Path(f"/sys/block/{name}").glob(f"{name}*"))]
    for node in nodes:
        said = program.run("blkid", "-p", "-o", "export", node, check=False, quiet=True, stderr=False)
        tokens += [line for line in said.splitlines() if line.startswith(("LABEL=", "UUID="))]
    return tuple(tokens)


def _kind(name: str) -> str | None:
    """Return what blkid finds on a partition: empty if unknown, None for an extended partition, which holds no data."""
    said = program.run("blkid", "-p", "-o", "export", f"/dev/{name}", check=False, quiet=True, stderr=False)
    facts = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    if facts.get("PART_ENTRY_TYPE") in EXTENDED:
        return None
    return "biosboot" if facts.get("PART_ENTRY_TYPE") == BIOSBOOT else facts.get("TYPE", "")


def probe(medium: str) -> list[Disk]:
    """All disks an installation could go to; the medium, CDs and loops are none.

    Args:
        medium: the device that the installer runs from.
    """
    disks = []
    for entry in sorted(Path("/sys/block").iterdir()):
        name = entry.name
        if name.startswith(("loop", "sr", "ram", "fd", "zram", "dm-", "md")) or medium.startswith(f"/dev/{name}"):
            continue
        size = int((entry / "size").read_text()) * 512 // MIB
        if size == 0 or (entry / "ro").read_text().strip() == "1":
            continue
        said = program.run("blkid", "-p", "-o", "value", "-s", "PTTYPE", f"/dev/{name}", check=False, quiet=True)
        parts = sorted(child.name for child in entry.iterdir() if (child / "partition").exists())
        kinds = {part: _kind(part) for part in parts}
        data = tuple(part for part in parts if kinds[part] is not None)
        linux = tuple(part for part in data if kinds[part] in LINUX)
        disks.append(Disk(name, size, _links(name), said.strip(), bool(parts), _holds(name), data, linux))
    return disks
