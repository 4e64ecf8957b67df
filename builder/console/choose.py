"""Choose the watcher that fits the stream."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from builder.console.watch import JsonLines, Lines, Watcher


def watcher(*, as_json: bool, stream: TextIO | None = None) -> Watcher:
    """The watcher that fits: for programs when asked for, for people at a terminal, else plain lines."""
    out = sys.stderr if stream is None else stream
    if as_json:
        return JsonLines(out)
    if out.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        # rich takes 0.1 s to load, and is of no use elsewhere.
        from builder.console.terminal import Terminal

        return Terminal(out)
    return Lines(out)
