# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""Wait, and read the time of day. Everything that waits uses this module."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def pause(seconds: float) -> None:
    """Do nothing for so long."""
    time.sleep(seconds)  # noqa: TID251 - a program of its own


def until(ask: Callable[[], T | None], *, within: float, every: float = 0.5) -> T | None:
    """Ask until there is an answer, or None when `within` seconds have passed."""
    end = time.monotonic() + within
    while True:
        answer = ask()
        if answer is not None or time.monotonic() >= end:
            return answer
        pause(every)


def stamp() -> str:
    """The time of day, as Anaconda puts it before some console lines."""
    return time.strftime("%H:%M:%S", time.gmtime())
