"""Servers on 127.0.0.1 that answer as no server should."""

from __future__ import annotations

import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# Bytes of an "endless" answer: more than a child of a test may have.
ENDLESS = 3 << 30
# What a child may have besides its program.
LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_DATA, (512 << 20, 512 << 20))\n"


class Handler(BaseHTTPRequestHandler):
    """Hands every request to the server's `act`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server: Server = self.server.mine  # type: ignore[attr-defined]
        server.seen.append((f"{self.command} {self.path}", self.headers.get("Authorization")))
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            server.act(self)
        except OSError:
            server.hung_up.set()
            self.close_connection = True

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass

    def head(self, status: int, length: int | None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def small(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.head(status, len(body), **headers)
        self.wfile.write(body)

    def endless(self, status: int, begin: bytes = b"", **headers: str) -> None:
        """Send more than fits into memory, or until the client hangs up."""
        self.head(status, ENDLESS, **headers)
        self.wfile.write(begin)
        piece = b"x" * (1 << 20)
        for _ in range(ENDLESS >> 20):
            self.wfile.write(piece)

    def dribble(self, data: bytes = b"x" * 1000, every: float = 0.05) -> None:
        """Send byte by byte, for at most twenty seconds."""
        end = time.monotonic() + 20
        for byte in data * 1000:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            time.sleep(every)
            if time.monotonic() > end:
                return


@dataclass
class Server:
    """A server that runs; `hung_up` is set when a client closed its connection in the middle of an answer."""

    act: Callable[[Handler], None]
    port: int = 0
    seen: list[tuple[str, str | None]] = field(default_factory=list)
    hung_up: threading.Event = field(default_factory=threading.Event)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"


@contextmanager
def serving(act: Callable[[Handler], None], tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = Server(act)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        running.handle_error = lambda *_: None  # type: ignore[method-assign]
        running.mine = server  # type: ignore[attr-defined]
        if tls is not None:
            running.socket = tls.wrap_socket(running.socket, server_side=True)
        server.port = running.server_address[1]
        thread = threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            running.shutdown()
            thread.join()


def limited(program: str, *words: str) -> str:
    """Run a program in a child that may have 512 MiB, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED + program, *words], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
