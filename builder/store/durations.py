"""Durations of a recipe's stages in earlier runs, for the time left that a run shows.

Kept by accelerator in `.store/durations/<name>.json`; only what succeeded counts. It enters no digest.
"""

from __future__ import annotations

import statistics
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from builder.errors import HostError
from builder.stage import Ledger
from builder.system import locks
from builder.system.atomic_file import replacing

# Of each stage so many durations are remembered.
REMEMBERED = 20


class Phase(BaseModel):
    """Durations of a stage under one accelerator: seconds, the oldest first."""

    seconds: list[float] = Field(default_factory=list)


class _Kept(BaseModel):
    """The file: phases by stage and accelerator (`install/tcg`; `seal/` for a stage that runs no machine)."""

    phases: dict[str, Phase] = Field(default_factory=dict)


class Durations:
    """The history of one name.

    Args:
        store: folder of the content store.
        name: in the catalogue.
    """

    def __init__(self, store: Path, name: str) -> None:
        self._path = store / "durations" / f"{name}.json"

    def succeeded(self, stage: str, seconds: float, ledger: Ledger) -> None:
        """Remember what a stage took. A history that cannot be written is no reason for a good run to fail."""
        with suppress(OSError, HostError):
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            with locks.held(self._path.with_suffix(".lock")):
                kept = self._read()
                phase = kept.phases.setdefault(f"{stage}/{ledger.accel}", Phase())
                phase.seconds = [*phase.seconds, round(seconds, 1)][-REMEMBERED:]
                with replacing(self._path, mode=0o600) as file:
                    file.write(kept.model_dump_json(indent=1).encode())

    def expected(self, accel: str) -> dict[str, float]:
        """Return the seconds that each stage takes, by name: the median of what it took."""
        found = {}
        for key, phase in self._read().phases.items():
            stage, _, ran = key.partition("/")
            if ran in ("", accel) and phase.seconds:
                found[stage] = statistics.median(phase.seconds)
        return found

    def _read(self) -> _Kept:
        try:
            return _Kept.model_validate_json(self._path.read_bytes())
        except (OSError, ValidationError):
            return _Kept()
