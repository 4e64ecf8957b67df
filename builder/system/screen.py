"""Read what a terminal would show from the bytes of a console, by a terminal emulator (pyte).

Consoles are 80 columns wide: installers (tmux, newt) address the cursor, kernels and shells just print.
"""

from __future__ import annotations

import re

import pyte

COLUMNS, LINES = 80, 24
# tmux's own last line: `[anaconda] 1:main* 2:shell … Switch tab: Alt+Tab`.
STATUS_LINE = re.compile(r"^\[[\w.-]+\] ?\d+:\S")
WORDS = re.compile(r"\w")
# Control sequences as ECMA-48 has them: CSI with its intermediate bytes (`ESC [ ! p`), strings (OSC, DCS, SOS, PM,
# APC) to their end in BEL or ST, and the short ones. None of them is text.
ESCAPES = re.compile(
    rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b\r\n]*(?:\x07|\x1b\\)|[ -/]+[0-~]|[0-OQ-WYZ\\`-~])"
)
# Of those, what pyte takes for text; and the leap to the far corner with which systemd measures a terminal: one that
# answers is put back to where it was, one that keeps silent as we do is left there, below many empty lines.
UNDRAWN = re.compile(rb"\x1b(?:\[[0-?]*[ -/]+[@-~]|[PX^_][^\x07\x1b\r\n]*(?:\x07|\x1b\\)|\[32766;32766H)")
# Kept of the lines that scroll away; far more than any installer prints.
HISTORY = 200_000


def last_line(console: bytes) -> str:
    """The last line on the screen that says something; "" when none does.

    Args:
        console: the latest bytes of a console; may begin in the middle of a sequence.
    """
    screen = pyte.Screen(COLUMNS, LINES)
    _feed(screen, console)
    lines = [line.strip() for line in screen.display]
    speaking = [line for line in lines if WORDS.search(line) and not STATUS_LINE.match(line)]
    return speaking[-1] if speaking else ""


def cleaned(console: bytes) -> str:
    """A console's whole text without escape codes: what scrolled away, then what the screen shows.

    Lines that fill all 80 columns are joined with the next one, since a terminal wraps there.
    """
    screen = pyte.HistoryScreen(COLUMNS, LINES, history=HISTORY)
    _feed(screen, console)
    gone = ["".join(row[column].data for column in range(COLUMNS)) for row in screen.history.top]
    lines: list[str] = []
    whole = ""
    for row in [*gone, *screen.display]:
        whole += row
        if row[-1].isspace():
            lines.append(whole.rstrip())
            whole = ""
    lines.append(whole.rstrip())
    return "\n".join(lines).strip("\n") + "\n"


def _feed(screen: pyte.Screen, console: bytes) -> None:
    stream = pyte.ByteStream(screen)
    # A guest that prints UTF-8 cut in the middle, or plain noise, must not stop the reader.
    stream.feed(UNDRAWN.sub(b"", console))
