"""The one rule: only what succeeded tells how long a phase takes; after a failure the recipe's own limits hold again.

What the stages of a recipe took is kept by accelerator in `.store/durations/<name>.json`, with the longest silence of
its installer. From it come the time left that a run shows, and tighter limits for an installer that stalls: long before
an hour is over, if this recipe has never needed more than four minutes here. How long a copy may boot is left alone:
that is short already, and a busy host makes many times as much of it (41 s and 314 s were seen of one image).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from builder.errors import HostError
from builder.settings import Patience
from builder.stage import Ledger
from builder.system import locks
from builder.system.atomic_file import replacing

# Of each phase so many are remembered, and so many are needed before they tighten a limit.
REMEMBERED, NEEDED = 20, 3
# A limit is so many times the slowest that was seen: hosts are busier in some nights than in others.
MARGIN = 3.0


class Phase(BaseModel):
    """What a stage took under one accelerator: seconds, the oldest first.

    Args:
        longest: the longest wait of each time, by kind (`quiet`: without a sign of life).
        failed: the latest try failed, perhaps because of a limit that was too tight.
    """

    seconds: list[float] = Field(default_factory=list)
    longest: dict[str, list[float]] = Field(default_factory=dict)
    failed: bool = False


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
        """Remember what a stage took."""

        def grow(phase: Phase) -> None:
            phase.failed = False
            phase.seconds = [*phase.seconds, round(seconds, 1)][-REMEMBERED:]
            for kind, waited in ledger.longest.items():
                phase.longest[kind] = [*phase.longest.get(kind, ()), round(waited, 1)][-REMEMBERED:]

        self._change(stage, ledger.accel, grow)

    def failed(self, stage: str, ledger: Ledger) -> None:
        """Have the recipe's own limits hold for the next try."""

        def mark(phase: Phase) -> None:
            phase.failed = True

        if ledger.accel:
            self._change(stage, ledger.accel, mark)

    def expected(self, accel: str) -> dict[str, float]:
        """Seconds that each stage takes, by name: the median of what it took."""
        found = {}
        for key, phase in self._read().phases.items():
            stage, _, ran = key.partition("/")
            if ran in ("", accel) and phase.seconds:
                found[stage] = statistics.median(phase.seconds)
        return found

    def limits(self) -> dict[str, Patience]:
        """How long to be patient at the most, by accelerator; infinity where too little is known."""
        phases = self._read().phases
        found = {}
        for accel in {key.partition("/")[2] for key in phases} - {""}:
            install = phases.get(f"install/{accel}", Phase())
            found[accel] = Patience(
                install=_limit(install, install.seconds),
                quiet=_limit(install, install.longest.get("quiet", [])),
                boot=float("inf"),
            )
        return found

    def _read(self) -> _Kept:
        try:
            return _Kept.model_validate_json(self._path.read_bytes())
        except (OSError, ValidationError):
            return _Kept()

    def _change(self, stage: str, accel: str, change: Callable[[Phase], None]) -> None:
        """Change one phase on disk. A history that cannot be written is no reason for a good run to fail."""
        with suppress(OSError, HostError):
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            with locks.held(self._path.with_suffix(".lock")):
                kept = self._read()
                change(kept.phases.setdefault(f"{stage}/{accel}", Phase()))
                with replacing(self._path, mode=0o600) as file:
                    file.write(kept.model_dump_json(indent=1).encode())


def _limit(phase: Phase, waited: list[float]) -> float:
    if phase.failed or len(waited) < NEEDED:
        return float("inf")
    return MARGIN * max(waited)
