"""Registries and mirrors that send too much, too slowly, or us elsewhere."""

from __future__ import annotations

import hashlib
import json
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from builder.errors import MediumError, PublishError
from builder.media import download
from builder.registry import blobs
from builder.registry.auth import Guarded, RegistryLogin
from builder.registry.client import Reference, Repository
from builder.system.http_bounds import Pace
from tests.conftest import Silent
from tests.hostile.servers import Handler, Server, limited, serving

PACE = Pace(1 << 10, 0.4)
# Asks each of some repositories for a manifest and for the tags, and prints what came of it.
ASK = """
import sys
from builder.errors import PublishError
from builder.registry.auth import RegistryLogin
from builder.registry.client import Reference, Repository
for name in sys.argv[2:]:
    login = RegistryLogin("a", "b")
    with Repository(Reference.parse(f"oci://{sys.argv[1]}/{name}"), login, pause=0.0, tries=1) as repository:
        print(name, repository.tags(), end=": ")
        try:
            print(repository.manifest("latest"))
        except PublishError as fault:
            print(fault.brief)
"""


def registry(act: Any) -> Any:
    """A registry that needs no login for its base."""

    def first(handler: Handler) -> None:
        if handler.path == "/v2/":
            handler.small(200)
        else:
            act(handler)

    return serving(first)


def test_endless_answers_end_soon() -> None:
    """Of any status, and of those who give tokens; in a child that has no memory for them."""
    names = ["s200", "s307", "s401", "s403", "s404", "s500", "token/s200", "token/s403"]

    def act(handler: Handler) -> None:
        name = handler.path.removeprefix("/v2/")
        if handler.path.startswith("/token"):
            handler.endless(int(handler.path[8:11]), b'{"token": "')
        elif name.startswith("token"):
            realm = f"http://{server.host}/{name[:10]}"
            handler.small(401, WWW_Authenticate=f'Bearer realm="{realm}",service="s"')
        else:
            status = int(name[1:4])
            more = {307: {"Location": "/v2/"}, 401: {"WWW_Authenticate": 'Basic realm="x"'}}.get(status, {})
            handler.endless(status, b'{"errors": [{"message": "', **more)

    with registry(act) as server:
        said = limited(ASK, server.host, *names).splitlines()
    assert [line.partition(" ")[0] for line in said] == names
    assert all("[]:" in line for line in said)
    assert sum("answers with more than it may" in line for line in said) == 4


def test_what_is_compressed_unasked_is_refused() -> None:
    def act(handler: Handler) -> None:
        handler.small(200, b"\x1f\x8b" + bytes(1000), Content_Encoding="gzip, gzip")

    with registry(act) as server, repository(server) as there:
        with pytest.raises(PublishError, match="more than it may"):
            there.manifest("latest")
        assert there.tags() == []


def repository(server: Server, login: RegistryLogin | None = None) -> Repository:
    return Repository(Reference.parse(f"oci://{server.host}/x"), login, pause=0.0, tries=2, pace=PACE)


@pytest.mark.parametrize("where", ["headers", "body", "error", "upload"])
def test_a_registry_that_dribbles_is_given_up(where: str) -> None:
    def act(handler: Handler) -> None:
        if where == "headers":
            handler.dribble(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 900)
        else:
            handler.head(500 if where == "error" else 202 if where == "upload" else 200, 100_000)
            handler.dribble()

    with registry(act) as server:
        with repository(server) as there, pytest.raises(PublishError, match="fails again and again"):
            there.ask("POST" if where == "upload" else "GET", "x", ok=(200, 202))
        assert server.hung_up.wait(5)
    assert len(server.seen) == 3


@pytest.mark.parametrize(
    ("begin", "line"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", b"X: y\r\n"),
    ],
    ids=["continue", "trailers"],
)
def test_lines_without_end_are_given_up(begin: bytes, line: bytes) -> None:
    """They come fast enough, and none is kept: nothing but their number is wrong."""

    def act(handler: Handler) -> None:
        handler.wfile.write(begin)
        end = time.monotonic() + 10
        while time.monotonic() < end:
            handler.wfile.write(line * 1000)
        handler.close_connection = True

    with registry(act) as server:
        with repository(server) as there, pytest.raises(PublishError, match="fails again and again") as caught:
            there.manifest("latest")
        assert "lines of headers" in caught.value.details
        assert server.hung_up.wait(5)


