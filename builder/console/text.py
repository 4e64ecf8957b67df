"""Text for people: sizes, times, errors, tables.

Invariant: it fits 80 columns and cannot steer their terminal.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from builder.errors import BuilderError, Interrupted

KINDS = {
    "host": "starting machines",
    "guest": "in the guest",
    "copy": "copying",
    "convert": "converting",
    "hash": "hashing",
}


def size_text(count: int) -> str:
    """Bytes for people: `0 B`, `7.0 KiB`, `2.0 GiB`."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1023.95:
            return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def time_text(seconds: float) -> str:
    """Seconds for people: `0.3 s`, `12 s`, `1 m 05 s`, `2 h 03 m`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} m"


def left_text(seconds: float | None) -> str:
    """An estimate for people, no finer than it is: `about 40 s left`, `about 12 m left`; empty without one."""
    if seconds is None:
        return ""
    if seconds < 10:
        return "nearly done"
    step = 10 if seconds < 300 else 60
    whole = round(seconds / step) * step
    text = f"{whole // 60} m" if 60 <= whole < 3600 and whole % 60 == 0 else time_text(whole)
    return f"about {text} left"


def clean(text: str) -> str:
    """Return one line that cannot steer a terminal: a guest's console may print anything."""
    return "".join(char if char.isprintable() else " " for char in text.rstrip())


def colourful(stream: TextIO) -> bool:
    """Return whether colours make sense there (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def times_lines(took: dict[str, Any]) -> list[str]:
    """The same for people."""
    lines = [f"took     {time_text(took['total'])}"]
    for kind, seconds in took["kinds"].items():
        moved = took["moved"].get(kind)
        lines.append(f"{'':9}{time_text(seconds):>9} {KINDS.get(kind, kind)}{f', {size_text(moved)}' if moved else ''}")
    if took["kinds"]:
        lines.append(f"{'':9}{time_text(took['rest']):>9} all else")
    if took["stages"]:
        stages = ", ".join(
            f"{name} {time_text(spent['seconds'])}".replace(" ", "\u00a0") for name, spent in took["stages"].items()
        )
        lines += textwrap.wrap(stages, 79, initial_indent="stages   ", subsequent_indent=" " * 9)
    return [line.replace("\u00a0", " ") for line in lines]


def error_lines(
    error: BuilderError | Interrupted | KeyboardInterrupt, evidence: str = "", *, colour: bool, width: int = 0
) -> list[str]:
    """An error for people: what happened, indented where and why, what to do, where the evidence is.

    Args:
        width: columns of the terminal, whose end tears no word; 0 lets lines be as long as they are.
    """
    red, bold, plain = ("\033[1;31m", "\033[1m", "\033[0m") if colour else ("", "", "")
    if not isinstance(error, BuilderError):
        lines = [f"{red}interrupted{plain}" + (f" by {error}" if str(error) else "")]
    else:
        first, *more = _folded(7, error.brief, width)
        lines = [f"{red}error:{plain} {bold}{first.lstrip()}{plain}", *(f"{bold}{line}{plain}" for line in more)]
        for line in error.details.expandtabs().splitlines():
            lines += _folded(2, line, width)
        hint = [part for line in error.hint.splitlines() for part in _folded(6, line, width)]
        lines += [f"{bold}hint:{plain} {line.lstrip()}" for line in hint[:1]] + hint[1:]
    if evidence:
        lines.append(f"{bold}evidence:{plain} {evidence}")
    return lines


def _folded(indent: int, text: str, width: int) -> list[str]:
    """A line of text as lines that are indented and fit the width."""
    inner = width - indent
    parts = textwrap.wrap(clean(text), inner, break_on_hyphens=False) if 0 < inner < len(text) else [clean(text)]
    return [f"{'':{indent}}{part}".rstrip() for part in parts]


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Lay out a table for people, as wide as the terminal; only the last column wraps, and no cell is ever cut.

    Args:
        right: indexes of columns whose text is aligned to the right; never the last one.
    """
    cells = [[clean(cell) for cell in row] for row in [heads, *rows]]
    widths = [max(map(_columns, column)) for column in zip(*cells, strict=True)][:-1]
    before = sum(width + 2 for width in widths)
    # In a pipe a line stays a line, so that programs for text can use it.
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    space = sys.maxsize if piped else max(20, shutil.get_terminal_size().columns - before)
    lines = []
    for row in cells:
        padded = []
        for index, (cell, width) in enumerate(zip(row, widths, strict=False)):
            gap = " " * (width - _columns(cell))
            padded.append(f"{gap}{cell}  " if index in right else f"{cell}{gap}  ")
        first, *more = _wrapped(row[-1], space)
        lines += [f"{''.join(padded)}{first}".rstrip(), *(f"{'':{before}}{part}" for part in more)]
    return "".join(f"{line}\n" for line in lines)


def _columns(text: str) -> int:
    """Count the columns that a text takes on a terminal (Unicode Standard Annex 11)."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) != 0 for char in text)


def _wrapped(text: str, space: int) -> list[str]:
    """Break a text into lines of so many columns, between words where there are any."""
    if _columns(text) <= space:
        return [text]
    # Lines are counted in characters here: half as many are sure to fit where some are wide.
    return textwrap.wrap(text, space if len(text) == _columns(text) else space // 2, break_on_hyphens=False)
