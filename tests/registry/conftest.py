"""Debian's docker-registry on a free port, a proxy before it that breaks connections, and an image to push."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from builder import images
from builder.errors import PublishError
from builder.provenance import dsse, sbom, statement
from builder.registry import artifact
from builder.registry.auth import RegistryLogin
from builder.registry.client import INDEX_TYPE, MANIFEST_TYPE, Reference, Repository
from builder.system import retry
from tests.command import builder
from tests.conftest import Silent
from tests.fakes.qcow2 import qcow2
from tests.provenance.test_provenance import SEALED

__all__ = ["builder"]

SIZE = 2 << 20
Make = Callable[..., images.Image]
Act = Callable[[BaseHTTPRequestHandler, str, str], bool]


@dataclass
class Registry:
    """A registry that runs.

    Args:
        folder: where it keeps what it was given.
    """

    port: int
    folder: Path
    scheme: str = "http"

    @property
    def host(self) -> str:
        """As addresses name it."""
        return f"127.0.0.1:{self.port}"

    def address(self, tag: str = "", repository: str = "golden/toy") -> str:
        """An address in it."""
        return f"oci://{self.host}/{repository}{tag}"

    def get(self, path: str) -> requests.Response:
        """What it says of something in the repository; no client of ours is in between."""
        accept = {"Accept": f"{MANIFEST_TYPE}, {INDEX_TYPE}, */*"}
        return requests.get(f"http://{self.host}/v2/golden/toy/{path}", headers=accept, timeout=10)

    def blobs(self) -> int:
        """Bytes of all blobs that it holds."""
        return sum(path.stat().st_size for path in self.folder.glob("docker/registry/v2/blobs/sha256/*/*/data"))


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


@contextmanager
def serving(folder: Path, extra: str = "") -> Iterator[Registry]:
    """Run docker-registry with a configuration of its own; the service that Debian set up is not looked at.

    Args:
        extra: lines of YAML to add, those of `http:` first.
    """
    folder.mkdir()
    port = free_port()
    config = folder / "config.yml"
    config.write_text(
        "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
        f"storage:\n  filesystem: {{rootdirectory: {folder}}}\n  delete: {{enabled: true}}\n"
        f"http:\n  addr: 127.0.0.1:{port}\n{extra}"
    )
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen(["docker-registry", "serve", config], stdout=log, stderr=log)
    try:
        if retry.until(lambda: _listens(port, child), within=20) is None:
            raise AssertionError((folder / "log").read_text())
        yield Registry(port, folder)
    finally:
        child.kill()
        child.wait()


def _listens(port: int, child: subprocess.Popen[bytes]) -> bool | None:
    assert child.poll() is None
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return None


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A registry without users."""
    with serving(tmp_path / "registry") as found:
        yield found


@dataclass
class Wire:
    """Something between client and registry.

    Attributes:
        act: called with each request, its method and its path; True if it has answered itself.
        break_after: bytes of bodies, in either direction, after which every connection is cut; None for never.
        hold_after: bytes of bodies after which nothing moves until `go_on`; `held` says that it is so.
        moved: bytes of bodies that went through.
        asked: method and path of each request.
        answers: called with each answer of the registry before it is handed on.
    """

    to: Registry
    port: int = 0
    act: Act = lambda *_: False
    break_after: int | None = None
    hold_after: int | None = None
    held: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    moved: int = 0
    asked: list[tuple[str, str]] = field(default_factory=list)
    answers: Callable[[requests.Response], None] = lambda _: None
    lock: Any = field(default_factory=threading.Lock)

    @property
    def host(self) -> str:
        """As addresses name it."""
        return f"127.0.0.1:{self.port}"

    def address(self, tag: str = "") -> str:
        """An address of the registry, over this wire."""
        return f"oci://{self.host}/golden/toy{tag}"

    def count(self, data: bytes) -> bytes:
        """Note the bytes; the part of them that still gets through."""
        with self.lock:
            left = len(data) if self.break_after is None else min(len(data), max(0, self.break_after - self.moved))
            self.moved += left
        if self.hold_after is not None and self.moved > self.hold_after:
            self.held.set()
            self.go_on.wait(60)
        return data[:left]


class CutError(Exception):
    """The connection is to break now."""


