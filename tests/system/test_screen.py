"""The screen of a terminal, from the bytes that installers and kernels write."""

from __future__ import annotations

import pytest

from builder.system.screen import cleaned, last_line
from tests.fakes import systemd

STATUS = b"\x1b[24;1H\x1b[30m\x1b[42m[anaconda] 1:main* 2:shell  3:log  4:storage-lo> Switch tab: Alt+Tab\x1b[0m"


@pytest.mark.parametrize(
    ("console", "expected"),
    [
        (b"", ""),
        (b"\x1b[2J\x1b[H\r\n", ""),
        (b"one\r\ntwo\r\n", "two"),
        (b"Installing glibc (3/300)\rInstalling bash (4/300) ", "Installing bash (4/300)"),
        (b"\x1b[1;1H\x1b[2JInstalling libgcc (1/299)\x1b[K\r\n" + STATUS + b"\x1b[2;1H", "Installing libgcc (1/299)"),
        (b"-----\r\nreal words\r\n-----\r\n", "real words"),
        (b"31mcut sequence\xe2\x82\r\nnoise \xff\xfe end\r\n", "noise �� end"),
        (b"\x1b]0;title\x07shown\r\n", "shown"),
        (b"shown\r\n\x1b[!p\x1b]104\x07\x1b[?7h\x1b[18t\x1b[c\x1bP+q544E\x1b\\", "shown"),
    ],
)
def test_last_line(console: bytes, expected: str) -> None:
    assert last_line(console) == expected


def test_cleaned_joins_what_a_terminal_wraps() -> None:
    long = "x" * 79 + " " + "y" * 100
    assert cleaned(b"before\r\n" + long.replace(" ", "_").encode() + b"\r\nafter\r\n") == (
        "before\n" + long.replace(" ", "_") + "\nafter\n"
    )


def test_cleaned_draws_nothing_of_what_systemd_asks_the_terminal() -> None:
    text = cleaned(b"logout\r\n" + 3 * systemd.TERMINAL_RESET + systemd.AGETTY)
    assert text == "logout\n\n\nDebian GNU/Linux 13 vm ttyS0\n\nvm login:\n"


def test_cleaned_keeps_what_scrolled_away() -> None:
    lines = [f"line {number}" for number in range(1000)]
    assert cleaned("".join(f"\x1b[32m{line}\x1b[0m\r\n" for line in lines).encode()).splitlines() == lines


def test_cleaned_keeps_what_tmux_scrolled_inside_its_region() -> None:
    """tmux scrolls all lines but its own: what leaves at the top must not be lost."""
    lines = [f"Installing package {number}" for number in range(100)]
    console = b"\x1b[2J\x1b[1;23r\x1b[1;1H" + "".join(f"{line}\r\n" for line in lines).encode() + STATUS
    told = cleaned(console)
    assert [line for line in told.splitlines() if line.startswith("Installing")] == lines


def test_words_before_a_status_bar_on_the_same_screen() -> None:
    assert last_line(b"Pane is dead\r\n" + STATUS) == "Pane is dead"
