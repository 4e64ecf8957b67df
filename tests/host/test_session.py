"""Who is asked to confirm a change of the network: whatever is not provably a console of the host."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from builder.host.network import session
from builder.host.network.session import Ancestor

pytestmark = pytest.mark.unit

TTY1, TTYS0, HVC0, AMA0 = os.makedev(4, 1), os.makedev(4, 64), os.makedev(229, 0), os.makedev(204, 64)
PTS0, NONE = os.makedev(136, 0), 0
INIT = ("systemd", NONE)

LOCAL = {
    "a virtual console": [("builder", TTY1), ("bash", TTY1), ("login", TTY1), INIT],
    "a serial console": [("builder", TTYS0), ("bash", TTYS0), INIT],
    "a hypervisor's console": [("builder", HVC0), ("bash", HVC0), INIT],
    "a serial console of an Arm machine": [("builder", AMA0), INIT],
    "sudo with a terminal of its own": [("builder", PTS0), ("sudo", PTS0), ("sudo", TTY1), ("bash", TTY1), INIT],
}
REMOTE = {
    "nothing known": [],
    "SSH": [("builder", PTS0), ("bash", PTS0), ("sshd", NONE), ("sshd", NONE), INIT],
    "SSH and sudo": [("builder", PTS0), ("sudo", PTS0), ("bash", PTS0), ("sshd-session", NONE), INIT],
    "SSH without a terminal": [("builder", NONE), ("bash", NONE), ("sshd", NONE), INIT],
    "Cockpit": [("builder", PTS0), ("bash", PTS0), ("cockpit-bridge", NONE), ("cockpit-session", NONE), INIT],
    "xrdp": [("builder", PTS0), ("bash", PTS0), ("xterm", NONE), ("xrdp-sesman", NONE), INIT],
    "zellij": [("builder", PTS0), ("bash", PTS0), ("zellij", NONE), INIT],
    "tmux": [("builder", PTS0), ("bash", PTS0), ("tmux: server", NONE), INIT],
    "sudo in tmux": [("builder", PTS0), ("sudo", PTS0), ("bash", PTS0), ("tmux: server", NONE), INIT],
    "a job of cron": [("builder", NONE), ("sh", NONE), ("cron", NONE), INIT],
    "a desktop": [("builder", PTS0), ("bash", PTS0), ("gnome-terminal-", NONE), ("systemd", NONE), INIT],
}


def line(processes: list[tuple[str, int]]) -> list[Ancestor]:
    count = len(processes)
    return [
        Ancestor(1 if index == count - 1 else 100 - index, name, 10.0 * (count - index), terminal)
        for index, (name, terminal) in enumerate(processes)
    ]


@pytest.mark.parametrize("name", LOCAL)
def test_at_the_host_itself(name: str) -> None:
    assert session.judge(line(LOCAL[name]), over_ssh=False).local


@pytest.mark.parametrize("name", REMOTE)
def test_perhaps_from_elsewhere(name: str) -> None:
    assert not session.judge(line(REMOTE[name]), over_ssh=False).local


def test_when_a_session_began() -> None:
    def since(name: str, *, over_ssh: bool = False) -> float | None:
        return session.judge(line(REMOTE[name]), over_ssh=over_ssh).since

    # The sshd of this connection, not the one that listens.
    assert since("SSH") == 30.0
    assert since("Cockpit") == 20.0
    assert since("a job of cron") == 20.0
    assert since("zellij") is since("tmux") is since("nothing known") is None
    assert since("Cockpit", over_ssh=True) is None
    assert not session.judge(line(LOCAL["a virtual console"]), over_ssh=True).local


def test_this_process_is_not_at_a_console() -> None:
    assert not session.of(os.getpid()).local
    assert session.of(2**22 + 1) == session.Session(local=False, since=None)


def test_a_process_with_a_pseudo_terminal_below_a_multiplexer(tmp_path: Path) -> None:
    """Real processes; the multiplexer is a shell of that name."""
    shell = Path(shutil.copy("/bin/sh", tmp_path / "zellij"))
    code = "import os; from builder.host.network import session; print(session.of(os.getpid()))"
    ours, theirs = pty.openpty()
    try:
        words = ["setsid", "--ctty", str(shell), "-c", f'{sys.executable} -c "{code}"; true']
        subprocess.run(words, stdin=theirs, stdout=theirs, stderr=theirs, check=True, timeout=60)
        assert "Session(local=False, since=None)" in os.read(ours, 4096).decode()
    finally:
        os.close(ours)
        os.close(theirs)
