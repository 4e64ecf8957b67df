"""Folders in which pulled versions grow; what an interrupted pull left stays for the next one, until gc removes it.

`.pulling/<digest of the manifest>/<name>/<version>/` beside the images, and a lock file beside that.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from builder.store.objects import bytes_freed, remove
from builder.system import locks
from builder.system.plain_file import entries_below

FOLDER = ".pulling"


@contextmanager
def place(catalogue: Path, digest: str, on_wait: Callable[[str], None]) -> Iterator[Path]:
    """The folder in which the version with this manifest is assembled, by one process at a time.

    Args:
        digest: `sha256:` and 64 hex digits.
        on_wait: called once if another process is pulling it.
    """
    folder = catalogue / FOLDER / digest.removeprefix("sha256:")
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder)
    with locks.held(lock, holder="builder images pull", on_wait=on_wait):
        try:
            folder.mkdir(exist_ok=True)
            yield folder
        finally:
            if not folder.exists():
                lock.unlink(missing_ok=True)


def delete_stale(catalogue: Path, older_than: float, *, dry_run: bool = False) -> int:
    """Remove what interrupted pulls left and did not continue for so many seconds; returns the bytes freed."""
    limit, freed = time.time() - older_than, 0
    for folder in [path for path in (catalogue / FOLDER).glob("*") if path.is_dir()]:
        handle = locks.attempt(_lock(folder))
        if handle is None:
            continue
        try:
            if max([folder.stat().st_mtime, *(facts.st_mtime for _, facts in entries_below(folder))]) < limit:
                freed += bytes_freed(folder) if dry_run else remove(folder)
            if not folder.exists():
                _lock(folder).unlink(missing_ok=True)
        finally:
            os.close(handle)
    return freed


def _lock(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")
