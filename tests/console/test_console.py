"""Output of a run for people and programs: on a terminal, in a pipe, as JSON lines."""

from __future__ import annotations

import fcntl
import io
import json
import os
import struct
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyte
import pytest

from builder import console
from builder.console.terminal import Terminal
from builder.console.watch import Watcher
from builder.errors import InstallError, Interrupted
from builder.stage import Action, Inputs, Job, Ledger, Plan, ReasonKind, Stage, Step

pytestmark = pytest.mark.unit

ACTIONS: dict[str, Action] = {"fetch": "reuse", "kickstart": "run", "install": "run", "provision": "not needed"}


def step(name: str, action: Action) -> Step:
    """A step of a pipeline that does nothing."""

    def inputs(_: object) -> Inputs:
        return Inputs()

    def run(_: Job[Any]) -> None:
        return

    stage = Stage(name, 1, (), inputs, run, f"{name} at work")
    reason = "first run, and a reason that is much too long for the eighty columns that a terminal has"
    return Step(stage, Inputs(), "ab" * 32, action, reason, ReasonKind.FIRST_RUN)


STEPS = {name: step(name, action) for name, action in ACTIONS.items()}
PLAN = Plan("small", tuple(STEPS.values()))


def ledger() -> Ledger:
    """90 seconds in a guest, and one spent on moving 3 GiB."""
    return Ledger({"guest": 90.0, "copy": 1.0}, {"copy": 3 << 30})


def tell(watcher: Watcher, *, fails: bool = False) -> None:
    """A run, as the pipeline tells it."""
    with watcher:
        watcher.planned(PLAN, "20260102-030405-abcd")
        watcher.started(STEPS["kickstart"])
        watcher.ended(STEPS["kickstart"], 0.25, Ledger())
        watcher.started(STEPS["install"])
        watcher.beat("Installing kernel\x1b[2J (12/300) " + "x" * 100)
        watcher.note("a note\x07 worth keeping")
        if fails:
            watcher.failed(STEPS["install"], 92.0, InstallError("no"))
        else:
            watcher.ended(STEPS["install"], 92.0, ledger())


