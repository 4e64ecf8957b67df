"""Refusals, gaps and garbage from a registry: one line each, exit 7, a hint; and where passwords go."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import bcrypt
import pytest
import requests

from builder import images
from builder.errors import PublishError, RecipeError
from builder.registry.auth import Guarded, RegistryLogin
from builder.registry.client import MANIFEST_TYPE, Reference
from builder.registry.transfer import login_from
from tests.registry.conftest import Make, Registry, Wire, free_port, pulled, pushed, refuse, serving

ROOT = str(Path(__file__).parents[2])
PASSWORD = "correct horse battery"


def error(done: Any, code: int = 7) -> list[str]:
    """Lines of an error, which is all that was said."""
    assert done.returncode == code, done.stdout + done.stderr
    lines: list[str] = done.stderr.splitlines()
    assert lines[0].startswith("error: ")
    assert all(len(line) <= 300 for line in lines)
    assert "Traceback" not in done.stderr
    return lines


def test_an_unknown_tag_names_those_there_are(builder: Any, make: Make, registry: Registry, tmp_path: Path) -> None:
    image = make()
    pushed(image, registry.address())
    lines = error(builder("images", "pull", registry.address(":9")))
    assert lines[0] == f"error: {registry.host}/golden/toy has no tag 9"
    assert lines[1] == f"  tags: {image.version}, latest"
    with pytest.raises(PublishError) as caught:
        pulled(tmp_path / "other", registry.address(repository="none"))
    assert caught.value.details == "there is no such repository, or nothing in it"
    with pytest.raises(PublishError, match="has no image sha256:000"):
        pulled(tmp_path / "other", registry.address(f"@sha256:{'0' * 64}"))


def test_a_registry_that_is_away(builder: Any, make: Make) -> None:
    make()
    host = f"127.0.0.1:{free_port()}"
    for words in (("push", "toy", f"oci://{host}/toy"), ("pull", f"oci://{host}/toy")):
        lines = error(builder("images", *words))
        assert lines[0] == f"error: the registry {host} does not answer"
        assert "Connection refused" in lines[1]
        assert lines[2] == "hint: is the address right, and does the registry run?"


def test_what_is_no_image_of_ours(builder: Any, registry: Registry) -> None:
    base = f"http://{registry.host}/v2/golden/toy"
    place = requests.post(f"{base}/blobs/uploads/", timeout=10).headers["Location"]
    digest = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    requests.put(f"{place}&digest={digest}", data=b"{}", timeout=10).raise_for_status()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": 2},
        "layers": [],
    }
    headers = {"Content-Type": MANIFEST_TYPE}
    requests.put(f"{base}/manifests/web", data=json.dumps(manifest), headers=headers, timeout=10).raise_for_status()
    lines = error(builder("images", "pull", registry.address(":web")))
    assert lines[0] == f"error: {registry.address(':web')} is no image that builder has pushed"
    assert lines[1] == "  its configuration is application/vnd.oci.image.config.v1+json"


def test_a_damaged_blob_is_found_and_nothing_enters(
    builder: Any, make: Make, registry: Registry, tmp_path: Path
) -> None:
    image = make()
    pushed(image, registry.address())
    name = image.sha256
    data = registry.folder / f"docker/registry/v2/blobs/sha256/{name[:2]}/{name}/data"
    with data.open("r+b") as file:
        file.write(b"rot")
    lines = error(builder("--artifacts", "other", "images", "pull", registry.address()))
    assert lines[0] == f"error: {registry.host}/golden/toy: a blob is not what it is called"
    assert lines[1] == f"  digest wanted sha256:{name}"
    assert images.list_images(tmp_path / "other/images") == []


def test_a_lying_manifest_is_found_before_its_disk_is_taken(
    make: Make, registry: Registry, wire: Wire, tmp_path: Path
) -> None:
    digest = pushed(make(), registry.address()).digest

    def lie(handler: Any, _method: str, path: str) -> bool:
        if not path.endswith(digest):
            return False
        content = registry.get(f"manifests/{digest}").content.replace(b"toy.qcow2", b"tox.qcow2")
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)
        return True

    wire.act = lie
    with pytest.raises(PublishError, match="is not what it is called"):
        pulled(tmp_path / "other", wire.address(f"@{digest}"))
    assert not any("/blobs/" in path for _, path in wire.asked)


@pytest.mark.parametrize(
    "address",
    ["host/repository", "oci://host", "oci://host/UPPER", "oci://host/a b", "oci://host/r:tag:tag", "oci:///r"],
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(RecipeError, match="is no address in a registry"):
        Reference.parse(address)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("oci://Host.Example/a/b_c", ("host.example", "a/b_c", None, None)),
        ("oci://[::1]:5000/r:v1.0-x", ("[::1]:5000", "r", "v1.0-x", None)),
        (f"oci://h:1/r:t@sha256:{'a' * 64}", ("h:1", "r", "t", f"sha256:{'a' * 64}")),
    ],
)
def test_what_is_an_address(text: str, parts: tuple[str | None, ...]) -> None:
    found = Reference.parse(text)
    assert (found.host, found.repository, found.tag, found.digest) == parts
    assert str(found) == text.replace("Host.Example", "host.example")


def test_a_password_in_an_address_is_refused_and_not_repeated(builder: Any) -> None:
    done = builder("images", "pull", "oci://me:secret@host/repository")
    lines = error(done, 2)
    assert "secret" not in done.stdout + done.stderr
    assert "--password-file" in lines[1]


def test_nothing_goes_in_the_clear_beyond_loopback(make: Make, wire: Wire, registry: Registry, tmp_path: Path) -> None:
    # Addresses for documentation (RFC 5737); the guard stands before any packet.
    with pytest.raises(requests.exceptions.InvalidSchema, match="neither TLS nor on this host"):
        Guarded("127.0.0.1:1").send(requests.Request("GET", "http://192.0.2.1/v2/").prepare())
    pushed(make(), registry.address())

    def away(handler: Any, _method: str, path: str) -> bool:
        return "/manifests/" in path and refuse(handler, 307, Location="http://192.0.2.1/v2/")

    wire.act = away
    with pytest.raises(PublishError, match="wants to go on without TLS"):
        pulled(tmp_path / "other", wire.address())


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Registry]:
    """A registry that wants a user and a password."""
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    (tmp_path / "htpasswd").write_text(f"operator:{hashed}\n")
    with serving(
        tmp_path / "guarded", f"auth: {{htpasswd: {{realm: toys, path: {tmp_path / 'htpasswd'}}}}}\n"
    ) as found:
        yield found


def test_credentials_come_from_a_file_from_docker_or_from_nobody(
    make: Make, guarded: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = make()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    with pytest.raises(PublishError, match=f"the registry {guarded.host} wants a user and a password") as caught:
        pushed(image, guarded.address())
    assert "docker login" in caught.value.hint
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text(f"{PASSWORD}\n")
    wrong.write_text("wrong horse")
    with pytest.raises(PublishError, match=f"the registry {guarded.host} refuses this user") as caught:
        pushed(image, guarded.address(), login_from("operator", str(wrong)))
    assert "wrong horse" not in str(caught.value.as_dict())
    assert pushed(image, guarded.address(), login_from("operator", str(right))).sent
    with pytest.raises(RecipeError, match="--user and --password-file belong together"):
        login_from("operator", None)
    with pytest.raises(RecipeError, match="cannot be read"):
        login_from("operator", str(tmp_path / "none"))

    # As `docker login` leaves it, also in the place that $DOCKER_CONFIG names.
    auth = base64.b64encode(f"operator:{PASSWORD}".encode()).decode()
    for folder in (tmp_path / ".docker", tmp_path / "elsewhere"):
        folder.mkdir()
        file = folder / "config.json"
        file.write_text(json.dumps({"auths": {guarded.host: {"auth": auth}}}))
        if folder.name == "elsewhere":
            monkeypatch.setenv("DOCKER_CONFIG", str(folder))
        assert pulled(tmp_path / "other", guarded.address()).image.version == image.version
        for name in (f"https://{guarded.host}", f"http://{guarded.host}/v1/"):
            file.write_text(json.dumps({"auths": {name: {"auth": auth}}}))
            assert pulled(tmp_path / "other", guarded.address()).image.version == image.version
        file.write_text("{")
        with pytest.raises(PublishError, match="docker's configuration cannot be read"):
            pulled(tmp_path / "other", guarded.address())
        file.unlink()


def test_a_credential_helper_is_asked(
    make: Make, guarded: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = make()
    helper = tmp_path / "docker-credential-toy"
    answer = json.dumps({"Username": "operator", "Secret": PASSWORD})
    helper.write_text(f"#!/bin/sh\ngrep -q '^{guarded.host}$' && echo '{answer}'\n")
    helper.chmod(0o755)
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker/config.json").write_text(json.dumps({"credHelpers": {guarded.host: "toy"}}))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    assert pushed(image, guarded.address()).sent


def test_a_store_of_passwords_is_asked_for_what_the_configuration_does_not_hold(
    make: Make, guarded: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `docker login` leaves it where a store keeps all: an empty entry for the registry, and the store's name."""
    image = make()
    (tmp_path / ".docker").mkdir()
    config = {"auths": {guarded.host: {}}, "credsStore": "toy"}
    (tmp_path / ".docker/config.json").write_text(json.dumps(config))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    helper = tmp_path / "docker-credential-toy"
    for program in ("", "echo credentials not found in native keychain; exit 1", "echo no JSON"):
        if program:
            helper.write_text(f"#!/bin/sh\n{program}\n")
            helper.chmod(0o755)
        with pytest.raises(PublishError, match="wants a user and a password"):
            pushed(image, guarded.address())
    helper.write_text(f"#!/bin/sh\necho '{json.dumps({'Username': 'operator', 'Secret': PASSWORD})}'\n")
    assert pushed(image, guarded.address()).sent


