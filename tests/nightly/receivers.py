"""Servers on this host that receive messages: a webhook, a mail server, and one that never answers."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from builder.system import retry


@dataclass
class Webhook:
    """A web server that keeps what is posted to it, by path."""

    port: int
    posted: list[tuple[str, dict[str, Any]]] = field(default_factory=list)


@contextlib.contextmanager
def webhook() -> Iterator[Webhook]:
    """A webhook for the length of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.posted.append((self.path, json.loads(body)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Not on the terminal."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Webhook(server.server_port)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


@dataclass(frozen=True)
class Mailbox:
    """A mail server that keeps what it gets in a folder (Maildir)."""

    port: int
    folder: Path

    @property
    def mails(self) -> list[EmailMessage]:
        paths = sorted((self.folder / "new").glob("*"))
        return [message_from_bytes(path.read_bytes(), policy=policy.default) for path in paths]


@contextlib.contextmanager
def mailbox(folder: Path) -> Iterator[Mailbox]:
    """A mail server for the length of the block."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["-n", "-c", "aiosmtpd.handlers.Mailbox", str(folder), "-l", f"127.0.0.1:{port}"]
    with subprocess.Popen([sys.executable, "-m", "aiosmtpd", *words], stderr=subprocess.DEVNULL) as server:
        try:
            assert retry.until(lambda: _speaks(port) or None, within=30)
            yield Mailbox(port, folder)
        finally:
            server.terminate()


def _speaks(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as line:
            return line.recv(3) == b"220"
    except OSError:
        return False


@contextlib.contextmanager
def silent_server() -> Iterator[int]:
    """The port of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])
