"""Holds: versions that were rolled back from, and therefore may not become the latest by themselves.

`.holds.json` beside the versions records when each was held, and which version it gave way to. A hold on the latest
version is void: a process was killed between writing the hold and moving `latest`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from builder.system.atomic_file import replacing

FILE = ".holds.json"


@dataclass(frozen=True)
class Hold:
    """Since when (UTC, ISO 8601), and for which version it gave way."""

    since: str
    gave_way_to: str


def read(folder: Path) -> dict[str, Hold]:
    """Holds by version. A file that cannot be read holds nothing."""
    try:
        told = json.loads((folder / FILE).read_bytes())
        return {str(version): Hold(**hold) for version, hold in told.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


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