class _Relay(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wire: Wire

    def do(self) -> None:
        self.close_connection = True
        wire = self.wire
        wire.asked.append((self.command, self.path))
        with contextlib.suppress(CutError, OSError, requests.RequestException):
            if wire.act(self, self.command, self.path):
                return
            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in ("connection", "content-length")
            }
            with requests.request(
                self.command, f"http://{wire.to.host}{self.path}", headers=headers, data=self.body() or None,
                stream=True, allow_redirects=False, timeout=30,
            ) as answer:  # fmt: skip
                wire.answers(answer)
                self.hand_on(answer)

    do_GET = do_HEAD = do_POST = do_PUT = do  # noqa: N815

    def body(self) -> Iterator[bytes] | None:
        """What the client sends, as it comes; of a body that is cut the registry gets the beginning."""
        left = int(self.headers.get("Content-Length") or 0)
        return self._pieces(left) if left else None

    def _pieces(self, left: int) -> Iterator[bytes]:
        while left:
            data = self.rfile.read1(min(left, 1 << 16))
            through = self.wire.count(data)
            yield through
            if not data or len(through) < len(data):
                raise CutError
            left -= len(data)

    def hand_on(self, answer: requests.Response) -> None:
        self.send_response(answer.status_code)
        for name, value in answer.headers.items():
            if name.lower() not in ("connection", "transfer-encoding"):
                self.send_header(name, value.replace(f"//{self.wire.to.host}", f"//{self.wire.host}"))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        while data := answer.raw.read(1 << 16):
            through = self.wire.count(data)
            self.wfile.write(through)
            if len(through) < len(data):
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                raise CutError

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def wired(registry: Registry) -> Iterator[Wire]:
    """Put a wire in front of a registry."""
    found = Wire(registry)

    class Relay(_Relay):
        wire = found

    server = ThreadingHTTPServer(("127.0.0.1", 0), Relay)
    found.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield found
    finally:
        found.go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def wire(registry: Registry) -> Iterator[Wire]:
    """A wire in front of the registry."""
    with wired(registry) as found:
        yield found


def refuse(handler: BaseHTTPRequestHandler, status: int, **headers: str) -> bool:
    """Answer without the registry."""
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", "0")
    handler.end_headers()
    return True


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> int:
    """Layers so small that a disk of a few MiB has several."""
    monkeypatch.setattr(artifact, "PIECE", 256 << 10)
    return 256 << 10


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Publish a toy of two MiB with all that an image has; another one for another word."""

    def publish(
        word: bytes = b"one", name: str = "toy", host: str = "artifacts", attested: Any = None, **facts: Any
    ) -> images.Image:
        disk = tmp_path / f"{word.decode()}.disk"
        disk.write_bytes(qcow2(random.Random(word).randbytes(SIZE - (64 << 10))).ljust(SIZE, b"\0"))
        sha256 = hashlib.sha256(disk.read_bytes()).hexdigest()
        bill, proof = tmp_path / f"{word.decode()}.bill", tmp_path / f"{word.decode()}.proof"
        bill.write_bytes(sbom.render(name, sha256[:12], sha256, SEALED, ["bash 5.2-1"]))
        told = {"sealed": sha256, "twins": {}}
        proof.write_text(json.dumps(told))
        sources = {f"{name}.qcow2": disk, images.SBOM: bill, "verify.json": proof}

        def attest(subjects: Any) -> bytes:
            about = {
                "_type": statement.STATEMENT,
                "predicateType": statement.PREDICATE,
                "subject": [{"name": file, "digest": {"sha256": one}} for file, one in (attested or subjects).items()],
            }
            return dsse.close(json.dumps(about).encode(), None)

        return images.publish(tmp_path / host / "images", name, sources, {"verified": told, **facts}, attest=attest)

    return publish


def repository(address: str, login: RegistryLogin | None = None) -> Repository:
    """A repository, whose client waits a moment before it tries again: a busy host may break a connection."""
    return Repository(Reference.parse(address), login, pause=0.05)


def pushed(image: images.Image, address: str, login: RegistryLogin | None = None, **options: bool) -> Any:
    """Push, in this process."""
    from builder.registry import push_pull

    with repository(address, login) as there:
        try:
            return push_pull.push(image, there, Silent(), **options)
        except PublishError as fault:
            fault.add_note(fault.details)
            raise


def pulled(catalogue: Path, address: str, login: RegistryLogin | None = None, **options: Any) -> Any:
    """Pull, in this process."""
    from builder.registry import push_pull

    with repository(address, login) as there:
        return push_pull.pull(there, catalogue, Silent(), **options)
