"""The header of a qcow2 file, read here before any other program opens the file.

Invariant: a file that passes names no other file and no server, so whoever opens it reads and writes that file alone.

A header may name a backing file or an external data file, as a path or as `nbd:`, `https:` or `json:`, and QEMU opens
what it names with the rights of the user who runs it. Layout and limits: QEMU's docs/interop/qcow2.txt and
block/qcow2.h.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from builder.errors import VerifyError

MAGIC = b"QFI\xfb"
V2_LENGTH, V3_LENGTH = 72, 104
# Bits 3 and 4 of the incompatible features, a compression type and extended L2 entries, change the layout inside the
# file. The others are: 0 not closed properly, 1 corrupt, 2 external data file.
_FEATURES = {0: "it was not closed properly", 1: "it is marked as corrupt", 2: "it keeps its data in another file"}
_HARMLESS = 0b11000
_END, _DATA_FILE, _ENCRYPTION = 0, 0x44415441, 0x0537BE77
_COMPRESSION = ("zlib", "zstd")
# Bytes that a guest may see of it. A disk of ext4 or XFS in use is far below.
MOST_VIRTUAL = 64 << 40
_MOST_L1, _MOST_REFCOUNT = 32 << 20, 8 << 20
_SHOWN = 120


@dataclass(frozen=True)
class Header:
    """Header of a valid qcow2 file.

    Args:
        virtual_size: bytes that the guest sees.
        backing: the file below it, as it is written there; None without one.
        snapshots: number of internal snapshots.
    """

    version: int
    cluster_size: int
    virtual_size: int
    backing: bytes | None
    snapshots: int


class _FaultError(Exception):
    """The header cannot be trusted; the message says why."""


def fault_of_image(path: Path) -> str | None:
    """Return why this cannot be the disk of an image; None if it can.

    Raises:
        OSError: it cannot be read.
    """
    try:
        header = _read(path)
    except _FaultError as fault:
        return str(fault)
    if header.backing is not None:
        return f"it needs another file: {_shown(header.backing)}"
    return "it has internal snapshots" if header.snapshots else None


def require_image(path: Path, name: str) -> None:
    """Make sure that a disk can be opened as the disk of an image.

    Args:
        name: `NAME@VERSION`, for people.

    Raises:
        VerifyError: it cannot.
        OSError: it cannot be read.
    """
    fault = fault_of_image(path)
    if fault is not None:
        raise VerifyError(
            f"the disk of {name} is refused: {fault}",
            f"{path}\nQEMU would open what the header of this file names; nothing was opened",
            f"ask who published it; other versions: builder images list {name.partition('@')[0]}",
        )


def require_overlay(path: Path, bases: Collection[Path], name: str) -> Path | None:
    """Make sure that the disk of a clone names no other file than one of its bases.

    Args:
        name: of the clone, for people.

    Returns:
        The base that it names.

    Raises:
        VerifyError: it names another file, or it is damaged.
        OSError: it cannot be read.
    """
    try:
        backing = _read(path).backing
        if backing is None:
            return None
        for base in bases:
            if backing == os.fsencode(base):
                return base
        raise _FaultError(f"it needs another file: {_shown(backing)}")
    except _FaultError as fault:
        raise VerifyError(
            f"the disk of {name} is refused: {fault}",
            f"{path}\nQEMU would open what the header of this file names; nothing was opened",
            f"look at it: qemu-img info -f qcow2 {path}; without it: builder vm delete {name}",
        ) from None


def _read(path: Path) -> Header:
    # Not for ever on a named pipe, and no other file through a symbolic link.
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise _FaultError("it is not a regular file")
        head = file.read(V3_LENGTH + 8)
        header_length, cluster_size = _frame(head)
        file.seek(0)
        first = file.read(min(cluster_size, facts.st_size))
    if len(first) < header_length:
        raise _FaultError("its header is cut off")
    return _header(first, header_length, cluster_size, facts.st_size)


def _frame(head: bytes) -> tuple[int, int]:
    """Return the length of the header and the size of a cluster."""
    if head[:4] != MAGIC:
        raise _FaultError("it is not a qcow2 file")
    if len(head) < V2_LENGTH:
        raise _FaultError("its header is cut off")
    version = _number(head, 4, 4)
    if version not in (2, 3):
        raise _FaultError(f"its version is {version}, not 2 or 3")
    bits = _number(head, 20, 4)
    if not 9 <= bits <= 21:
        raise _FaultError(f"its clusters have 2^{bits} bytes")
    if version == 2:
        return V2_LENGTH, 1 << bits
    if len(head) < V3_LENGTH:
        raise _FaultError("its header is cut off")
    length = _number(head, 100, 4)
    if not V3_LENGTH <= length <= 1 << bits or length % 8:
        raise _FaultError(f"its header has {length} bytes")
    return length, 1 << bits


def _header(first: bytes, length: int, cluster_size: int, file_size: int) -> Header:
    """Read the header, which is in the first cluster with all that belongs to it."""
    version = _number(first, 4, 4)
    backing_offset, backing_length = _number(first, 8, 8), _number(first, 16, 4)
    virtual_size = _number(first, 24, 8)
    if _number(first, 32, 4):
        raise _FaultError("it is encrypted")
    extended = _features(first, length) if version == 3 else False
    if not 0 < virtual_size <= MOST_VIRTUAL:
        raise _FaultError(f"its guest would see {virtual_size} bytes")
    _tables(first, virtual_size, cluster_size, file_size, extended=extended)
    _extensions(first, length, min(backing_offset or cluster_size, len(first)))
    backing = None
    if backing_offset:
        # QEMU takes names of up to 1023 bytes, within the first cluster.
        if backing_length > 1023 or backing_offset < length or backing_offset + backing_length > len(first):
            raise _FaultError("the name of its backing file is outside of the header")
        backing = first[backing_offset : backing_offset + backing_length]
    return Header(version, cluster_size, virtual_size, backing, _number(first, 60, 4))


def _features(first: bytes, length: int) -> bool:
    """Look at the features of version 3; returns whether its L2 entries are extended ones."""
    incompatible = _number(first, 72, 8)
    for bit, text in _FEATURES.items():
        if incompatible >> bit & 1:
            raise _FaultError(text)
    if incompatible & ~_HARMLESS:
        raise _FaultError(f"it needs features that are not known here (0x{incompatible & ~_HARMLESS:x})")
    if _number(first, 96, 4) > 6:
        raise _FaultError("its reference counts are too wide")
    compression = first[104] if length > V3_LENGTH else 0
    if compression >= len(_COMPRESSION) or bool(compression) != bool(incompatible & 0b1000):
        raise _FaultError(f"its compression is not known here ({compression})")
    return bool(incompatible & 0b10000)


def _tables(first: bytes, virtual_size: int, cluster_size: int, file_size: int, *, extended: bool) -> None:
    """Make sure that the two top tables are inside the file and as large as the disk needs them."""
    entries, l1_offset = _number(first, 36, 4), _number(first, 40, 8)
    refcount_offset, refcount_size = _number(first, 48, 8), _number(first, 56, 4) * cluster_size
    below_one = cluster_size // (16 if extended else 8) * cluster_size
    if not -(-virtual_size // below_one) <= entries <= _MOST_L1 // 8:
        raise _FaultError(f"its L1 table has {entries} entries for {virtual_size} bytes")
    if not 0 < refcount_size <= _MOST_REFCOUNT + cluster_size:
        raise _FaultError(f"its refcount table has {refcount_size} bytes")
    for name, offset, size in (
        ("L1", l1_offset, entries * 8),
        ("refcount", refcount_offset, refcount_size),
    ):
        if offset % cluster_size or offset < cluster_size or offset + size > file_size:
            raise _FaultError(f"its {name} table is outside of the file")


def _extensions(first: bytes, at: int, end: int) -> None:
    """Look at the header's extensions; those that are not known may be passed over, says the format."""
    while at + 8 <= end:
        kind, size = _number(first, at, 4), _number(first, at + 4, 4)
        if kind == _END:
            return
        if size > end - at - 8:
            raise _FaultError("an extension of its header is cut off")
        if kind == _DATA_FILE:
            raise _FaultError(f"it keeps its data in another file: {_shown(first[at + 8 : at + 8 + size])}")
        if kind == _ENCRYPTION:
            raise _FaultError("it is encrypted")
        at += 8 + -(-size // 8) * 8


def _number(data: bytes, at: int, size: int) -> int:
    found: int = struct.unpack_from(">Q" if size == 8 else ">I", data, at)[0]
    return found


def _shown(name: bytes) -> str:
    """Return a name from a header for people: what could steer a terminal is escaped."""
    text = ascii(name[:_SHOWN].decode("utf-8", "surrogateescape"))[1:-1]
    return f"{text}…" if len(name) > _SHOWN else text
