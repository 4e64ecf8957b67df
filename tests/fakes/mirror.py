"""A web server on 127.0.0.1 that misbehaves on request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """What is served, and what was asked.

    Attributes:
        act: called with the handler for each request.
        asked: the Range and If-Range headers of each request.
    """

    act: Callable[[BaseHTTPRequestHandler], None]
    url: str = ""
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)


@contextmanager
def serving(act: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[Site]:
    site = Site(act)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.close_connection = True
            site.asked.append((self.headers.get("Range"), self.headers.get("If-Range")))
            site.act(self)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{server.server_port}/medium.iso"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def answer(
    handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", announced: int | None = None, **headers: str
) -> None:
    """Send an answer; `announced` may promise another length than comes."""
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body) if announced is None else announced))
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(body)


def whole(
    data: bytes, *, ranges: bool = True, etag: str | None = '"v1"', limit: int | None = None
) -> Callable[[BaseHTTPRequestHandler], None]:
    """An honest server; with `limit` it breaks off after so many bytes of each answer."""

    def act(handler: BaseHTTPRequestHandler) -> None:
        extra = {"ETag": etag} if etag else {}
        asked, condition = handler.headers.get("Range"), handler.headers.get("If-Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if not ranges or not asked or (condition is not None and condition != etag):
            answer(handler, 200, data[:limit], len(data), **extra)
        elif start >= len(data):
            answer(handler, 416, Content_Range=f"bytes */{len(data)}")
        else:
            rest = data[start:]
            place = f"bytes {start}-{len(data) - 1}/{len(data)}"
            answer(handler, 206, rest[:limit], len(rest), Content_Range=place, **extra)

    return act


def in_turn(*acts: Callable[[BaseHTTPRequestHandler], None]) -> Callable[[BaseHTTPRequestHandler], None]:
    """One behaviour after the other; the last one stays."""
    left = list(acts)

    def act(handler: BaseHTTPRequestHandler) -> None:
        (left.pop(0) if len(left) > 1 else left[0])(handler)

    return act


def refusing(status: int) -> Callable[[BaseHTTPRequestHandler], None]:
    def act(handler: BaseHTTPRequestHandler) -> None:
        answer(handler, status)

    return act
