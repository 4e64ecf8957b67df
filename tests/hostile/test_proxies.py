"""Proxies that are dead, closed to us or misspelt: said in words, with the proxy's address and without its password."""

from __future__ import annotations

import socket
from http.server import BaseHTTPRequestHandler

import pytest

from builder.errors import HostError, MediumError
from builder.media.download import small
from builder.registry.client import Reference, Repository
from tests.fakes.mirror import serving

SECRET = "s3cret"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the caller's."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def dead() -> str:
    """An address on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def failure(url: str) -> str:
    """What is said when a file cannot be fetched."""
    with pytest.raises(MediumError) as failed:
        small([url], pause=0, tries=1)
    text = f"{failed.value.brief}\n{failed.value.details}"
    assert SECRET not in text
    assert not any(sign in text for sign in ("('", "Error(", "object at", "')"))
    return text


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_dead_proxy_is_named(scheme: str, dead: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{scheme}_proxy", f"http://me:{SECRET}@{dead}/")
    text = failure(f"{scheme}://mirror.invalid/x")
    assert f"the proxy http://{dead} cannot be used: " in text
    assert "Connection refused" in text


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_wants_another_password(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handler: BaseHTTPRequestHandler) -> None:
        handler.send_error(407)

    with serving(refuse) as site:
        address = site.url.rpartition("/")[0].removeprefix("http://")
        monkeypatch.setattr(BaseHTTPRequestHandler, "do_CONNECT", refuse, raising=False)
        monkeypatch.setenv(f"{scheme}_proxy", f"http://me:{SECRET}@{address}")
        text = failure(f"{scheme}://mirror.invalid/x")
    assert "407" in text
    assert scheme == "http" or f"the proxy http://{address} cannot be used" in text


MISSPELT = [
    f"http://me:{SECRET}@",
    "http://:3128",
    f"me:{SECRET}@host:port",
    "http://[::1",
    "http://host:99999",
    "host:0",
]


@pytest.mark.parametrize("proxy", MISSPELT)
def test_a_proxy_that_is_misspelt(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", proxy)
    for use in (
        lambda: small(["https://mirror.invalid/x"], pause=0, tries=1),
        lambda: Repository(Reference.parse("oci://registry.invalid/x")),
    ):
        with pytest.raises(HostError, match=r"\$https_proxy is not the address of a proxy") as refused:
            use()
        assert SECRET not in refused.value.brief
