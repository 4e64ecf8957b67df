"""The standard streams of this process, made usable however it was started.

Invariant: afterwards all three exist, and a reader that left early is never an error: what is written is dropped.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO


def prepare() -> None:
    """Open /dev/null for each stream that is closed, and make both outputs survive a reader that is gone.

    cron, supervisors and `>&-` start programs with closed streams. Python then has None in their place, and the next
    file that is opened gets the number of the stream: a program that is started would write into it.
    """
    missing = [stream is None for stream in (sys.stdin, sys.stdout, sys.stderr)]
    # The lowest free number is given, so in this order each gets its own, unless a module has a file open there.
    numbers = [_null() if gone else number for number, gone in enumerate(missing)]
    if missing[0]:
        sys.stdin = open(numbers[0], encoding="utf-8", closefd=False)  # noqa: SIM115 (as long as the process)
    sys.stdout = _output(numbers[1], sys.stdout)
    sys.stderr = _output(numbers[2], sys.stderr)


def silence(number: int) -> None:
    """Redirect a file descriptor to /dev/null, so that Python's own flush at the end cannot fail."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    os.close(null)


class _Forgiving(io.FileIO):
    """An output that drops what nobody reads any more."""

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except BrokenPipeError:
            silence(self.fileno())
            return super().write(data)  # type: ignore[arg-type]


def _null() -> int:
    number = os.open(os.devnull, os.O_RDWR)
    os.set_inheritable(number, number <= 2)
    return number


def _output(number: int, stream: TextIO | None) -> TextIO:
    """Return a text stream like the one that there was."""
    raw = _Forgiving(number, "w", closefd=False)
    encoding, errors = (stream.encoding, stream.errors) if stream else ("utf-8", "backslashreplace")
    by_line = raw.isatty() or number == 2
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=by_line)
