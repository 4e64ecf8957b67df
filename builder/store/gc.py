"""Garbage collection: remove what dead runs left, and what has not been used for long.

Invariant: what a live run holds or waits for is never removed; what a dead one left always is. It needs no free space.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from builder.errors import BuilderError
from builder.store import runs
from builder.store.objects import bytes_freed, remove
from builder.store.store import Store, kept_mark
from builder.system import locks

# Seconds within which any small file is written: an older temporary one has no writer any more.
WRITTEN_WITHIN = 3600.0


@dataclass(frozen=True)
class Swept:
    """Leftovers of dead runs.

    Args:
        runs: ids of the runs whose remains are gone.
        stuck: why the remains of others could not be removed, by id; the next sweep tries again.
    """

    runs: tuple[str, ...]
    stuck: dict[str, str]


def sweep(store: Store, folder: Path, clean: Callable[[str], object]) -> Swept:
    """Remove everything that dead runs left.

    Args:
        folder: of the run records.
        clean: removes what the run has outside the store (its machines); raises a BuilderError if it cannot.
    """
    store.prepare()
    gone, stuck = [], {}
    with runs.gate(store):
        for run_id in runs.dead(store):
            try:
                clean(run_id)
            except BuilderError as fault:
                stuck[run_id] = fault.brief
                continue
            runs.bury(store, folder, run_id)
            gone.append(run_id)
        # Every live run has a mark, and so has every dead one whose machines are still there.
        marked = {mark.name for mark in store.marks.iterdir()}
        owners = {_owner(path) for path in store.tmp.iterdir()}
        _clear(store, owners - marked)
    return Swept(tuple(gone), stuck)


def drop(store: Store, digest: str) -> int:
    """Remove a finished object unless a live run needs it; returns the bytes that became free."""
    with runs.gate(store):
        return 0 if digest in runs.claimed(store) else _take_away(store, digest)


def gc(store: Store, older_than: float, *, useless: Collection[str] = (), dry_run: bool = False) -> int:
    """Remove finished objects, temporary directories, downloads and index entries that nothing needs.

    Args:
        older_than: seconds since the last use; what was used later stays.
        useless: digests of objects that go whatever their age.
        dry_run: remove nothing, only count.

    Returns:
        Bytes that became free on the file system (a file that the catalogue shares gives nothing back).
    """
    if not store.root.is_dir():
        return 0
    store.prepare()
    limit = time.time() - older_than
    with runs.gate(store):
        spared = runs.claimed(store)
        there = [path for path in store.objects.iterdir() if path.name not in spared]
        objects = [path for path in there if path.name in useless or _older(path, limit)]
        leftovers = list(_leftovers(store, limit))
        if dry_run:
            return sum(map(bytes_freed, [*objects, *leftovers]))
        freed = sum(_take_away(store, path.name) for path in objects)
        freed += sum(_remove_unlocked(path) for path in leftovers)
        _stale_index(store, limit)
        for path in store.locks.iterdir():
            if len(path.name) == 64 and path.name not in spared and not store.path(path.name).exists():
                _remove_lock(path)
    store.digests.forget(limit)
    return freed


def delete_torn(folders: Iterable[Path], older_than: float, *, pattern: str = ".*.tmp", dry_run: bool = False) -> int:
    """Remove the incomplete files that killed processes left in some folders; returns the bytes freed.

    Args:
        pattern: of their names.
        older_than: seconds since they were written to; those of the last hour may have a living writer and stay.
    """
    limit = time.time() - max(older_than, WRITTEN_WITHIN)
    torn = [path for folder in folders for path in folder.glob(pattern) if _older(path, limit)]
    return sum(map(bytes_freed if dry_run else remove, torn))


def _take_away(store: Store, digest: str) -> int:
    """Out of sight with one rename, then removed; not while somebody builds or reads it."""
    handle = locks.attempt(store.lock(digest))
    if handle is None:
        return 0
    try:
        away = store.temporary("dropped", digest[:12])
        try:
            store.path(digest).rename(away)
        except FileNotFoundError:
            return 0
        return remove(away)
    finally:
        os.close(handle)


def _remove_unlocked(path: Path) -> int:
    """Remove it, unless it is a download under way, which is locked; returns the bytes freed."""
    if not _is_file(path):
        return remove(path)
    handle = locks.attempt(path, create=False)
    if handle is None:
        return 0
    try:
        return remove(path)
    finally:
        os.close(handle)


def _remove_lock(path: Path) -> None:
    handle = locks.attempt(path, create=False)
    if handle is not None:
        path.unlink(missing_ok=True)
        os.close(handle)


def _clear(store: Store, owners: Collection[str]) -> None:
    """Remove from `tmp/` what belongs to certain owners, but not what was to be kept for inspection."""
    for path in list(store.tmp.iterdir()):
        kept = path.suffix == ".keep" or kept_mark(path).exists()
        if not kept and _owner(path) in owners:
            remove(path)


def _older(path: Path, limit: float) -> bool:
    """Return whether it is there and was used last before this time (seconds since the epoch)."""
    try:
        return path.lstat().st_mtime < limit
    except FileNotFoundError:
        return False


def _owner(path: Path) -> str:
    """Whose directory of `tmp/` this is: a run id, or a word for what belongs to no run."""
    return path.name.partition(".")[0]


def _leftovers(store: Store, limit: float) -> Iterator[Path]:
    """List what was not looked at for long: kept directories, downloads, incomplete files of killed writers."""
    alive = runs.live(store)
    incomplete = min(limit, time.time() - WRITTEN_WITHIN)
    for path in store.tmp.iterdir():
        if _owner(path) not in alive and _older(path, limit):
            yield path
    yield from (path for path in store.downloads.glob("*") if _older(path, limit) and _unlocked(path))
    for folder in (store.secrets, store.index, *(path for path in store.index.iterdir() if path.is_dir())):
        yield from (path for path in folder.glob(".*.tmp") if _older(path, incomplete))


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _unlocked(path: Path) -> bool:
    if not _is_file(path):
        return True
    handle = locks.attempt(path, shared=True, create=False)
    if handle is None:
        return False
    os.close(handle)
    return True


def _stale_index(store: Store, limit: float) -> None:
    """Forget what was built last where neither the object nor anybody's interest is left."""
    for folder in [path for path in store.index.iterdir() if path.is_dir()]:
        for path in folder.glob("*.json"):
            record = store.recall(folder.name, path.stem)
            gone = record is None or not store.path(record.digest).exists()
            if gone and _older(path, limit):
                path.unlink(missing_ok=True)
