"""Read what a terminal would show from the bytes of a console, by a terminal emulator (pyte).

Consoles are 80 columns wide: installers (tmux, newt) address the cursor, kernels and shells just print.

Invariant: no bytes raise, and none cost more than a second or two. A guest prints what it likes, and pyte raises on
some sequences and is slow on others: then the text is what is left of the bytes without escape codes.
"""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Mapping
from typing import Any

COLUMNS, LINES = 80, 24
# tmux's own last line: `[anaconda] 1:main* 2:shell … Switch tab: Alt+Tab`.
STATUS_LINE = re.compile(r"^\[[\w.-]+\] ?\d+:\S")
WORDS = re.compile(r"\w")
# Control sequences as ECMA-48 has them: CSI with its intermediate bytes (`ESC [ ! p`), strings (OSC, DCS, SOS, PM,
# APC) to their end in BEL or ST, and the short ones. None of them is text.
ESCAPES = re.compile(
    rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b\r\n]*(?:\x07|\x1b\\)|[ -/]+[0-~]|[0-OQ-WYZ\\`-~])"
)
# Of those, what pyte takes for text or raises on; and the leap to the far corner with which systemd measures a
# terminal: one that answers is put back to where it was, one that keeps silent as we do is left there, below many
# empty lines.
UNDRAWN = re.compile(
    rb"\x1b(?:\[[0-?]*[ -/]+[@-~]|\[[<-?][0-?]*[@-IL-gi-km-~]|[PX^_][^\x07\x1b\r\n]*(?:\x07|\x1b\\)|\[32766;32766H)"
)
CONTROLS = re.compile(r"[^\n\t\x20-\x7e\x80-\U0010ffff]")
# The newest bytes that are emulated; more than this at once is no screen but a flood.
MOST = 64 << 10
# Seconds of this thread's processor time for one console. 64 KiB of an installer take 0.4 s on a slow host; the same
# of the dearest sequences would take minutes.
BUDGET = 2.0
# Bytes between two looks at the clock: 80 sequences that fill the whole screen.
STEP = 256
# Combining characters on one character that are drawn; no script has more than a few.
MARKS = 4


class _TooDearError(Exception):
    """The emulator takes too long over these bytes."""


def last_line(console: bytes) -> str:
    """Return the last line on the screen that says something; "" when none does.

    Args:
        console: the latest bytes of a console; may begin in the middle of a sequence.
    """
    lines = _screen(console, history=0) or stripped(console[-MOST:]).splitlines()
    texts = [line.strip() for line in lines]
    speaking = [text for text in texts if WORDS.search(text) and not STATUS_LINE.match(text)]
    return speaking[-1] if speaking else ""


def cleaned(console: bytes) -> str:
    """Return a console's text without escape codes: what scrolled away, then what the screen shows.

    Lines that fill all 80 columns are joined with the next one, since a terminal wraps there. More than 64 KiB are
    only stripped of their escape codes.
    """
    rows = _screen(console, history=MOST) if len(console) <= MOST else None
    if rows is None:
        return stripped(console)
    lines: list[str] = []
    whole = ""
    for row in rows:
        whole += row
        if not row or row[-1].isspace():
            lines.append(whole.rstrip())
            whole = ""
    lines.append(whole.rstrip())
    return "\n".join(lines).strip("\n") + "\n"


def stripped(console: bytes) -> str:
    """Return a console's bytes as text, without escape codes and control characters, whatever they are."""
    text = ESCAPES.sub(b"", console).decode("utf-8", "replace")
    return CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def _screen(console: bytes, history: int) -> list[str] | None:
    """Return the rows of the screen after those that scrolled away; None where the emulator gives up."""
    # Not at the head: commands that show no console start without it.
    import pyte

    screen: Any = pyte.HistoryScreen(COLUMNS, LINES, history=history) if history else pyte.Screen(COLUMNS, LINES)
    stream = pyte.Stream(screen)
    # A guest that prints UTF-8 cut in the middle, or plain noise, must not stop the reader.
    text = _without_heaps(UNDRAWN.sub(b"", console[-MOST:]).decode("utf-8", "replace"))
    end = time.thread_time() + BUDGET
    try:
        for at in range(0, len(text), STEP):
            stream.feed(text[at : at + STEP])
            if time.thread_time() > end:
                raise _TooDearError
        gone = screen.history.top if history else ()
        return [_row(row) for row in (*gone, *(screen.buffer[line] for line in range(LINES)))]
    except Exception:
        # Whatever it is that pyte trips over: IndexError, TypeError, ValueError, UnboundLocalError were seen.
        return None


def _row(row: Mapping[int, Any]) -> str:
    """Return the text of one row, as wide as the screen; the second column of a wide character holds none."""
    last = max((column for column in row if column < COLUMNS), default=-1)
    return "".join(row[column].data for column in range(last + 1)) + " " * (COLUMNS - 1 - last)


def _without_heaps(text: str) -> str:
    """Return the text without combining characters that are heaped on others: each costs as much as all before it."""
    if text.isascii():
        return text
    kept, heap = [], 0
    for char in text:
        heap = heap + 1 if unicodedata.combining(char) else 0
        if heap <= MARKS:
            kept.append(char)
    return "".join(kept)
