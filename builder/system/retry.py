"""Wait for an answer, and retry work that failed, by tenacity; no code sleeps by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import tenacity

T = TypeVar("T")


def until(ask: Callable[[], T | None], *, within: float, every: float = 0.05) -> T | None:
    """Ask until the answer is not None, and return it; None when `within` seconds have passed.

    Args:
        ask: looked at once at the start, then every `every` seconds.
        within: seconds; the last look is at or after this time.
        every: seconds between two looks.
    """
    asking = tenacity.Retrying(
        retry=tenacity.retry_if_result(lambda answer: answer is None),
        stop=tenacity.stop_after_delay(within),
        wait=tenacity.wait_fixed(every),
        retry_error_callback=lambda _: None,
    )
    return asking(ask)


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

    def pausing(state: tenacity.RetryCallState) -> None:
        fault = state.outcome.exception() if state.outcome else None
        if fault is not None:
            on_retry(fault, state.upcoming_sleep)

    asking = tenacity.Retrying(
        retry=tenacity.retry_if_exception(heals),
        stop=tenacity.stop_after_attempt(tries),
        wait=tenacity.wait_exponential(multiplier=first),
        before_sleep=pausing,
        reraise=True,
    )
    return asking(work)
