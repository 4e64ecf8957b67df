"""Give a local file a second name, as cheaply as the file systems allow while both stay complete.

Blocks are shared where the file system can (Btrfs, XFS); else, where it is allowed, a hard link is made; else a copy.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import BinaryIO, Literal

from builder.errors import HostError, MediumError
from builder.system.atomic_file import replacing
from builder.system.digests import DigestCache, sha256_file

_CHUNK = 1 << 20
# ioctl(2) request FICLONE: share all blocks of another file.
_FICLONE = 0x40049409

How = Literal["reflink", "hard link", "copy"]


class _UnsharedError(Exception):
    """The file system does not share blocks between these two."""


def take(file: Path, out: Path, *, link: bool = False, cache: DigestCache | None = None) -> tuple[str, How]:
    """Give a local file a second name: blocks shared where the file system can, else copied.

    Args:
        link: rather than copy, make a hard link. It is the same file: what is written to one is written to both.
        cache: is believed where no byte is copied, and learns what `out` holds; without it the bytes are read.

    Returns:
        sha256 of the bytes, 64 hex digits; and how it was done.

    Raises:
        MediumError: the file cannot be read.
        HostError: `out` cannot be written.
    """
    try:
        source = file.open("rb", buffering=0)
    except OSError as fault:
        raise MediumError(f"cannot read {file}: {fault.strerror}") from fault
    with source:
        before = os.fstat(source.fileno())
        how: How = "copy"
        with suppress(_UnsharedError), replacing(out) as copy:
            if not _reflinked(source, copy):
                raise _UnsharedError
            _date(copy, before)
            how = "reflink"
        if how == "copy" and link and _linked(file, out):
            how = "hard link"
        found = _copied(source, out) if how == "copy" else _hashed(source, file, out, cache)
    if cache is not None:
        cache.remember(out, found)
    return found, how


def _copied(source: FileIO, out: Path) -> str:
    """Copy the file, hashed on the way; returns its sha256."""
    sha256 = hashlib.sha256()
    with replacing(out) as copy:
        while data := source.read(_CHUNK):
            sha256.update(data)
            copy.write(data)
        copy.flush()
        _date(copy, os.fstat(source.fileno()))
    return sha256.hexdigest()


def _hashed(source: FileIO, file: Path, out: Path, cache: DigestCache | None) -> str:
    """The sha256 of what shares the bytes of the file; read again where the file was written to meanwhile."""
    if cache is None:
        return hashlib.file_digest(source, "sha256").hexdigest()
    found = cache.sha256_of(file)
    now, taken = os.fstat(source.fileno()), out.stat()
    same = (now.st_size, now.st_mtime_ns) == (taken.st_size, taken.st_mtime_ns)
    return found if same else sha256_file(out)


def _date(copy: BinaryIO, facts: os.stat_result) -> None:
    """Give the copy the time stamp of its source: whatever is written to it later shows."""
    os.utime(copy.fileno(), ns=(facts.st_atime_ns, facts.st_mtime_ns))


def _linked(file: Path, out: Path) -> bool:
    """Fails on another file system, and on files of another user: those could be written to by their owner."""
    facts = file.stat()
    if facts.st_uid != os.geteuid() or not facts.st_mode & 0o004:
        return False
    try:
        out.hardlink_to(file.resolve())
    except OSError as fault:
        if fault.errno in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
            return False
        raise HostError(f"cannot write {out}: {fault.strerror}") from fault
    return True


def _reflinked(source: BinaryIO, copy: BinaryIO) -> bool:
    try:
        fcntl.ioctl(copy, _FICLONE, source.fileno())
    except OSError:
        return False
    return True
