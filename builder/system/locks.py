"""Locks between processes: a flock on a file, which the kernel drops with the process that holds it, however that ends.

Invariant: a lock file is never opened through a link, and only an empty one or one of builder's own is written
to. The holder's name in it is a courtesy: a disk without space keeps no one from a lock.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from builder.errors import HostError
from builder.system.plain_file import open_plain

# What builder writes into a lock file begins like this.
_MARK = b"locked by builder: "


def attempt(path: Path, *, shared: bool = False, create: bool = True) -> int | None:
    """Take the lock if nobody holds it; None when somebody does, or when there is no such file to lock.

    Args:
        create: make the lock file when it is not there.

    Returns:
        An open file descriptor; closing it gives the lock back.

    Raises:
        HostError: see `open_plain`.
    """
    while True:
        try:
            handle = _open(path, create=create)
        except FileNotFoundError:
            if create:
                raise
            return None
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            if _is(handle, path):
                return handle
        except OSError as fault:
            os.close(handle)
            if fault.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
                return None
            raise
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


@contextmanager
def held(
    path: Path, *, holder: str = "", shared: bool = False, on_wait: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Hold the lock for the length of the block; waits for it without polling.

    Args:
        holder: who we are, for those who have to wait for us (exclusive locks only).
        shared: together with others who ask for a shared lock.
        on_wait: called once, with what the present holder says of itself (may be empty), before waiting.

    Raises:
        HostError: see `open_plain`.
    """
    handle = _wait(path, shared, on_wait)
    ours = not shared and _is_own(handle)
    try:
        if ours:
            _note(handle, _MARK + holder.encode() if holder else b"")
        yield
    finally:
        if ours:
            _note(handle, b"")
        os.close(handle)


def remove(path: Path) -> None:
    """Remove a lock file that is held; another file of that name stays."""
    with suppress(OSError, HostError):
        handle = _open(path, create=False)
        try:
            if _is_own(handle):
                path.unlink()
        finally:
            os.close(handle)


def _wait(path: Path, shared: bool, on_wait: Callable[[str], None] | None) -> int:
    """Open and lock, again and again while the file that was locked is not the one under that name any more."""
    while True:
        handle = attempt(path, shared=shared)
        if handle is not None:
            return handle
        handle = _open(path, create=True)
        try:
            if on_wait is not None:
                on_wait(os.pread(handle, 4096, 0).removeprefix(_MARK).decode("utf-8", "replace"))
                on_wait = None
            fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            if _is(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _open(path: Path, *, create: bool) -> int:
    return open_plain(path, os.O_RDWR | (os.O_CREAT if create else 0))


def _is_own(handle: int) -> bool:
    content = os.pread(handle, len(_MARK), 0)
    return content == _MARK[: len(content)]


def _note(handle: int, text: bytes) -> None:
    with suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, text, 0)


def _is(handle: int, path: Path) -> bool:
    """A lock file may have been removed, with its lock held, between our opening and our locking it."""
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(handle), there)
