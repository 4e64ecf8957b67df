"""Make a change of the network while the guardian watches; confirm it, or roll it back.

Invariant: the guardian runs before anything is changed, and learns of every end that this process can still report.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from builder.errors import HostError
from builder.host.network import guardian, rollback, session
from builder.host.network.change import Change
from builder.system import netlink, process, retry
from builder.system.atomic_file import replacing
from builder.vm import daemon

WITHIN = 20.0  # seconds for the guardian to come up, and to find out about the gateway


def require_none() -> None:
    """Make sure that no other change of the network is under way, or was left half done.

    Raises:
        HostError: one is.
    """
    if daemon.answers(guardian.SOCKET):
        raise HostError("another change of the network waits to be confirmed", hint="builder host confirm")
    # False, not an error, where this user may not look.
    if os.path.exists(guardian.PENDING):  # noqa: PTH110
        raise HostError("a change of the network was cut short and not put back", hint="builder host restore")


def apply(change: Change, note: Callable[[str], None]) -> dict[str, Any]:
    """Make a change under the guardian's eyes and wait for the outcome.

    Args:
        note: told what is waited for.

    Returns:
        What the guardian said last: `outcome` is `kept`.

    Raises:
        HostError: it was put back, and why; or another change is under way.
    """
    require_none()
    guardian.RUN.mkdir(parents=True, exist_ok=True, mode=0o700)
    guardian.OUTCOME.unlink(missing_ok=True)
    with replacing(guardian.PENDING, 0o600) as file:
        file.write(json.dumps(change.as_dict()).encode())
    process.start_daemon(guardian.PROGRAM)
    with _line(WITHIN) as line:
        try:
            with _reverting(line):
                said = _change(change, line, note)
        except _LostError:
            # The guardian is gone: nobody else is left to put it back.
            roll_back_pending()
            raise HostError("the network was put back: the guardian process died") from None
    if said.get("outcome") != "kept":
        raise HostError("the network is as it was before", details=str(said.get("why", "")))
    return said


def _change(change: Change, line: _Line, note: Callable[[str], None]) -> dict[str, Any]:
    _ask(line, "hold")
    netlink.move(change.before, change.bridge, change.addresses, change.routes)
    said = _ask(line, "applied")
    if said["say"] == "waiting":
        note(
            f"the network is changed; keep it by running `builder host confirm` from a new session within "
            f"{said['within']:g} s, or it is put back"
        )
        line.socket.settimeout(change.within + WITHIN)
        said = line.hear()
    return said


def confirm() -> dict[str, Any]:
    """Tell the guardian to keep the change.

    Raises:
        HostError: nothing waits for it, or the guardian refuses.
    """
    if not daemon.answers(guardian.SOCKET):
        last = _last()
        if last.get("outcome") == "kept":
            return last
        why = f"the last change: {last['outcome']}, {last['why']}" if last else ""
        raise HostError("no change of the network waits to be confirmed", details=why)
    with _line(WITHIN) as line:
        said = _ask(line, "confirm")
    if said.get("outcome") != "kept":
        raise HostError("the change is not confirmed", details=str(said.get("why", "")))
    return said


def pending() -> bool:
    """A change was begun and nobody watches it any more: builder and guardian were both killed."""
    return guardian.PENDING.exists() and not daemon.answers(guardian.SOCKET)


def roll_back_pending() -> None:
    """Undo such a change.

    Raises:
        HostError: what is known of it cannot be read, or the kernel refuses a part.
    """
    try:
        # No more of it than this: it may be another version's.
        record = json.loads(guardian.PENDING.read_bytes())
        before, bridge = netlink.Snapshot.from_dict(record["before"]), str(record["bridge"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
        hint = "put the network back by hand, or reboot: nothing was written to disk"
        raise HostError(f"cannot read {guardian.PENDING}", f"{type(fault).__name__}: {fault}", hint) from fault
    rollback.roll_back(before, bridge)
    guardian.PENDING.unlink(missing_ok=True)


def _last() -> dict[str, Any]:
    try:
        record = json.loads(guardian.OUTCOME.read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


class _LostError(Exception):
    """The guardian closed the line without a word."""


@dataclass
class _Line:
    """A conversation with the guardian."""

    socket: socket.socket
    rest: bytes = b""

    def hear(self) -> dict[str, Any]:
        while b"\n" not in self.rest:
            try:
                data = self.socket.recv(4096)
            except OSError:
                data = b""
            if not data:
                raise _LostError
            self.rest += data
        text, _, self.rest = self.rest.partition(b"\n")
        record: dict[str, Any] = json.loads(text)
        return record


def _ask(line: _Line, word: str) -> dict[str, Any]:
    try:
        line.socket.sendall(word.encode())
    except OSError:
        raise _LostError from None
    return line.hear()


@contextmanager
def _line(within: float) -> Iterator[_Line]:
    """Connect, as soon as the guardian listens."""

    def connect() -> socket.socket | None:
        attempt = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            attempt.connect(str(guardian.SOCKET))
        except OSError:
            attempt.close()
            return None
        return attempt

    connected = retry.until(connect, within=within, every=0.02)
    if connected is None:
        raise HostError("the process that would put the network back does not start; nothing was changed")
    with connected:
        connected.settimeout(within)
        try:
            yield _Line(connected)
        except _LostError:
            raise HostError("the guardian process ended without a word") from None


@contextmanager
def _reverting(line: _Line) -> Iterator[None]:
    """An interrupt or an error before the end puts everything back at once."""
    try:
        yield
    except BaseException:
        with suppress(_LostError, OSError):
            line.socket.settimeout(WITHIN)
            _ask(line, "revert")
        raise


def may_be_remote() -> bool:
    """Return whether this command was perhaps given over the network, so that a confirmation is needed."""
    return not session.of(os.getpid()).local
