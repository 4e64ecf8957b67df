"""Unpacks lists of packages from a medium, whichever way they are compressed, up to a limit.

Invariant: no more than the limit is written or held. A list of some MiB can unpack to any size.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from builder.system import process

_CHUNK = 1 << 20
_ZSTD = b"\x28\xb5\x2f\xfd"
_OPENERS: dict[bytes, Callable[[Path], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
# Seconds; 64 MiB take one.
_TIMEOUT = 60.0


class UnpackError(Exception):
    """A file is damaged, or larger than it may be."""


def unpack(source: Path, target: Path, limit: int) -> None:
    """Write what a file holds, unpacked if it is compressed by gzip, bzip2, xz or zstd.

    Args:
        limit: bytes.

    Raises:
        UnpackError: it is damaged, or holds more.
        HostError: it is compressed by zstd, and that program is not installed.
        OSError: the target cannot be written.
    """
    with source.open("rb") as file:
        magic = file.read(6)
    if magic.startswith(_ZSTD):
        # head ends at the limit, and zstd with it.
        script = 'zstd -dc -- "$1" | head -c "$3" > "$2"'
        process.find("zstd")
        process.run(["sh", "-c", script, "sh", source, target, str(limit + 1)], timeout=_TIMEOUT)
        if not target.stat().st_size:
            raise UnpackError("it is damaged")
    else:
        opener = next((opener for begin, opener in _OPENERS.items() if magic.startswith(begin)), _plain)
        try:
            with opener(source) as packed, target.open("wb") as copy:
                _copy(packed, copy, limit)
        except (EOFError, lzma.LZMAError, gzip.BadGzipFile, ValueError) as fault:
            raise UnpackError(f"it is damaged: {fault}") from None
    if target.stat().st_size > limit:
        raise UnpackError(f"it holds more than {limit >> 20} MiB")


def _plain(path: Path) -> IO[bytes]:
    return path.open("rb")


def _copy(packed: IO[bytes], copy: IO[bytes], limit: int) -> None:
    left = limit + 1
    while left and (data := packed.read(min(_CHUNK, left))):
        copy.write(data)
        left -= len(data)
