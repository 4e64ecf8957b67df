"""Wait for an answer, and retry work that failed; nothing else sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(ask: Callable[[], T | None], *, within: float, every: float = 0.05) -> T | None:
    """Ask until the answer is not None, and return it; None when `within` seconds have passed.

    Args:
        ask: looked at once at the start, then every `every` seconds.
        within: seconds; the last look is at or after this time.
        every: seconds between two looks.
    """
    end = time.monotonic() + within
    while True:
        # The time is taken first: what is asked may come true while it is looked at.
        last = time.monotonic() >= end
        answer = ask()
        if answer is not None or last:
            return answer
        time.sleep(every)


def again(
    work: Callable[[], T],
    *,
    heals: Callable[[BaseException], bool],
    tries: int,
    first: float,
    on_retry: Callable[[BaseException, float], None],
) -> T:
    """Do the work, and do it again while what it raises may heal by itself; the last fault is raised as it is.

    Args:
        heals: whether another try may do better after this.
        tries: at most so many.
        first: seconds before the second try; each further pause is twice as long.
        on_retry: called before each pause, with the fault and the seconds.
    """
    pause = first
    for left in range(tries - 1, -1, -1):
        try:
            return work()
        except BaseException as fault:
            if not left or not heals(fault):
                raise
            on_retry(fault, pause)
        time.sleep(pause)
        pause *= 2
    raise AssertionError(f"{tries} tries are none")


def with_headway(
    work: Callable[[], T], *, passing: type[Exception], tries: int, first: float, got: Callable[[], int], enough: int
) -> T:
    """Do the work, and do it again while it breaks off but gets further.

    Args:
        passing: the fault after which another try may do better.
        tries: at most so many, one after the other, that bring less than `enough`.
        first: seconds before the second try; twice as long before each further one that brought little, up to 30 times.
        got: bytes that are there.
        enough: bytes.
    """
    fruitless, best = 0, got()
    while True:
        try:
            return work()
        except passing:
            fruitless = 0 if got() - best >= enough else fruitless + 1
            best = max(best, got())
            if fruitless >= tries:
                raise
        time.sleep(first * min(2.0 ** max(0, fruitless - 1), 30))


def may_heal(status: int) -> bool:
    """Tell whether a later request may be answered better: after server errors, time-outs, and too many requests."""
    return status >= 500 or status in (408, 425, 429)
