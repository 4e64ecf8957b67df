"""Progress of a transfer, and the reason why one failed, in one line each."""

from __future__ import annotations

import re
import time

import requests

from builder.stage import Progress
from builder.system import proxies

_BEAT_EVERY = 0.5


class Beat:
    """Says how far a transfer is, at most twice a second.

    Args:
        start: bytes that were there before it began.
        total: bytes when it is done, None where that is not known.
        where: `from` or `to` whom, for people.
    """

    def __init__(self, progress: Progress, start: int, total: int | None, where: str) -> None:
        self._progress = progress
        self._start = start
        self._total = total
        self._where = where
        self._began = self._last = time.monotonic()

    def at(self, size: int) -> None:
        """So many bytes are there now."""
        now = time.monotonic()
        if now - self._last < _BEAT_EVERY and size != self._total:
            return
        self._last = now
        rate = (size - self._start) / max(now - self._began, 0.001)
        text = f"{size >> 20} MiB, {rate / (1 << 20):.1f} MiB/s {self._where}"
        if self._total:
            left = (self._total - size) / max(rate, 1.0)
            text = f"{100 * size // self._total} % of {self._total >> 20} MiB, {text}, {_clock(left)} left"
        self._progress.beat(text)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def brief(fault: requests.RequestException) -> str:
    """The innermost reason, one line, without object addresses; of a proxy also where it is."""
    inner: object = fault.args[0] if fault.args else fault
    inner = getattr(inner, "reason", None) or inner
    if isinstance(fault, requests.exceptions.ProxyError):
        # urllib3 keeps what it says of all proxies and what happened to this one side by side.
        happened = inner.args[-1] if isinstance(inner, Exception) and inner.args else inner
        url = str(fault.request.url) if fault.request is not None else None
        return f"the proxy {proxies.used_for(url)} cannot be used: {_words(happened, fault)}"
    return _words(inner, fault)


def _words(inner: object, fault: requests.RequestException) -> str:
    text = re.sub(r"<[^>]* object at 0x[0-9a-f]+>:? ?", "", str(inner)) or type(fault).__name__
    # Its own words for an answer that ended early are written twice.
    if early := re.search(r"IncompleteRead\((\d+) bytes read, (\d+) more expected\)", text):
        return f"the answer broke off: {early[2]} bytes are missing"
    # urllib3 2 puts "HTTPSConnection(host='…', port=443): " before what happened.
    text = re.sub(r"^\w+\(host='[^']*', port=\d+\): ", "", text)
    return re.sub(r"^\w+\((.*)\)$", r"\1", text.splitlines()[0]).strip("'\" ")
