"""Durations of earlier stages, and the time left that follows from them."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from builder import console
from builder.console import left_text
from builder.console.terminal import Terminal
from builder.stage import Ledger, Plan
from builder.store.durations import REMEMBERED, Durations
from tests.console.test_console import step, terminal

pytestmark = pytest.mark.unit

__all__ = ["terminal"]


def ledger(accel: str) -> Ledger:
    return Ledger(accel=accel)


@pytest.fixture
def history(tmp_path: Path) -> Durations:
    return Durations(tmp_path, "web")


def test_what_a_stage_took_is_told_by_name_and_accelerator(history: Durations, tmp_path: Path) -> None:
    for seconds in (90.0, 30.0, 60.0):
        history.succeeded("install", seconds, ledger("tcg"))
    history.succeeded("install", 5.0, ledger("kvm"))
    history.succeeded("seal", 2.0, Ledger())
    assert history.expected("tcg") == {"install": 60.0, "seal": 2.0}
    assert history.expected("kvm") == {"install": 5.0, "seal": 2.0}
    assert Durations(tmp_path, "db").expected("tcg") == {}


def test_old_figures_are_forgotten(history: Durations) -> None:
    history.succeeded("install", 900.0, ledger("tcg"))
    for _ in range(REMEMBERED):
        history.succeeded("install", 10.0, ledger("tcg"))
    assert history.expected("tcg") == {"install": 10.0}


def test_a_history_that_is_torn_or_cannot_be_written_harms_no_run(history: Durations, tmp_path: Path) -> None:
    (tmp_path / "durations").mkdir()
    (tmp_path / "durations" / "web.json").write_text("{")
    assert history.expected("") == {}
    history.succeeded("seal", 2.0, Ledger())
    assert history.expected("") == {"seal": 2.0}
    nowhere = Durations(tmp_path / "absent", "web")
    nowhere.succeeded("seal", 2.0, Ledger())
    assert nowhere.expected("") == {}


def test_many_runs_remember_at_once(history: Durations) -> None:
    def remember() -> None:
        for _ in range(5):
            history.succeeded("seal", 1.0, Ledger())

    threads = [threading.Thread(target=remember) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert json.loads(history._path.read_text())["phases"]["seal/"]["seconds"] == [1.0] * 20


STEPS = [step("fetch", "reuse"), step("install", "run"), step("verify", "run")]


def test_the_time_left_is_that_of_the_stages_still_to_be_run() -> None:
    told = io.StringIO()
    watched = console.Lines(told, every=0)
    watched.expected = {"fetch": 1000.0, "install": 65.0, "verify": 100.0}
    watched.planned(Plan("web", tuple(STEPS)), "run")
    assert watched.left() == 165
    watched.started(STEPS[1])
    watched.beat("copying")
    # A stage that takes longer than it ever did counts for nothing, and not for less.
    watched.active_since = time.monotonic() - 500
    assert watched.left() == 100
    watched.ended(STEPS[1], 500.0, Ledger())
    watched.started(STEPS[2])
    watched.ended(STEPS[2], 90.0, Ledger())
    assert watched.left() is None
    said = told.getvalue()
    assert "install: install at work (about 2 m 40 s left)" in said
    assert "install: copying (about 2 m 40 s left)" in said
    assert "verify: verify at work (about 1 m 40 s left)" in said


def test_a_terminal_shows_the_time_left(terminal: Callable[[Callable[[io.TextIOWrapper], None]], list[str]]) -> None:
    def write(stream: io.TextIOWrapper) -> None:
        watched = Terminal(stream)
        watched.expected = {"install": 65.0, "verify": 100.0}
        watched.planned(Plan("web", tuple(STEPS)), "run")
        watched.started(STEPS[1])
        watched.live.stop()

    [line] = [line for line in terminal(write) if "install at work" in line]
    assert line.endswith("install at work, about 2 m 40 s left")


def test_without_a_history_of_every_stage_nothing_is_guessed() -> None:
    told = io.StringIO()
    watched = console.JsonLines(told)
    watched.expected = {"install": 60.0}
    watched.planned(Plan("web", tuple(STEPS)), "run")
    assert watched.left() is None
    watched.expected = {"install": 60.0, "verify": 30.0}
    watched.started(STEPS[1])
    first, second = map(json.loads, told.getvalue().splitlines())
    assert "left" not in first
    assert second["left"] == 90


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *[(None, ""), (0, "nearly done"), (9.9, "nearly done"), (11, "about 10 s left"), (58, "about 1 m left")],
        *[(64, "about 1 m left"), (134, "about 2 m 10 s left"), (400, "about 7 m left"), (7200, "about 2 h 00 m left")],
    ],
)
def test_an_estimate_is_no_finer_than_it_is(seconds: float | None, text: str) -> None:
    assert left_text(seconds) == text
