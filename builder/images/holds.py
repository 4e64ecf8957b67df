"""The one rule: a version that was rolled back from does not become the latest by itself; its hold says so.

`.holds.json` beside the versions: by version, since when, and which version it gave way to. The latest version is
never held: a hold on it is left from a process that was killed between holding and moving `latest`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from builder.system.atomic_file import replacing

FILE = ".holds.json"


@dataclass(frozen=True)
class Hold:
    """Since when (UTC, ISO 8601), and for which version it gave way."""

    since: str
    gave_way_to: str


_HOLDS = TypeAdapter(dict[str, Hold])


def read(folder: Path) -> dict[str, Hold]:
    """Holds by version. A file that cannot be read holds nothing; `damaged` says so."""
    try:
        return _HOLDS.validate_json((folder / FILE).read_bytes())
    except (OSError, ValidationError):
        return {}


def damaged(folder: Path) -> bool:
    """Whether there is a file of holds that cannot be read."""
    try:
        _HOLDS.validate_json((folder / FILE).read_bytes())
    except FileNotFoundError:
        return False
    except (OSError, ValidationError):
        return True
    return False


def write(folder: Path, holds: Mapping[str, Hold]) -> None:
    """Replace all holds by one rename."""
    with replacing(folder / FILE) as file:
        file.write(json.dumps({version: asdict(hold) for version, hold in holds.items()}, indent=2).encode() + b"\n")


def mend(folder: Path, latest: str | None) -> None:
    """Drop the hold of the latest version, and those of versions that are gone."""
    now = read(folder)
    kept = {version: hold for version, hold in now.items() if version != latest and (folder / version).is_dir()}
    if kept != now:
        write(folder, kept)
