"""Where a process was started from: at the host itself, or perhaps over the network.

Invariant: what is not provably the host's own console counts as remote. A list of programs for remote work would never
be complete (Cockpit, xrdp, terminal multiplexers …), and what is read is the kernel's process table: `sudo` drops
SSH_CONNECTION.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SSHD = ("sshd",)  # also sshd-session of OpenSSH 9.8
# They outlive the connection that they are used over, and pass on the environment in which they were started.
HIDING = ("tmux", "screen", "SCREEN", "mosh-server", "zellij")
# They give the command a pseudo-terminal of its own: their own terminal is the one that counts.
PASSING = ("sudo", "su", "doas")
# Linux's Documentation/admin-guide/devices.txt: 4 is tty1-63 and ttyS, 204 other serial ports (ttyAMA …), 229 consoles
# of hypervisors (hvc).
VIRTUAL, SERIAL_LOW, HYPERVISOR = 4, 204, 229


@dataclass(frozen=True)
class Session:
    """The session that a process was started from.

    Args:
        local: at a virtual or serial console of this host.
        since: when the session began, in seconds since boot: the start of its sshd, else of the oldest process above
            this one (below PID 1); None when a terminal multiplexer or the like hides it.
    """

    local: bool
    since: float | None


@dataclass(frozen=True)
class Ancestor:
    """An entry of the process table; `started` in seconds since boot, `terminal` as its device number or 0."""

    pid: int
    name: str
    started: float
    terminal: int


def of(pid: int) -> Session:
    """Find the session of a process."""
    return judge(list(_ancestors(pid)), over_ssh=b"\0SSH_CONNECTION=" in _environment(pid))


def judge(line: Sequence[Ancestor], *, over_ssh: bool) -> Session:
    """Say where a process was started from.

    Args:
        line: the process and those above it; empty when it is gone.
        over_ssh: its environment names an SSH connection.
    """
    if not line:
        return Session(local=False, since=None)
    sshd = next((each for each in line if each.name.startswith(SSHD)), None)
    if sshd is not None:
        return Session(local=False, since=sshd.started)
    if any(each.name.startswith(HIDING) for each in line) or over_ssh:
        return Session(local=False, since=None)
    deciding = [line[0], *(each for each in line if each.name in PASSING)][-1]
    oldest = [each for each in line if each.pid != 1 or each is line[0]][-1]
    return Session(_is_console(deciding.terminal), oldest.started)


def now() -> float:
    """Seconds since boot, on the clock that processes' start times are given in."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _is_console(terminal: int) -> bool:
    """Return whether this is a console of the host: no pseudo-terminal, and not none at all."""
    major, minor = os.major(terminal), os.minor(terminal)
    return (major == VIRTUAL and minor > 0) or major in (SERIAL_LOW, HYPERVISOR)


def _ancestors(pid: int) -> Iterator[Ancestor]:
    """A process and those above it."""
    ticks = os.sysconf("SC_CLK_TCK")
    while pid > 0:
        try:
            text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            return
        head, _, tail = text.rpartition(")")
        # proc(5): state, parent, group, session, terminal … the start is the 22nd field.
        fields = tail.split()
        yield Ancestor(pid, head.partition("(")[2], int(fields[19]) / ticks, int(fields[4]) & 0xFFFFFFFF)
        pid = int(fields[1])


def _environment(pid: int) -> bytes:
    try:
        return b"\0" + Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""
