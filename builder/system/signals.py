"""Turn the first INT, TERM or HUP into one exception; later ones do not disturb its clean-up."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from builder.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def one_interrupt() -> Iterator[None]:
    """Turn the first INT, TERM or HUP within the block into `Interrupted`; ignore those that follow.

    A signal that was ignored at the start stays ignored (HUP under nohup, INT in the background of a script).
    The old handlers are back when the block is left. Only in the main thread, where Python runs signal handlers.

    Raises:
        Interrupted: in the block; or at its end, for a signal that came while the handlers were put back.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    arrived: list[str] = []
    leaving = False

    def handle(number: int, _frame: FrameType | None) -> None:
        arrived.append(signal.Signals(number).name)
        if len(arrived) == 1 and not leaving:
            raise Interrupted(arrived[0])

    raised = True
    try:
        for number in before:
            signal.signal(number, handle)
        yield
        leaving = True
        raised = False
    finally:
        leaving = True
        for number, handler in before.items():
            # None stands for a handler that was not set from Python and cannot be put back from it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    if arrived and not raised:
        raise Interrupted(arrived[0])
