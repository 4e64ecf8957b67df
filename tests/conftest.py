"""What tests of several folders share: the rehearsal medium, built once for the whole checkout."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from builder import locks
from builder.rehearsal import medium

CACHE = Path(__file__).parents[1] / "artifacts" / ".cache" / "rehearsal"


class Silent:
    """Nobody watches."""

    def note(self, text: str) -> None:
        """Nothing."""

    def beat(self, text: str) -> None:
        """Nothing."""


@pytest.fixture(scope="session")
def rehearsal_iso() -> Path:
    """The rehearsal medium of this checkout, built when what goes into it has changed."""
    CACHE.mkdir(parents=True, exist_ok=True)
    iso = CACHE / f"{medium.inputs_digest(CACHE)}.iso"
    with locks.held(CACHE / ".lock", holder="tests"):
        if not iso.exists():
            for stale in CACHE.glob("*.iso"):
                stale.unlink()
            work = CACHE / "work"
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            try:
                medium.build(iso, work=work, progress=Silent())
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return iso