@pytest.mark.parametrize(
    "content", ['{"auths": {"HOST": {"auth": "a secret\\n"}}}', '{"auths": {"HOST": ["a secret"]}}', '["a secret"]']
)
def test_a_strange_configuration_is_refused_and_not_repeated(
    make: Make, guarded: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    (tmp_path / "config.json").write_text(content.replace("HOST", guarded.host))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with pytest.raises(PublishError, match="docker's configuration cannot be read") as caught:
        pushed(make(), guarded.address())
    assert "secret" not in str(caught.value.as_dict())


@pytest.mark.parametrize("name", ["token", "access_token"])
def test_what_is_for_everybody_needs_a_token_but_no_login(
    make: Make, registry: Registry, wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    image = make()
    pushed(image, registry.address())
    asked: list[Any] = []

    def demand(handler: Any, _method: str, path: str) -> bool:
        if path.startswith("/token"):
            asked.append((parse_qs(urlsplit(path).query), handler.headers.get("Authorization")))
            content = json.dumps({name: "t", "expires_in": 300}).encode()
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content)
            return True
        if handler.headers.get("Authorization") == "Bearer t":
            del handler.headers["Authorization"]
            return False
        challenge = f'Bearer scope="repository:golden/toy:pull,push", service="a b",realm="http://{wire.host}/token"'
        return refuse(handler, 401, WWW_Authenticate=challenge)

    wire.act = demand
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert pulled(tmp_path / "other", wire.address()).image.version == image.version
    assert asked == [({"scope": ["repository:golden/toy:pull,push"], "service": ["a b"]}, None)]


def test_a_password_on_standard_input(make: Make, guarded: Registry, tmp_path: Path) -> None:
    make()
    command = [sys.executable, "-m", "builder", "images", "push", "toy", guarded.address()]
    command += ["--user", "operator", "--password-file", "-"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ROOT, "BUILDER_ARTIFACTS": "artifacts"},
        input=PASSWORD,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_tokens_are_asked_for_again_for_more_and_when_they_end(make: Make, registry: Registry, wire: Wire) -> None:
    """Token authentication as the large registries have it: a token is for one scope, and soon over."""
    tokens: dict[str, tuple[str, int]] = {}

    def demand(handler: Any, method: str, path: str) -> bool:
        if path.startswith("/token"):
            basic = f"Basic {base64.b64encode(f'operator:{PASSWORD}'.encode()).decode()}"
            if handler.headers.get("Authorization") != basic:
                return refuse(handler, 401)
            token = f"t{len(tokens)}"
            tokens[token] = (parse_qs(urlsplit(path).query)["scope"][0], 4)
            content = json.dumps({"token": token}).encode()
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content)
            return True
        scope = f"repository:golden/toy:{'pull' if method in ('GET', 'HEAD') else 'pull,push'}"
        given = handler.headers.get("Authorization", "").removeprefix("Bearer ")
        known, left = tokens.get(given, ("", 0))
        if left and known.startswith(scope):
            tokens[given] = (known, left - 1)
            del handler.headers["Authorization"]
            return False
        challenge = f'Bearer realm="http://{wire.host}/token",service="toys",scope="{scope}"'
        # The body has to be read, or the client would see a broken connection.
        handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        return refuse(handler, 401, WWW_Authenticate=challenge)

    wire.act = demand
    image = make()
    pushed(image, wire.address(), RegistryLogin("operator", PASSWORD))
    assert len(tokens) > 2
    assert registry.get("manifests/latest").status_code == 200
    with pytest.raises(PublishError, match="refuses this user"):
        pushed(image, wire.address(), RegistryLogin("operator", "wrong"))


def test_tls_is_trusted_only_with_its_ca(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = make()
    key, cert = tmp_path / "tls.key", tmp_path / "tls.crt"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    words += ["-subj", "/CN=registry", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(words, check=True, capture_output=True)
    with serving(tmp_path / "tls", f"  tls: {{certificate: {cert}, key: {key}}}\n") as found:
        with pytest.raises(PublishError, match=f"the registry {found.host} cannot be trusted") as caught:
            pushed(image, found.address())
        assert caught.value.hint.endswith("REQUESTS_CA_BUNDLE=FILE")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(cert))
        assert pushed(image, found.address()).sent
