"""Holds: versions that were rolled back from, and do not become the latest again by themselves.

`.hold-<version>` beside the versions, a symbolic link whose text is since when, and which version it gave way to. A
short link needs no block of its own, so `rollback` and `release` work on a full disk.

Invariant: the latest version is never held. A hold on it is left from a process that was killed between holding and
moving `latest`.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PREFIX = ".hold-"


@dataclass(frozen=True)
class Hold:
    """Since when (UTC, ISO 8601), and for which version it gave way."""

    since: str
    gave_way_to: str


def read(folder: Path) -> dict[str, Hold]:
    """Return the holds by version; what is not such a link holds nothing."""
    found = {}
    for path in folder.glob(f"{PREFIX}*"):
        with suppress(OSError):
            since, _, gave_way_to = str(path.readlink()).partition("|")
            if gave_way_to:
                found[path.name.removeprefix(PREFIX)] = Hold(since, gave_way_to)
    return found


def hold(folder: Path, version: str, entry: Hold) -> None:
    """Hold a version; one that is held stays as it is."""
    with suppress(FileExistsError):
        _path(folder, version).symlink_to(f"{entry.since}|{entry.gave_way_to}")


def drop(folder: Path, version: str) -> None:
    """Lift the hold of a version if it has one."""
    _path(folder, version).unlink(missing_ok=True)


def repair(folder: Path, latest: str | None) -> None:
    """Drop the hold of the latest version, and those of versions that are gone."""
    for version in read(folder):
        if version == latest or not (folder / version).is_dir():
            drop(folder, version)


def _path(folder: Path, version: str) -> Path:
    return folder / f"{PREFIX}{version}"
