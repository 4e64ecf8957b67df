"""The one rule: nothing sleeps; what must be asked again is asked by tenacity, here."""

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