def many_pieces(handler: Handler) -> None:
    handler.head(200, None, Transfer_Encoding="chunked")
    for _ in range(5000):
        handler.wfile.write(b"1\r\nx\r\n")
    handler.wfile.write(b"0\r\n\r\n")


def test_many_small_pieces_are_read() -> None:
    """Each has a line of its own."""
    with registry(many_pieces) as server, repository(server) as there:
        found = there.manifest("latest")
    assert found is not None
    assert found.content == b"x" * 5000


def test_a_registry_that_takes_a_blob_slowly_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads some bytes now and then."""
    content = b"x" * (32 << 20)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        adapter = Guarded("127.0.0.1:1", Pace(64 << 20, 0.5))
        request = requests.Request("PUT", f"http://127.0.0.1:{listening.getsockname()[1]}/", data=content).prepare()
        with pytest.raises(requests.RequestException):
            adapter.send(request, timeout=(1, 3))


def test_a_registry_that_is_slow_at_first_is_waited_for() -> None:
    """The pace counts what comes while somebody waits; a pause before the first byte is not one."""
    body = json.dumps({"tags": ["good", "x" * 200, "\x1b]0;t\x07", 3]}).encode()

    def act(handler: Handler) -> None:
        time.sleep(0.25)
        handler.small(200, body)

    with registry(act) as server, repository(server) as there:
        for _ in range(3):
            assert there.manifest("latest") is not None
        assert there.tags() == []
        server.act = lambda handler: handler.small(200, b'{"tags": ["good", "\\u001b]0;t", "a/b"]}')
        assert there.tags() == ["good"]


@pytest.mark.parametrize("body", [b"[]", b'{"tags": 3}', b"[" * 100_000, b"\xff", b'{"tags": {"a": 1}}'])
@pytest.mark.parametrize("status", [200, 403])
def test_strange_documents_are_no_documents(body: bytes, status: int) -> None:
    with registry(lambda handler: handler.small(status, body)) as server, repository(server) as there:
        assert isinstance(there.tags(), list)
        if status == 403:
            with pytest.raises(PublishError):
                there.manifest("latest")


@pytest.mark.parametrize(
    "challenge",
    [
        "Bearer",
        'Bearer realm="http://[",service="s"',
        'Bearer service="s"',
        'Bearer realm="TOKEN",scope="list"',
        'Bearer realm="TOKEN",scope="number"',
        'Bearer realm="TOKEN",scope="lines"',
        'Bearer realm="TOKEN",scope="deep"',
        "Basic \xff",
    ],
)
def test_strange_challenges_are_refusals(challenge: str) -> None:
    bodies = {"list": b"[]", "number": b'{"token": 3}', "lines": b'{"token": "a\\nX: y"}', "deep": b"[" * 100_000}

    def act(handler: Handler) -> None:
        if handler.path.startswith("/token"):
            handler.small(200, bodies[handler.path.partition("scope=")[2]])
        else:
            text = challenge.replace("TOKEN", f"http://{server.host}/token")
            handler.small(401, WWW_Authenticate=text)

    with registry(act) as server, repository(server, RegistryLogin("a", "b")) as there, pytest.raises(PublishError):
        there.manifest("latest")


def test_a_redirect_to_what_is_no_address_is_a_refusal() -> None:
    away = registry(lambda handler: handler.small(307, Location="http://["))
    with away as server, repository(server) as there, pytest.raises(PublishError, match="cannot be asked"):
        there.manifest("latest")


def test_a_password_goes_to_no_other_port_without_tls() -> None:
    other: Server
    login = RegistryLogin("operator", "secret")

    def act(handler: Handler) -> None:
        handler.small(401, WWW_Authenticate=f'Bearer realm="http://{other.host}/token",service="s"')

    with serving(lambda handler: handler.small(200, b'{"token": "t"}')) as other, registry(act) as server:
        with repository(server, login) as there, pytest.raises(PublishError) as caught:
            there.manifest("latest")
        assert "password" in caught.value.details
        assert other.seen == []
        # Without a password there is nothing to lose.
        with repository(server) as there, pytest.raises(PublishError):
            there.manifest("latest")
        assert [authorization for _, authorization in other.seen] == [None]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, Server]]:
    """A registry with TLS under a name that is not loopback's, and a plain service of this host."""
    key, cert = tmp_path / "tls.key", tmp_path / "tls.crt"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    words += ["-subj", "/CN=registry.test", "-addext", "subjectAltName=DNS:registry.test"]
    subprocess.run([*words, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(cert))
    resolve = socket.getaddrinfo

    def here(host: Any, *words: Any, **more: Any) -> Any:
        return resolve("127.0.0.1" if host == "registry.test" else host, *words, **more)

    monkeypatch.setattr(socket, "getaddrinfo", here)
    inner = serving(lambda handler: handler.small(200, b'{"token": "t"}'))
    with serving(lambda handler: handler.small(404), context) as server, inner as service:
        yield server, service


@pytest.mark.parametrize("how", ["redirect", "realm", "upload"])
@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "127.8.8.8"])
def test_a_registry_elsewhere_sends_us_to_no_service_of_this_host(
    elsewhere: tuple[Server, Server], how: str, name: str
) -> None:
    server, service = elsewhere
    place = f"http://{name}:{service.port}/secret"

    def act(handler: Handler) -> None:
        if how == "realm":
            handler.small(401, WWW_Authenticate=f'Bearer realm="{place}",service="s"')
        else:
            handler.small(202 if how == "upload" else 307, Location=place)

    server.act = act
    address = Reference.parse(f"oci://registry.test:{server.port}/x")
    blob = blobs.Blob("sha256:x", 1)
    for login in (None, RegistryLogin("operator", "secret")):
        with (
            Repository(address, login, pause=0.0, tries=1) as there,
            pytest.raises(PublishError, match="without TLS"),
        ):
            blobs.send(there, blob, b"x") if how == "upload" else there.manifest("latest")
    assert server.seen
    assert service.seen == []