@pytest.fixture
def terminal() -> Iterator[Callable[[Callable[[io.TextIOWrapper], None]], list[str]]]:
    """Give a function a terminal of 80 columns to write to, and return the lines that stand there afterwards."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    screen = pyte.HistoryScreen(80, 24)
    feed = pyte.ByteStream(screen)

    def read() -> None:
        while True:
            try:
                data = os.read(master, 65536)
            except OSError:
                return
            feed.feed(data)

    def show(write: Callable[[io.TextIOWrapper], None]) -> list[str]:
        reader = threading.Thread(target=read)
        reader.start()
        with os.fdopen(slave, "w", encoding="utf-8") as stream:
            write(stream)
        reader.join()
        return [line.rstrip() for line in screen.display if line.strip()]

    yield show
    os.close(master)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (412 << 20, "412.0 MiB"),
        (8 << 30, "8.0 GiB"),
        (3 << 40, "3.0 TiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        ((1 << 30) - 1, "1.0 GiB"),
    ],
)
def test_sizes_are_readable(count: int, text: str) -> None:
    assert console.size_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *[(0, "0.0 s"), (0.34, "0.3 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 m 00 s"), (65, "1 m 05 s")],
        *[(3599.7, "1 h 00 m"), (7380, "2 h 03 m")],
    ],
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert console.time_text(seconds) == text


def test_a_terminal_shows_a_line_a_stage_and_keeps_a_clean_transcript(
    terminal: Callable[[Callable[[io.TextIOWrapper], None]], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("COLUMNS", raising=False)
    lines = terminal(lambda stream: tell(console.watcher(as_json=False, stream=stream)))
    assert lines[:2] == ["small: run 20260102-030405-abcd", "a note  worth keeping"]
    assert [line.split()[:2] for line in lines[2:]] == [["✓", name] for name in ("fetch", "kickstart", "install")] + [
        ["-", "provision"]
    ]
    assert lines[2].startswith(" ✓ fetch                 reuse: first run, and a reason")
    assert lines[2].endswith("…")
    assert lines[4] == " ✓ install     1 m 32 s  install at work"


def test_a_step_that_was_not_needed_after_all_does_not_seem_to_wait(
    terminal: Callable[[Callable[[io.TextIOWrapper], None]], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("COLUMNS", raising=False)

    def write(stream: io.TextIOWrapper) -> None:
        with Terminal(stream) as watched:
            watched.planned(PLAN, "id")

    lines = terminal(write)
    assert lines[2] == " ✓ kickstart             reuse: the same after all"


def test_the_active_stage_shows_its_last_beat_on_one_line(
    terminal: Callable[[Callable[[io.TextIOWrapper], None]], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("COLUMNS", raising=False)

    def write(stream: io.TextIOWrapper) -> None:
        watched = Terminal(stream)
        watched.planned(PLAN, "id")
        watched.started(STEPS["install"])
        watched.beat("Installing kernel\x1b[2J (12/300) " + "x" * 100)
        watched.live.refresh()
        watched.live.stop()

    lines = terminal(write)
    assert lines[3].startswith(" ▸ install        0.")
    assert lines[4].startswith("               Installing kernel [2J (12/300) xxx")
    assert lines[4].endswith("x…")
    assert [line.split()[1] for line in lines if not line.startswith("    ")][-1] == "provision"


@pytest.mark.parametrize(("ended", "left"), [(False, ["writing: 5 %"]), (True, [])])
def test_work_without_stages_shows_its_beats_until_it_ends(
    terminal: Callable[[Callable[[io.TextIOWrapper], None]], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    ended: bool,
    left: list[str],
) -> None:
    monkeypatch.setenv("TERM", "xterm")

    def write(stream: io.TextIOWrapper) -> None:
        watched = Terminal(stream)
        watched.beat("writing: 5 %")
        if ended:
            watched.__exit__(None)
        watched.live.stop()

    assert terminal(write) == left


def test_a_pipe_gets_plain_lines_and_few_beats() -> None:
    stream = io.StringIO()
    watched = console.watcher(as_json=False, stream=stream)
    tell(watched)
    text = stream.getvalue()
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "Installing" not in text
    assert [line.split(maxsplit=1)[1] for line in text.splitlines() if line.startswith("00:")] == [
        "kickstart: kickstart at work",
        "kickstart: done in 0.2 s",
        "install: install at work",
        "a note  worth keeping",
        "install: done in 1 m 32 s",
    ]
    eager = io.StringIO()
    tell(console.Lines(eager, every=0.0), fails=True)
    assert "install: Installing kernel" in eager.getvalue()
    assert eager.getvalue().endswith("install: failed after 1 m 32 s\n")
    alone = io.StringIO()
    console.Lines(alone, every=0.0).beat("writing: 5 %")
    assert alone.getvalue() == "00:00:00 writing: 5 %\n"


def test_programs_get_one_json_object_a_line() -> None:
    stream = io.StringIO()
    tell(console.watcher(as_json=True, stream=stream), fails=True)
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    names = ["planned", "started", "ended", "started", "beat", "note", "failed"]
    assert [event["event"] for event in events] == names
    assert events[0]["run"] == "20260102-030405-abcd"
    assert [stage["action"] for stage in events[0]["stages"]] == ["reuse", "run", "run", "not needed"]
    assert events[-1] | {"at": 0} == {"event": "failed", "at": 0, "stage": "install", "seconds": 92.0, "error": "no"}


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        (console.Lines, os.pipe),
        (console.JsonLines, os.pipe),
        (console.Lines, os.openpty),
        (Terminal, os.openpty),
    ],
)
def test_a_reader_that_went_away_fails_no_run(kind: type[Watcher], make: Callable[[], tuple[int, int]]) -> None:
    reader, writer = make()
    os.close(reader)
    with os.fdopen(writer, "w") as stream, Path(os.devnull).open("w") as nowhere:
        tell(kind(stream))
        os.dup2(nowhere.fileno(), writer)


def test_the_summary_accounts_for_every_second() -> None:
    watched = console.Lines(io.StringIO())
    tell(watched)
    took = console.times(watched, total=95.0)
    assert took["rest"] == 4.0
    assert took["kinds"] == {"guest": 90.0, "copy": 1.0}
    assert took["stages"]["kickstart"]["seconds"] == 0.25
    assert console.times_lines(took) == [
        "took     1 m 35 s",
        "          1 m 30 s in the guest",
        "             1.0 s copying, 3.0 GiB",
        "             4.0 s all else",
        "stages   kickstart 0.2 s, install 1 m 32 s",
    ]


def test_an_error_has_cause_details_hint_and_evidence() -> None:
    error = InstallError("the installer asked\x1b[31m a question", "line one\n  line\ttwo\n", "look here\nand there")
    assert console.error_lines(error, "artifacts/runs/x", colour=False) == [
        "error: the installer asked [31m a question",
        "  line one",
        "    line  two",
        "hint: look here",
        "      and there",
        "evidence: artifacts/runs/x",
    ]
    long = InstallError(
        "install: " + "brief " * 20, "  at " + "details-" * 3 + " and more" * 12, "do " * 40 + "\nor this"
    )
    folded = console.error_lines(long, colour=False, width=80)
    assert max(map(len, folded)) <= 80
    assert " ".join(" ".join(folded).split()) == " ".join(" ".join(console.error_lines(long, colour=False)).split())
    assert [line[:7] for line in folded[:3]] == ["error: ", "       ", "    at "]
    assert folded[-1] == "      or this"
    assert console.error_lines(InstallError("no"), colour=True)[0].startswith("\x1b[1;31merror:\x1b[0m")
    assert console.error_lines(Interrupted("SIGTERM"), colour=False) == ["interrupted by SIGTERM"]


def test_no_color_is_honoured(
    terminal: Callable[[Callable[[io.TextIOWrapper], None]], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def write(stream: io.TextIOWrapper) -> None:
        for term, no_color in (("xterm", ""), ("xterm", "1"), ("dumb", "")):
            monkeypatch.setenv("TERM", term)
            monkeypatch.setenv("NO_COLOR", no_color)
            seen.append(console.colourful(stream))

    terminal(write)
    assert seen == [True, False, False]
    assert not console.colourful(io.StringIO())


def test_a_table_fits_its_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    text = console.table(["NAME", "SIZE", "WHY"], [["a", "7 B", "word " * 12], ["b\x1b", "70 B", "x"]], right=(1,))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 40
    assert lines[0] == "NAME  SIZE  WHY"
    assert lines[1].startswith("a      7 B  word word")
    assert lines[2].startswith("            word")
    assert lines[-1] == "b     70 B  x"
    assert not any(line.endswith(" ") for line in lines)


@pytest.mark.parametrize(
    "why", ["x" * 150, "the installed disk holds a private key", "one-very-long-word.iso and more"]
)
def test_a_table_never_loses_a_letter(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    monkeypatch.setenv("COLUMNS", "44")
    body = console.table(["NAME", "STATE", "WHY"], [["n" * 12, "failed", why]]).splitlines()[1:]
    said = "".join(line.removeprefix("n" * 12 + "  failed") for line in body)
    assert said.replace(" ", "") == why.replace(" ", "")


def test_a_table_never_cuts_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert console.table(["NAME", "WHY"], [["n" * 60, "because"]]).splitlines()[1] == f"{'n' * 60}  because"
