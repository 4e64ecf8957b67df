"""Wait for an answer, and retry work that failed, by tenacity; no code sleeps by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import tenacity

T = TypeVar("T")


def until(ask: Callable[[], T | None], *, within: float, every: float = 0.05) -> T | None:
    """Ask until the answer is not None, and return it; None when `within` seconds have passed.

    Args:
        ask: looked at once at the start, then every `every` seconds.
        within: seconds; the last look is at or after this time.
        every: seconds between two looks.
    """
    asking = _retrying(
        retry=lambda state: not state.outcome.failed and state.outcome.result() is None,
        stop=lambda state: state.seconds_since_start >= within,
        wait=lambda _: every,
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

    asking = _retrying(
        retry=lambda state: state.outcome.failed and heals(state.outcome.exception()),
        stop=lambda state: state.attempt_number >= tries,
        wait=lambda state: first * 2.0 ** (state.attempt_number - 1),
        before_sleep=pausing,
        reraise=True,
    )
    return asking(work)


def with_headway(
    work: Callable[[], T], *, passing: type[Exception], tries: int, first: float, got: Callable[[], int], enough: int
) -> T:
    """Do the work, and do it again while it breaks off but gets further; the last fault is raised as it is.

    Args:
        passing: the fault after which another try may do better.
        tries: at most so many, one after the other, that bring less than `enough`.
        first: seconds before the second try; twice as long before each further one that brought little, up to 30 times.
        got: bytes that are there.
        enough: bytes.
    """
    fruitless, best = 0, got()

    def count(_: tenacity.RetryCallState) -> None:
        nonlocal fruitless, best
        fruitless = 0 if got() - best >= enough else fruitless + 1
        best = max(best, got())

    asking = _retrying(
        retry=lambda state: state.outcome.failed and isinstance(state.outcome.exception(), passing),
        after=count,
        stop=lambda _: fruitless >= tries,
        wait=lambda _: first * min(2.0 ** max(0, fruitless - 1), 30),
        reraise=True,
    )
    return asking(work)


def _retrying(**rules: Any) -> tenacity.Retrying:
    """Return tenacity's loop with these rules, each a function of its RetryCallState."""
    # Not at the head: what waits for nothing, as a plan does, starts without asyncio and all else that it loads.
    import tenacity

    return tenacity.Retrying(**rules)


def may_heal(status: int) -> bool:
    """Return whether a later request may succeed after this HTTP status: server errors, time-outs, rate limits."""
    return status >= 500 or status in (408, 425, 429)
