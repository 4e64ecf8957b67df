"""Write files atomically: a file gets its final name when it is complete and on disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from builder.errors import HostError, cause_of, space_hint


@contextmanager
def replacing(path: Path, mode: int = 0o644) -> Iterator[BinaryIO]:
    """A file to write, which takes the name `path` when the block ends well: flushed to disk, then one rename.

    Until then its own `name` is a path that other programs can write to.

    Args:
        path: its folder must exist. A file that is there stays until the rename.
        mode: permissions of the finished file.

    Raises:
        HostError: the folder cannot be written to, or the disk is full.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as fault:
        raise _not_written(path, fault) from fault
    part = Path(name)
    try:
        # Not fdopen: its files have a number for a name.
        with open(part, "w+b", opener=lambda *_: handle) as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        part.rename(path)
    except OSError as fault:
        part.unlink(missing_ok=True)
        raise _not_written(path, fault) from fault
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _not_written(path: Path, fault: OSError) -> HostError:
    brief = f"cannot write {path}: {fault.strerror or fault}"
    return HostError(brief, hint=space_hint(fault), cause=cause_of(fault))


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
