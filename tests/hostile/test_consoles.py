"""Whatever a guest prints on its console: nothing that reads it raises, or takes long."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from builder.diagnosis import classify, evidence, watchdog
from builder.errors import Source, VerifyError
from builder.guest.console import log_in
from builder.nightly import worker
from builder.system import tail
from builder.system.screen import cleaned, last_line

# What pyte raised on: IndexError, TypeError, UnboundLocalError, ValueError.
KNOWN = (
    "あ\rx".encode(),
    "あ\b\x1b[K".encode(),
    *(b"\x1b[?" + rest for rest in (b"1m", b"5J", b"5K", b"1A", b"1;2H", b"1r", b"1@", b"1P", b"1g", b"6n", b"1c")),
    b"\x1b[5J",
    b"\x1b[;5n",
    b"\x1b[0;0c",
    b"\x1b[1;2A",
    b"\x1b[1;2;3H",
    b"\x1b[1;2;3r",
    b"\x1b[1;2L",
    b"\x1b[1;2X",
    b"\x1b[38m",
    b"\x1b[38;5m",
    b"\x1b[38;2;1m",
    b"\x1b[38;5;999m",
    "\x1b[²A".encode(),
    b"\x1b[" + b"9" * 5000 + b"A",
    b"\x1b[?3h" + b"x" * 200 + b"\x1b[?3l",
    b"\x1b[5;5r\x1b[1;1r\x1bM\x1bD\x1bE",
)
# What costs pyte most, 64 KiB of each.
DEAR = {
    "combining marks": "a" + "\u0301" * 32768,
    "marks on many": "a\u0301\u0302\u0303\u0304\u0305\u0306" * 5000,
    "filled screens": "\x1b#8" * 21845,
    "lines": "\n" * 65536,
    "reverse lines": "\x1b[H" + "\x1bM" * 32768,
    "inserted characters": "\x1b[4h" + "a\r" * 32768,
    "an endless title": "\x1b]0;" + "x" * 65000,
}
SEQUENCE = st.builds(
    lambda lead, numbers, middle, end: lead + numbers + middle + end,
    st.sampled_from(
        [b"\x1b[", b"\x1b[?", b"\x1b[>", b"\x1b", b"\x1b#", b"\x1b%", b"\x1b(", b"\x1b]", b"\x9b", b"\xc2\x9b"]
    ),
    st.lists(st.sampled_from([b"0", b"1", b"5", b"38", b"999", b"99999", b""]), max_size=4).map(b";".join),
    st.sampled_from([b"", b" ", b"!", b"$"]),
    st.binary(min_size=1, max_size=1),
)
CONSOLE = st.lists(
    st.one_of(SEQUENCE, st.binary(max_size=8), st.text(max_size=8).map(lambda text: text.encode("utf-8", "replace"))),
    max_size=30,
).map(b"".join)


@given(CONSOLE)
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@example(b"".join(KNOWN))
def test_no_console_raises(console: bytes) -> None:
    assert isinstance(last_line(console), str)
    text = cleaned(console)
    text.encode()
    assert "\x1b" not in text
    classify.classify(text, Source.CONSOLE)


@pytest.mark.parametrize("console", KNOWN)
def test_words_beside_what_the_emulator_trips_over_are_still_read(console: bytes, tmp_path: Path) -> None:
    """By each that reads a console: the beat of a run, the watchdog, the evidence, the report."""
    said = console + b"\x1b[m\r\n\r\nPane is dead\r\n"
    path = tmp_path / "console.log"
    path.write_bytes(said)
    assert "Pane is dead" in last_line(said)
    texts = watchdog.read_texts({Source.CONSOLE: path})
    verdict = classify.classify(texts[Source.CONSOLE], Source.CONSOLE)
    assert verdict is not None
    evidence.make_readable(path)
    assert "Pane is dead" in path.with_suffix(".txt").read_text(encoding="utf-8")
    assert "Pane is dead" in worker._last_lines(path)
    assert "Pane is dead" in tail.last_lines(path)


def test_a_wide_character_that_is_overwritten_is_drawn_as_a_terminal_does() -> None:
    assert last_line("日本語のメッセージ\rok".encode()).startswith("ok")


def test_no_console_costs_more_than_its_budget() -> None:
    """The kernel ends a child that takes more processor time: without a budget these take two minutes."""
    program = """
import resource
from builder.system import screen
from tests.hostile.test_consoles import DEAR

resource.setrlimit(resource.RLIMIT_CPU, (15, 15))
screen.BUDGET = 0.2
for console in DEAR.values():
    screen.cleaned(console.encode()[:65536])
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_flood_is_read_in_pieces_and_no_word_of_it_is_missed(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    path.write_bytes(b"x" * 100 + b"Pane is dead\n" + b"y" * (3 << 20) + b"No disks detected. \n")
    growing = watchdog._Growing(path)
    looks = []
    while data := growing.new():
        looks.append(data)
    assert max(map(len, looks)) <= watchdog.PIECE + watchdog.SCREENFUL
    assert growing.size == path.stat().st_size
    assert b"Pane is dead" in looks[0]
    assert b"No disks detected. \n" in looks[-1]


class _Hostile:
    """A guest that lets anyone in, and answers each command with this status."""

    def __init__(self, status: bytes, noise: int = 0) -> None:
        self.status, self.noise = status, noise
        self.waiting = [b"vm login: "]
        self.typed = 0

    def read(self, _within: float, /) -> bytes | None:
        return self.waiting.pop(0) if self.waiting else b""

    def write(self, data: bytes, /) -> None:
        self.typed += 1
        marks = re.search(rb"\\n' (\w+) (\w+); ", data)
        if marks:
            if self.noise:
                self.waiting += [b"\xc2\x9b" * 2048] * self.noise
            left, right = marks.groups()
            answer = b"\n%s<%s\nout\n%s>%s=%s=\n" % (left, right, left, right, self.status)
            self.waiting += [answer] if self.status else []
        elif self.typed == 1:
            self.waiting.append(b"Password: ")
        else:
            self.waiting.append(b"# ")


def test_a_status_of_many_digits_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.guest.console.STEP", 0.2)
    with pytest.raises(VerifyError, match="no shell answers"), log_in(_Hostile(b"9" * 5000), "secret", within=1):
        pass


def test_an_endless_answer_is_not_kept() -> None:
    guest = _Hostile(b"0", noise=300)
    with log_in(guest, "secret", within=5) as shell:
        guest.status = b""
        with pytest.raises(VerifyError, match="no answer"):
            shell.run("true", within=0.5)
        assert len(shell._reader._unused) <= 256 << 10
