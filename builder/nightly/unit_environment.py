"""The environment that the units of a nightly timer get: what the shell has and a nightly run reads.

Invariant: a value that holds a secret is in a file for its owner only; a variable of builder is carried over or refused
by its name, never dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from builder.errors import RecipeError
from builder.nightly import ENVIRONMENT

ARTIFACTS = "BUILDER_ARTIFACTS"
# Those that the units have in another form: the store as an option, addresses for messages in a file.
ELSEWHERE = (ARTIFACTS, ENVIRONMENT)
PASSWORD_FILE = "BUILDER_REGISTRY_PASSWORD_FILE"
OURS = (
    "BUILDER_ROOT_PASSWORD_FILE",
    "BUILDER_SIGNING_KEY",
    "BUILDER_REGISTRY_USER",
    PASSWORD_FILE,
    "BUILDER_FARM_LEASE",
)
PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
# Where programs, settings, keys, logins and certificates are found.
PLACES = (
    "PATH",
    "HOME",
    "TMPDIR",
    "XDG_CONFIG_HOME",
    "XDG_CONFIG_DIRS",
    "XDG_CACHE_HOME",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "DOCKER_CONFIG",
    "REGISTRY_AUTH_FILE",
)


@dataclass(frozen=True)
class UnitEnvironment:
    """Variables for units.

    Args:
        public: may be in a unit, which every user of the host can read.
        secret: hold a password.
    """

    public: Mapping[str, str]
    secret: Mapping[str, str]


def carried_over(shell: Mapping[str, str], *, root: bool) -> UnitEnvironment:
    """Return what of the shell's environment the units get.

    Args:
        root: systemd runs the units for the host; a user's own manager sets the user's variables itself.

    Raises:
        RecipeError: a variable of builder's is not known, or cannot be used without a terminal.
    """
    for name in sorted(shell):
        if name.startswith("BUILDER_") and name not in (*OURS, *ELSEWHERE):
            raise RecipeError(
                f"{name}: builder has no such variable, so a nightly run would not use it",
                f"known are {', '.join((*OURS, *ELSEWHERE))}",
                f"unset {name}",
            )
    if shell.get(PASSWORD_FILE) == "-":
        raise RecipeError(
            f"{PASSWORD_FILE}=-: a timer has no standard input", hint=f"export {PASSWORD_FILE}=/path/of/a/file"
        )
    proxies = [name for proxy in PROXIES for name in (proxy, proxy.upper())]
    # A user's libvirt has its sockets there; for root it may be another user's, left by su or sudo.
    places = PLACES if root else (*PLACES, "XDG_RUNTIME_DIR")
    found = {name: shell[name] for name in (*OURS, *proxies, *places) if shell.get(name)}
    secret = {name: value for name, value in found.items() if name in proxies and "@" in value}
    return UnitEnvironment({name: value for name, value in found.items() if name not in secret}, secret)
