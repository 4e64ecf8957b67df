"""Login to registries: no request leaves this host in the clear, and only the registry gets its credentials.

A registry asks for a user and a password (Basic), or sends us to a server of tokens (distribution's token
authentication), which gets the same.
"""

from __future__ import annotations

import io
import ipaddress
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any
from urllib.parse import urlsplit

import requests
import requests.auth
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError
from requests.utils import parse_dict_header

from builder.errors import PublishError
from builder.registry import docker_config
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


class _Token(BaseModel):
    """The answer of a server of tokens (distribution, docs/content/spec/auth/token.md)."""

    model_config = ConfigDict(hide_input_in_errors=True)

    value: Annotated[str, Field(pattern=r"^[!-~]+$", validation_alias=AliasChoices("token", "access_token"))]


class Challenges(requests.auth.AuthBase):
    """Answers a 401 once a request; what was good is said at once the next time.

    A token has a scope and an end, so each 401 is a reason to ask for a new one.
    """

    def __init__(self, host: str, login: RegistryLogin | None, adapter: Guarded) -> None:
        self._host, self._login = host, login
        self._header: str | None = None
        self._tokens = requests.Session()
        self._tokens.auth = _as_it_is
        for scheme in ("http://", "https://"):
            self._tokens.mount(scheme, adapter)

    @property
    def known(self) -> bool:
        """Return whether there is a user and a password."""
        return self._basic is not None

    @cached_property
    def _basic(self) -> str | None:
        """The header of the user; docker's configuration is looked at when a registry asks."""
        if self._login is not None:
            return docker_config.basic(self._login.user, self._login.password)
        return docker_config.header_for(self._host)

    def close(self) -> None:
        """Close the connections to those who give tokens."""
        self._tokens.close()

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
        try:
            header = self._authorize(reply)
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

    def _authorize(self, reply: requests.Response) -> str | None:
        """Return the Authorization header for this challenge; None without credentials that could help."""
        kind, _, rest = reply.headers.get("WWW-Authenticate", "").partition(" ")
        if kind.lower() == "basic":
            return self._basic
        headers = {"Authorization": self._basic} if self._basic else {}
        try:
            challenge = parse_dict_header(rest)
            words = {key: challenge[key] for key in ("service", "scope") if key in challenge}
            answer = self._tokens.get(challenge["realm"] or "", params=words, headers=headers)
            if answer.status_code != 200:
                return None
            return f"Bearer {_Token.model_validate_json(answer.content).value}"
        except (KeyError, ValidationError) as fault:
            text = f"{type(fault).__name__}: {fault}"
            raise PublishError(f"what the registry {self._host} asks of a login is not understood", text) from None


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keeps requests from putting what ~/.netrc says in the place of an Authorization header."""
    return request
