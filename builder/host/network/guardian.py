"""The process that watches a change of the network and undoes it unless it is confirmed.

Invariant: whatever happens to builder or to this process's files, the network ends as confirmed or as it was before.

Invariant: whatever happens to builder, the network ends as confirmed or as it was before.
It is started before the change, in a session of its own, and needs neither builder nor a terminal. It reads one word
per message and answers in JSON lines, on a socket that only root can open:

    hold       from builder: until it sends `applied`, its end undoes the change
    applied    the change is made: the guardian probes the gateway, then keeps the change or waits for a confirmation
    revert     undo the change now
    confirm    from `builder host confirm`: keep it, if the session is newer than the change and the gateway answers

Only when a change is kept are the files that make it permanent written, and its undo is recorded in the journal.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from builder.errors import HostError
from builder.host import undo
from builder.host.journal import FOLDER, Journal
from builder.host.network import session
from builder.host.network.backends import BACKENDS
from builder.host.network.change import Change
from builder.system import netlink, process

# It runs in /: with -P no folder there is taken for this program.
PROGRAM = (sys.executable, "-P", "-m", "builder.host.network.guardian")
RUN = Path("/run/builder/host")
SOCKET = RUN / "guardian.sock"
PENDING = RUN / "pending.json"
OUTCOME = RUN / "outcome.json"
START = 15.0  # seconds from `hold` to `applied`
GATEWAY = 5.0  # seconds for the gateway to answer
IDLE = 30.0  # seconds for somebody to say `hold`


class Guardian:
    """Watches one change."""

    def __init__(self, change: Change, server: socket.socket) -> None:
        self.change = change
        self.server = server
        self.holder: socket.socket | None = None
        self.applied_at: float | None = None
        self.deadline = session.now() + IDLE
        self.watchers: list[socket.socket] = []
        self.selector = selectors.DefaultSelector()
        self.selector.register(server, selectors.EVENT_READ)
        self.wake = socket.socketpair()
        self.selector.register(self.wake[0], selectors.EVENT_READ)
        for name in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
            signal.signal(name, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: self.wake[1].send(b"x"))

    def watch(self) -> None:
        """Until the change is kept or undone."""
        while True:
            left = self.deadline - session.now()
            if left <= 0:
                return self.roll_back(self._why_late())
            for key, _ in self.selector.select(left):
                if key.fileobj is self.wake[0]:
                    return self.roll_back("the host shuts down")
                if key.fileobj is self.server:
                    peer, _address = self.server.accept()
                    self.selector.register(peer, selectors.EVENT_READ)
                elif isinstance(key.fileobj, socket.socket) and self._hear(key.fileobj):
                    return None

    def roll_back(self, why: str) -> None:
        """Undo the change; tried again and again, since a host without network is the worst outcome."""
        fault = ""
        for _attempt in range(5):
            try:
                if self.holder is not None:
                    netlink.restore(self.change.before, self.change.bridge)
                self._end({"outcome": "put back", "why": why})
                return
            except Exception as error:
                fault = str(error) or type(error).__name__
                self.selector.select(0.2)
        self._end({"outcome": "broken", "why": f"{why}; putting it back failed: {fault}"})

    def _why_late(self) -> str:
        if self.applied_at is not None:
            return f"nobody confirmed it within {self.change.within:g} s"
        return "the change was not finished in time"

    def _hear(self, peer: socket.socket) -> bool:
        """Handle one message; return True when all is over."""
        try:
            data = peer.recv(4096)
        except OSError:
            data = b""
        if not data:
            self.selector.unregister(peer)
            peer.close()
            if peer is self.holder and self.applied_at is None:
                self.roll_back("builder died half-way")
                return True
            return False
        word = data.decode(errors="replace").strip()
        if word == "hold" and self.holder is None:
            self.holder, self.deadline = peer, session.now() + START
            self._say(peer, {"say": "ready"})
        elif word == "applied" and peer is self.holder and self.applied_at is None:
            return self._applied()
        elif word == "revert" and peer is self.holder:
            self.watchers.append(peer)
            self.roll_back("builder was stopped")
            return True
        elif word == "confirm":
            return self._confirm(peer)
        return False

    def _applied(self) -> bool:
        assert self.holder is not None
        self.watchers.append(self.holder)
        self.applied_at = session.now()
        self.deadline = self.applied_at + self.change.within
        silent = self._silent()
        if silent:
            self.roll_back(f"the gateway {silent} does not answer over {self.change.bridge}")
            return True
        if not self.change.confirm:
            self.keep("the gateway answers")
            return True
        self._say(self.holder, {"say": "waiting", "within": self.change.within})
        return False

    def _confirm(self, peer: socket.socket) -> bool:
        if self.applied_at is None:
            self._say(peer, {"say": "refused", "why": "the change is not finished yet"})
            return False
        pid, _uid, _gid = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        where = session.of(pid)
        if not where.local and (where.since is None or where.since < self.applied_at):
            why = "this session is older than the change: open a new one over SSH, or confirm on the host's console"
            self._say(peer, {"say": "refused", "why": why})
            return False
        silent = self._silent()
        if silent:
            self._say(peer, {"say": "refused", "why": f"the gateway {silent} does not answer"})
            return False
        self.watchers.append(peer)
        self.keep("it was confirmed")
        return True

    def _silent(self) -> str | None:
        """The first gateway that does not answer."""
        for gateway in self.change.gateways:
            if not netlink.answers(gateway, self.change.bridge, GATEWAY):
                return gateway
        return None

    def keep(self, why: str) -> None:
        """Make the change last; a back end that spoils it has its files taken away again."""
        journal, change, count = Journal(FOLDER), self.change, None
        try:
            count = len(journal.entries())
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            snapshot = change.before.as_dict()
            journal.record("link", boot=boot, snapshot=snapshot, uplink=change.before.uplink, bridge=change.bridge)
            backend = BACKENDS[change.backend]
            for path, text in change.files.items():
                journal.replace_file(Path(path), text, backend.mode, list(backend.reload) or None)
            for words in backend.take_over(change.files):
                process.run(words, timeout=GATEWAY * 4)
            silent = self._silent() if change.files else None
            if silent:
                raise HostError(f"the gateway {silent} fell silent when {change.backend} took over")
        # Also one that is a bug: there is nobody else to put the network back.
        except Exception as fault:
            if count is not None:
                with suppress(Exception):
                    undo.rewind(journal, count)
            self.roll_back(f"it could not be kept: {fault}")
            return
        self._end({"outcome": "kept", "why": why, "files": list(change.files)})

    def _end(self, outcome: dict[str, Any]) -> None:
        with suppress(OSError):
            OUTCOME.write_text(json.dumps(outcome))
        for path in (PENDING, SOCKET):
            with suppress(OSError):
                path.unlink(missing_ok=True)
        for peer in self.watchers:
            self._say(peer, {"say": "over", **outcome})

    @staticmethod
    def _say(peer: socket.socket, message: dict[str, Any]) -> None:
        with suppress(OSError):
            peer.sendall(json.dumps(message).encode() + b"\n")


def main() -> int:
    """Read the pending change, open the socket, watch."""
    os.umask(0o077)
    change = Change.from_dict(json.loads(PENDING.read_text()))
    with suppress(FileNotFoundError):
        SOCKET.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(SOCKET))
        server.listen()
        guardian = Guardian(change, server)
        try:
            guardian.watch()
        except Exception as fault:
            guardian.roll_back(f"the guardian process broke: {type(fault).__name__}: {fault}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
