"""Remove old versions of images, and what killed processes left beside them.

Invariant: nothing that is in use, or may be, is ever removed. Nothing here needs free space.
"""

from __future__ import annotations

import os
import secrets as randomness
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from builder.errors import PublishError
from builder.images import references
from builder.images.catalogue import LOCK, Image, changing, folders, list_images, torn_versions
from builder.store import gc
from builder.store.objects import bytes_freed, remove
from builder.system import locks
from builder.system.atomic_file import sync_folder


@dataclass(frozen=True)
class Pruned:
    """Result of a pruning, or of its dry run.

    Args:
        removed: versions that are gone.
        kept: versions beyond the newest that stay all the same, each with the reason.
        freed: bytes given back to the file system.
    """

    removed: tuple[Image, ...]
    kept: tuple[tuple[Image, str], ...]
    freed: int = 0


def prune(catalogue: Path, names: Iterable[str], keep: int, *, dry_run: bool = False) -> Pruned:
    """Remove all but the newest versions of some images.

    The latest version, those that are held and those that have users stay, however old.

    Args:
        keep: number of versions of each name that stay in any case, at least 1.

    Raises:
        PublishError: an entry in the list of users cannot be checked (then all versions of that name stay, and of those
            after it), or the catalogue cannot be written to.
    """
    removed: list[Image] = []
    kept: list[tuple[Image, str]] = []
    freed = 0
    for name in names:
        folder = catalogue / name
        try:
            with changing(folder), references.removing(folder):
                away, stay = _decide(_by_age(catalogue, name)[keep:])
                kept += stay
                removed += away
                if not dry_run:
                    freed += sum(_take_away(folder, image) for image in away)
                    _forget(folder)
        except OSError as fault:
            raise PublishError(f"{folder} cannot be pruned: {fault.strerror or fault}", str(fault)) from fault
    return Pruned(tuple(removed), tuple(kept), freed)


def delete_torn(catalogue: Path, older_than: float, *, dry_run: bool = False) -> int:
    """Remove what killed processes left beside the versions; returns the bytes freed.

    Args:
        older_than: seconds; what may still have a living writer stays in any case.
    """
    freed = 0
    for name in folders(catalogue):
        folder = catalogue / name
        freed += gc.delete_torn([folder, *(folder / references.FOLDER).glob("*")], older_than, dry_run=dry_run)
        # Versions that are made or removed; with the lock held nobody does either.
        handle = locks.attempt(folder / LOCK, create=False)
        if handle is None:
            continue
        try:
            freed += sum(map(bytes_freed if dry_run else remove, torn_versions(folder)))
        finally:
            os.close(handle)
    return freed


def _by_age(catalogue: Path, name: str) -> list[Image]:
    """All versions of a name, the newest first; those that came from elsewhere than the latest are the oldest.

    So nothing that is pulled under the name pushes out what is built here.
    """
    versions = list_images(catalogue, name)
    origin = next((image.origin for image in versions if image.latest), None)
    return sorted(versions, key=lambda image: image.origin != origin)


def _decide(old: list[Image]) -> tuple[list[Image], list[tuple[Image, str]]]:
    """Which go, and which stay for what reason."""
    away, stay = [], []
    for image in old:
        uses = references.users_of(image)
        for use in uses:
            if use.state == "unknown":
                raise PublishError(
                    f"{image.name} stays whole: whether {use.name} still uses {image.version} cannot be told",
                    f"{use.user.disk if use.user else use.entry} cannot be read",
                    f"make it readable, or if it is gone for good: rm {use.entry}",
                )
        names = [use.name for use in uses if use.state == "there"]
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            stay.append((image, f"used by {', '.join(names[:5])}{more}"))
        elif image.latest or image.held:
            stay.append((image, "latest" if image.latest else "held"))
        else:
            away.append(image)
    return away, stay


def _take_away(folder: Path, image: Image) -> int:
    """Out of sight with one rename, then removed."""
    gone = folder / f".gone-{randomness.token_hex(4)}"
    image.path.rename(gone)
    sync_folder(folder)
    return remove(gone)


def _forget(folder: Path) -> None:
    """Drop entries of users that are gone, and what is kept beside versions that are gone."""
    there = set(folders(folder))
    for path in (folder / ".verified").glob("*.jsonl"):
        if path.stem not in there:
            path.unlink(missing_ok=True)
    for listed in (folder / references.FOLDER).glob("*"):
        for path in listed.glob("*.json"):
            if references.look(path).state == "gone":
                path.unlink(missing_ok=True)
        if listed.name not in there or not any(listed.iterdir()):
            remove(listed)
