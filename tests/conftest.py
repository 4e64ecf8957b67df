"""Fixtures that tests of several folders share.

builder's command line, install media of several shapes, and the rehearsal medium, built once for the whole checkout.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from builder.rehearsal import medium as rehearsal
from builder.releases import Name
from builder.system import locks
from tests import fault_table
from tests.command import builder, builder_process, pipelines, recipe_text
from tests.fakes.media import medium, press, remaster
from tests.fault_table import fault_row

__all__ = [
    "Rehearsal",
    "Silent",
    "builder",
    "builder_process",
    "fault_row",
    "medium",
    "pipelines",
    "press",
    "recipe_text",
    "rehearsal_iso",
    "rehearsal_of",
    "remaster",
]

CACHE = Path(__file__).parents[1] / "artifacts" / ".cache" / "rehearsal"

# A loaded machine makes no test fail: neither a slow example nor slow examples on the whole.
settings.register_profile("builder", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("builder")

# Started in the background of a script or by nohup, all below ignores SIGINT or SIGHUP, and so would the programs that
# tests send them to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Silent:
    """Nobody watches."""

    def note(self, text: str) -> None:
        """Nothing."""

    def beat(self, text: str) -> None:
        """Nothing."""


Rehearsal = Callable[[Name], Path]


@pytest.fixture(scope="session")
def rehearsal_of() -> Rehearsal:
    """The rehearsal medium of a release, built when what goes into it has changed; all share the part that is slow."""

    def get(release: Name) -> Path:
        CACHE.mkdir(parents=True, exist_ok=True)
        base = CACHE / rehearsal.inputs_digest(CACHE)
        iso = base / f"{release}.iso"
        with locks.held(CACHE / ".lock", holder="tests"):
            work = CACHE / "work"
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            try:
                if not base.exists():
                    for stale in CACHE.glob("?" * 64):
                        shutil.rmtree(stale)
                    made = work / "base"
                    made.mkdir()
                    (work / "work").mkdir()
                    rehearsal.build_base(made, work=work / "work", progress=Silent())
                    made.rename(base)
                if not iso.exists():
                    part = base / f"{release}.part"
                    part.unlink(missing_ok=True)
                    (work / "press").mkdir()
                    rehearsal.press(base, release, part, work=work / "press", progress=Silent())
                    part.rename(iso)
            finally:
                shutil.rmtree(work, ignore_errors=True)
        return iso

    return get


@pytest.fixture(scope="session")
def rehearsal_iso(rehearsal_of: Rehearsal) -> Path:
    """The rehearsal medium of CentOS 7."""
    return rehearsal_of("el7")


def pytest_configure(config: pytest.Config) -> None:
    """The mark of the fault table, which nobody has to write."""
    config.addinivalue_line("markers", "fault: makes a row of the fault table; set by the fixture fault_row")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that make a row of the fault table are found by `-m fault`."""
    fault_table.mark_faults(items)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The fault table, when there is one."""
    fault_table.print_table(terminalreporter)
