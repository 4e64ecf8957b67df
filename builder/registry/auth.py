"""Login to registries: no request leaves this host in the clear, and only the registry gets its credentials.

oras finds the credentials (docker's configuration, its helpers) and answers the registry's challenges, Basic or a
token (distribution's token authentication); this module decides where they may go.
"""

from __future__ import annotations

import io
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import requests.auth

from builder.errors import PublishError
from builder.system.http_bounds import STEADY, BoundedAdapter, Pace, read_small

CONNECT_TIMEOUT, READ_TIMEOUT = 10.0, 60.0


@dataclass(frozen=True)
class RegistryLogin:
    """A user and a password for this call; without one, docker's configuration is asked."""

    user: str
    password: str


def is_loopback(host: str | None) -> bool:
    """Return whether what is sent there cannot leave this host."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


class Guarded(BoundedAdapter):
    """Requests to one registry and to where it sends us.

    Every one has time limits, a least speed and a small answer unless it is streamed. None goes without TLS beyond
    loopback, and none from a registry elsewhere to plain HTTP on this host, where services trust who can reach them:
    no redirect and no realm either. A password goes without TLS to the registry itself only.

    Args:
        registry: host and port of the registry.
    """

    def __init__(self, registry: str, pace: Pace = STEADY) -> None:
        super().__init__(pace)
        self._registry = registry
        self._local = is_loopback(urlsplit(f"//{registry}").hostname)

    def send(self, request: requests.PreparedRequest, stream: bool = False, **words: Any) -> requests.Response:  # type: ignore[override]
        parts = urlsplit(request.url or "")
        here = is_loopback(parts.hostname)
        if parts.scheme == "http" and not here:
            raise requests.exceptions.InvalidSchema(f"http://{parts.netloc} is neither TLS nor on this host")
        if parts.scheme == "http" and not self._local:
            raise requests.exceptions.InvalidSchema(f"http://{parts.netloc} is this host, not the registry's")
        basic = str(request.headers.get("Authorization", "")).lower().startswith("basic")
        if parts.scheme == "http" and basic and parts.netloc != self._registry:
            raise requests.exceptions.InvalidSchema(f"the password for {self._registry} would go to {parts.netloc}")
        if here:
            # A proxy that the environment names would be on another host.
            words["proxies"] = {}
        words["timeout"] = words.get("timeout") or (CONNECT_TIMEOUT, READ_TIMEOUT)
        return super().send(request, stream=stream, **words)


class Challenges(requests.auth.AuthBase):
    """Answers a 401 once a request; what was good is said at once the next time.

    A token has a scope and an end, so each 401 is a reason to ask for a new one.

    Attributes:
        known: credentials were found.
    """

    def __init__(self, host: str, login: RegistryLogin | None, insecure: bool, adapter: Guarded) -> None:
        self.known = login is not None
        self._host, self._login, self._insecure, self._adapter = host, login, insecure, adapter
        self._header: str | None = None
        self._backends: dict[str, Any] = {}

    def close(self) -> None:
        """Close the connections to those who give tokens."""
        for backend in self._backends.values():
            backend.session.close()

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if urlsplit(str(request.url)).netloc == self._host:
            if self._header is not None:
                request.headers["Authorization"] = self._header
            request.register_hook("response", self._answer)
        return request

    def _answer(self, reply: requests.Response, **words: Any) -> requests.Response:
        # The hook goes along with a redirect; another host gets no credentials.
        if reply.status_code != 401 or urlsplit(reply.url).netloc != self._host:
            return reply
        kind = reply.headers.get("WWW-Authenticate", "").partition(" ")[0].lower()
        try:
            header = self._authorize("basic" if kind == "basic" else "token", reply)
        except BaseException:
            reply.close()
            raise
        if header is None:
            return reply
        read_small(reply)
        reply.close()
        again = reply.request.copy()
        if isinstance(again.body, io.IOBase):
            again.body.seek(0)
        again.headers["Authorization"] = header
        second: requests.Response = reply.connection.send(again, **words)
        second.history.append(reply)
        second.request = again
        if second.status_code != 401:
            self._header = header
        return second

    def _authorize(self, kind: str, reply: requests.Response) -> str | None:
        """Return the Authorization header for this challenge; None without credentials that could help."""
        backend = self._backends.get(kind)
        if backend is None:
            backend = self._backends[kind] = self._backend(kind)
        if kind == "basic" and not self.known:
            return None
        try:
            headers, _changed = backend.authenticate_request(reply, {}, refresh=True)
        except requests.RequestException:
            raise
        except Exception as fault:
            # oras takes what a registry says as it comes: a realm that is missing, a token that is a list.
            text = f"{type(fault).__name__}: {fault}"
            raise PublishError(f"what the registry {self._host} asks of a login is not understood", text) from None
        header = str(headers.get("Authorization") or "")
        if not header.isascii() or not header.isprintable():
            raise PublishError(f"the registry {self._host} gave a token that no header can hold")
        return header or None

    def _backend(self, kind: str) -> Any:
        # Its own log would stand beside our one line; and it is dear to load.
        import oras.auth
        import oras.container
        import oras.logger

        oras.logger.logger.quiet = True
        oras.logger.logger.set_level(60)
        session = requests.Session()
        session.auth = _as_it_is
        for scheme in ("http://", "https://"):
            session.mount(scheme, self._adapter)
        backend = oras.auth.get_auth_backend(kind, session, self._insecure)
        if self._login is not None:
            backend.set_basic_auth(self._login.user, self._login.password)
            return backend
        folder = os.environ.get("DOCKER_CONFIG")
        file = Path(folder) / "config.json" if folder else None
        try:
            container = oras.container.Container("any", registry=self._host)
            backend.load_configs(container, [str(file)] if file and file.exists() else None)
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as fault:
            raise PublishError(
                "docker's configuration cannot be read", str(fault), f"mend {file or '~/.docker/config.json'}"
            ) from None
        self.known = hasattr(backend, "_basic_auth")
        return backend


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keeps requests from putting what ~/.netrc says in the place of an Authorization header."""
    return request
