"""Bounds for what servers send over HTTP: least speed of every answer, size of those that have to be small.

Invariant: no answer holds a command for ever, and none fills its memory. Bytes are counted at the connection, so that
the status line, the headers and what libraries read for themselves count as well.
"""

from __future__ import annotations

import http.client
import io
import time
from dataclasses import dataclass
from typing import Any

import requests
import requests.adapters
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

# Bytes of a body that is read whole. A registry has to take manifests of 4 MiB; all else is smaller.
SMALL = 4 << 20
# Lines in a row, without a byte of a body between them: http.client takes 100 headers, but any number of answers "100
# Continue" before the real one, and urllib3 any number of trailers.
LINES = 1000


class UnboundedError(requests.RequestException):
    """An answer is larger than its bound, or comes in a form whose size cannot be bounded."""


@dataclass(frozen=True)
class Pace:
    """The least speed of a transfer: so many bytes in so many seconds of waiting for the other side.

    The default is 1 KiB/s, a tenth of what a mobile line at its worst has: a medium of 1 GiB would take twelve days.
    A minute, since a server may think as long before its first byte (our read timeout).
    """

    least: int = 60 << 10
    seconds: float = 60.0


STEADY = Pace()


class BoundedAdapter(requests.adapters.HTTPAdapter):
    """Ends answers, and requests, that are slower than a pace.

    Unless a request is made with `stream`, its answer is read here, up to 4 MiB.
    """

    def __init__(self, pace: Pace = STEADY) -> None:
        # The parent class calls `init_poolmanager` from here.
        self._pools = {"http": _paced(HTTPConnectionPool, pace), "https": _paced(HTTPSConnectionPool, pace)}
        super().__init__()

    def init_poolmanager(self, *args: Any, **words: Any) -> None:
        super().init_poolmanager(*args, **words)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: Any, **words: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **words)
        manager.pool_classes_by_scheme = self._pools
        return manager

    def send(self, request: requests.PreparedRequest, stream: bool = False, **words: Any) -> requests.Response:  # type: ignore[override]
        # A few KiB can unpack to any size.
        request.headers["Accept-Encoding"] = "identity"
        answer = super().send(request, stream=stream, **words)
        if answer.headers.get("Content-Encoding", "identity").lower() != "identity" and request.method != "HEAD":
            answer.close()
            raise UnboundedError("the answer is compressed, which was not asked for", response=answer)
        # requests reads the body of a redirect whole before it goes on.
        if not stream or answer.is_redirect:
            read_small(answer)
        return answer


def read_small(answer: requests.Response, limit: int = SMALL) -> bytes:
    """Read a body that has to be small, so that its connection can be used again.

    Raises:
        UnboundedError: it is larger than `limit` bytes.
        requests.RequestException: it broke off, or was too slow.
    """
    if answer._content_consumed:
        return answer.content
    content = bytearray()
    for data in answer.iter_content(1 << 16):
        content += data
        if len(content) > limit:
            answer.close()
            raise UnboundedError(f"the answer is larger than {limit >> 10} KiB", response=answer)
    answer._content = bytes(content)
    return answer.content


class _Meter:
    """Counts the bytes of one direction against the time that was spent on waiting for them."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._waited, self._count = 0.0, 0

    def add(self, count: int, since: float) -> None:
        """Note bytes that moved since this time of the monotonic clock.

        Raises:
            TimeoutError: too few bytes came.
        """
        self._waited += time.monotonic() - since
        self._count += count
        if self._waited >= self._pace.seconds:
            if self._count < self._pace.least:
                raise TimeoutError(f"too slow: {self._count} bytes in {self._waited:.0f} s")
            self._waited, self._count = 0.0, 0


class _PacedFile(io.RawIOBase):
    """Reader of a connection with a least speed."""

    def __init__(self, file: Any, meter: _Meter) -> None:
        self._file, self._meter = file, meter

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        since = time.monotonic()
        count: int | None = self._file.readinto(buffer)
        # At the end of a body the other side owes no more bytes.
        if count:
            self._meter.add(count, since)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _Lines(io.BufferedReader):
    """Reads a response in which no number of lines holds its reader for ever."""

    _count = 0

    def readline(self, size: int | None = -1, /) -> bytes:
        self._count += 1
        if self._count > LINES:
            raise http.client.HTTPException(f"more than {LINES} lines of headers")
        return super().readline(size)

    def read(self, size: int | None = -1, /) -> bytes:
        self._count = 0
        return super().read(size)


class _PacedSocket:
    """A connected socket whose answers and requests are not slower than a pace."""

    def __init__(self, sock: Any, pace: Pace) -> None:
        self._sock, self._pace = sock, pace
        self._sent = _Meter(pace)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def makefile(self, mode: str = "r", *args: Any, **words: Any) -> Any:
        # http.client reads a response through this, one file for each.
        if mode != "rb":
            return self._sock.makefile(mode, *args, **words)
        return _Lines(_PacedFile(self._sock.makefile("rb", buffering=0), _Meter(self._pace)))

    def sendall(self, data: Any, *args: Any) -> None:
        since = time.monotonic()
        self._sock.sendall(data, *args)
        self._sent.add(memoryview(data).nbytes, since)


def _paced(pool: Any, pace: Pace) -> type[Any]:
    """Return a class of connection pools whose connections are not slower than a pace."""

    base: Any = pool.ConnectionCls

    class PacedConnection(base):  # type: ignore[misc]
        sock: Any

        def connect(self) -> None:
            super().connect()
            self.sock = _PacedSocket(self.sock, pace)

    return type("PacedPool", (pool,), {"ConnectionCls": PacedConnection})
