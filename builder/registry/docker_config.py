"""Find what `docker login` left for a registry: in docker's configuration itself, or with one of its helpers.

Source: docker/cli, docs/reference/commandline/login.md ("Credential stores", "Credential helpers") and
docker/docker-credential-helpers, README ("Development"): a helper reads the registry's name and prints JSON.

Invariant: no error repeats what may be a password.
"""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from builder.errors import HostError, PublishError
from builder.system import process

# Seconds; one that keeps its passwords locked may ask for them in a window.
_HELPER_LIMIT = 120.0


class _Entry(BaseModel):
    """The login at one registry; empty where a helper keeps it."""

    auth: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/=]*$")] = ""


class _Config(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)

    auths: dict[str, _Entry] = {}
    helpers: dict[str, str] = Field({}, alias="credHelpers")
    store: str = Field("", alias="credsStore")


class _Credentials(BaseModel):
    """The output of a credential helper."""

    user: str = Field(alias="Username")
    password: str = Field(alias="Secret")


def basic(user: str, password: str) -> str:
    """Return a user and a password as an Authorization header has them (RFC 7617)."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def header_for(host: str) -> str | None:
    """Return the Authorization header for a registry; None where docker knows of none, or its helper does not.

    Args:
        host: host and port of the registry.

    Raises:
        PublishError: the configuration cannot be read.
    """
    file = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
    try:
        config = _Config.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as fault:
        raise PublishError("docker's configuration cannot be read", str(fault), f"mend {file}") from None
    # Older versions of docker, and people, write addresses: `https://registry.example/v1/`.
    logins = {re.sub("^https?://", "", name).partition("/")[0]: entry.auth for name, entry in config.auths.items()}
    if logins.get(host):
        return f"Basic {logins[host]}"
    helper = config.helpers.get(host) or config.store
    return _asked(helper, host) if helper else None


def _asked(helper: str, host: str) -> str | None:
    """Return what a helper has. One that is missing or fails is no reason to stop: many images are for everybody."""
    try:
        said = process.run([f"docker-credential-{helper}", "get"], stdin=host, timeout=_HELPER_LIMIT).stdout
        found = _Credentials.model_validate_json(said)
    except (HostError, ValidationError):
        return None
    return basic(found.user, found.password)
