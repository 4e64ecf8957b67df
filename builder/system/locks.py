"""Locks between processes: flocks, which the kernel drops with the process that holds them, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def attempt(path: Path, *, shared: bool = False, create: bool = True) -> int | None:
    """Take the lock if nobody holds it; None when somebody does, or when there is no such file to lock.

    Args:
        create: make the lock file when it is not there.

    Returns:
        An open file descriptor; closing it gives the lock back.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    while True:
        try:
            handle = os.open(path, flags, 0o600)
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
    """
    handle = _wait(path, shared, on_wait)
    try:
        if not shared:
            os.ftruncate(handle, 0)
            os.pwrite(handle, holder.encode(), 0)
        yield
    finally:
        try:
            if not shared:
                os.ftruncate(handle, 0)
        finally:
            os.close(handle)


def _wait(path: Path, shared: bool, on_wait: Callable[[str], None] | None) -> int:
    """Open and lock, again and again while the file that was locked is not the one under that name any more."""
    while True:
        handle = attempt(path, shared=shared)
        if handle is not None:
            return handle
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if on_wait is not None:
                on_wait(os.pread(handle, 4096, 0).decode("utf-8", "replace"))
                on_wait = None
            fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            if _is(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _is(handle: int, path: Path) -> bool:
    """A lock file may have been removed, with its lock held, between our opening and our locking it."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(handle), there)