def test_a_mirror_that_dribbles_is_given_up(tmp_path: Path) -> None:
    def act(handler: Handler) -> None:
        handler.head(200, 100_000)
        handler.dribble()

    content = b"content"
    with serving(act) as slow, serving(lambda handler: handler.small(200, content)) as good:
        urls = [f"http://{server.host}/x.iso" for server in (slow, good)]
        sha256 = hashlib.sha256(content).hexdigest()
        words: dict[str, Any] = {"pause": 0.0, "tries": 2, "pace": PACE}
        download.fetch(urls, sha256, tmp_path / "x.iso", progress=Silent(), **words)
        assert slow.hung_up.wait(5)
        assert download.small(urls, **words) == content
        with pytest.raises(MediumError):
            download.small(urls[:1], **words)
    assert len(slow.seen) == 6
    assert (tmp_path / "x.iso").read_bytes() == content


def test_a_mirror_that_hangs_up_after_each_byte_is_given_up(tmp_path: Path) -> None:
    def act(handler: Handler) -> None:
        start = int(handler.headers.get("Range", "bytes=0-")[6:-1])
        handler.head(206 if start else 200, 100 - start, Content_Range=f"bytes {start}-99/100")
        handler.wfile.write(b"x")
        handler.close_connection = True

    with serving(act) as server, pytest.raises(MediumError):
        download.fetch(
            [f"http://{server.host}/x"], "0" * 64, tmp_path / "x", progress=Silent(), pause=0.0, tries=3, pace=PACE
        )
    assert len(server.seen) == 3


@pytest.mark.parametrize("headers", [{"Location": "http://["}, {"Content_Length": "²"}, {"Content_Encoding": "gzip"}])
def test_strange_headers_of_a_mirror_are_its_fault(tmp_path: Path, headers: dict[str, str]) -> None:
    def act(handler: Handler) -> None:
        handler.head(307 if "Location" in headers else 200, None, **headers)
        handler.close_connection = True

    with serving(act) as server, pytest.raises(MediumError):
        download.fetch([f"http://{server.host}/x"], "0" * 64, tmp_path / "x", progress=Silent(), pause=0.0, tries=2)
