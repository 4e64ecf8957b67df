"""Which libvirt of this host a URI leads to, and the folders and sockets of an ordinary user's libvirt.

Invariant: nothing else in builder reads a libvirt URI.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from builder.errors import RecipeError

SYSTEM_DIRECTORY = Path("/run/libvirt")
# Bytes of a UNIX socket's path, without the NUL at its end (sockaddr_un in unix(7)).
LONGEST = 107
# The longest names of sockets below `session_directory`: of virtlogd, and of the modular daemons where they are used.
LONGEST_SOCKET, LONGEST_MODULAR_SOCKET = "virtlogd-admin-sock", "virtnetworkd-admin-sock"
# libvirt shortens a machine's name to 20 characters here (VIR_DOMAIN_SHORT_NAME_MAX); its number grows with each start.
MONITOR = f"qemu/lib/domain-999-{'n' * 20}/monitor.sock"
LONGEST_FOLDER = LONGEST - len(f"/libvirt/{MONITOR}")


def kind_of(uri: str) -> Literal["system", "session"] | None:
    """Return whose libvirt of this host it is: the host's or this user's; None for any other libvirt."""
    parts = urlsplit(uri)
    if parts.scheme not in ("qemu", "qemu+unix") or parts.netloc:
        return None
    return "system" if parts.path == "/system" else "session" if parts.path == "/session" else None


def require_local(uri: str) -> None:
    """Make sure that the URI leads to QEMU on this host.

    Raises:
        RecipeError: it does not.
    """
    if kind_of(uri):
        return
    raise RecipeError(
        f"{uri} is not a libvirt of this host",
        hint="builder runs on the hypervisor: use qemu:///system or qemu:///session there, "
        "or hand the work to other hosts with `builder nightly --scheduler`",
    )


def names_socket(uri: str) -> bool:
    """Return whether the URI names a socket or other parameters: then builder starts no daemon for it."""
    return bool(urlsplit(uri).query)


def session_directory() -> Path:
    """Return where libvirt keeps the sockets of a user: $XDG_RUNTIME_DIR/libvirt, else ~/.cache/libvirt."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "libvirt" if runtime else _below_home("XDG_CACHE_HOME", ".cache")


def machine_log(uri: str, name: str) -> Path:
    """Return QEMU's own log, as libvirt keeps it for the machine of this name."""
    if kind_of(uri) == "system":
        return Path("/var/log/libvirt/qemu") / f"{name}.log"
    return _below_home("XDG_CACHE_HOME", ".cache") / "qemu" / "log" / f"{name}.log"


@dataclass(frozen=True)
class LongPath:
    """The path of a socket that cannot be made, and the environment variable that decides where it is."""

    path: Path
    variable: str

    def __str__(self) -> str:
        size = len(os.fsencode(self.path))
        return f"{self.path} has {size} bytes; the path of a socket has at most {LONGEST} (from ${self.variable})"


def long_paths(uri: str, *, modular: bool = False) -> list[LongPath]:
    """Return the sockets of this user's libvirt and of its machines whose paths are too long.

    libvirt itself finds out when it starts a machine, and its daemon is not there at all where its own are too long.

    Args:
        modular: the modular daemons are used.
    """
    if kind_of(uri) != "session" or names_socket(uri):
        return []
    sockets = [
        LongPath(session_directory() / (LONGEST_MODULAR_SOCKET if modular else LONGEST_SOCKET), "XDG_RUNTIME_DIR"),
        LongPath(_below_home("XDG_CONFIG_HOME", ".config") / MONITOR, "XDG_CONFIG_HOME"),
    ]
    return [socket for socket in sockets if len(os.fsencode(socket.path)) > LONGEST]


def _below_home(variable: str, default: str) -> Path:
    """Return libvirt's folder in one of the directories of the XDG Base Directory Specification."""
    chosen = os.environ.get(variable)
    return (Path(chosen) if chosen else Path.home() / default) / "libvirt"
