"""Where each version of an image came from: built in this store, or pulled from which repository.

Invariant: an origin is what this catalogue saw itself, never what a manifest says. `.origins.json` beside the versions
of a name holds it by version: `local`, or `host[:port]/repository`. A version without one is of unknown origin.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from builder.store.store import Store
from builder.system.atomic_file import replacing

FILE = ".origins.json"
LOCAL = "local"
_ORIGINS = TypeAdapter(dict[str, str])


def read(folder: Path) -> dict[str, str]:
    """Return origins by version. A file that cannot be read names none; `damaged` says so."""
    try:
        return _ORIGINS.validate_json((folder / FILE).read_bytes())
    except (OSError, ValidationError):
        return {}


def damaged(folder: Path) -> bool:
    """Return whether there is a file of origins that cannot be read."""
    try:
        _ORIGINS.validate_json((folder / FILE).read_bytes())
    except FileNotFoundError:
        return False
    except (OSError, ValidationError):
        return True
    return False


def built_here(name: str, sha256: str, origin: str | None, store: Store) -> bool:
    """Return whether an image was built in this store.

    Args:
        sha256: of its disk.
        origin: as recorded; where nothing is, the store has to know this very disk as the last one that it sealed.
    """
    if origin is not None:
        return origin == LOCAL
    sealed = store.recall(name, "seal")
    return sealed is not None and any(file.sha256 == sha256 for file in sealed.files.values())


def note(folder: Path, version: str, origin: str) -> None:
    """Record where a version that is about to appear comes from; those that are gone are dropped from the record.

    Raises:
        OSError, HostError: the folder cannot be written to.
    """
    known = {one: where for one, where in read(folder).items() if (folder / one).is_dir()}
    _write(folder, {**known, version: origin})


def _write(folder: Path, origins: Mapping[str, str]) -> None:
    with replacing(folder / FILE) as file:
        file.write(_ORIGINS.dump_json(dict(origins), indent=2) + b"\n")
