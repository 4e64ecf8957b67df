"""Find out where a process was started from: on this host or over the network, and since when.

Invariant: the process table of the kernel decides, not what a caller claims. `sudo` drops SSH_CONNECTION, so the
ancestors of the process are examined too. A terminal multiplexer hides its connection, so it counts as remote.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SSHD = ("sshd",)  # also sshd-session of OpenSSH 9.8
HIDING = ("tmux", "screen", "SCREEN", "mosh-server")


@dataclass(frozen=True)
class Session:
    """Where a process was started from.

    Args:
        remote: over the network, as far as can be told.
        since: when its sshd was started, in seconds since boot; None when there is none among its ancestors.
    """

    remote: bool
    since: float | None


def of(pid: int) -> Session:
    """The session of a process."""
    since = None
    remote = b"SSH_CONNECTION=" in _environment(pid)
    for name, started in _ancestors(pid):
        if name.startswith(SSHD) and since is None:
            since, remote = started, True
        if name.startswith(HIDING):
            remote = True
    return Session(remote, since)


def now() -> float:
    """Seconds since boot, on the clock that start times are told by."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _ancestors(pid: int) -> Iterator[tuple[str, float]]:
    """Name and start (seconds since boot) of a process and those above it."""
    ticks = os.sysconf("SC_CLK_TCK")
    while pid > 0:
        try:
            text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            return
        head, _, tail = text.rpartition(")")
        fields = tail.split()
        yield head.partition("(")[2], int(fields[19]) / ticks
        pid = int(fields[1])


def _environment(pid: int) -> bytes:
    try:
        return b"\0" + Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""
