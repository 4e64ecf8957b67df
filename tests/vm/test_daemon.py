"""Daemons are found by whether they answer, and leave no dead process behind them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from builder.system import retry
from builder.vm import daemon, reaper

# Detaches a process that ends at once, tells its number, and stays until its input ends.
DETACHER = "(sh -c 'echo $$' &); read line"


def test_orphans_are_collected_at_once() -> None:
    words = [sys.executable, "-I", reaper.__file__, "/bin/sh", "-c", DETACHER]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin
        assert child.stdout
        orphan = int(child.stdout.readline())
        assert retry.until(lambda: not Path(f"/proc/{orphan}").exists() or None, within=1)
        child.stdin.close()
        assert child.wait(10) == 0


def test_reaper_stays_until_the_last_orphan_has_ended() -> None:
    words = [sys.executable, "-I", reaper.__file__, "/bin/sh", "-c", "(cat >/dev/null <&3 &) 3<&0; exit 0"]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as child:
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.5)
        assert child.stdin
        child.stdin.close()
        assert child.wait(10) == 0


def test_a_program_that_is_not_there() -> None:
    assert subprocess.run([sys.executable, "-I", reaper.__file__, "/nowhere"], check=False).returncode == 127


def test_a_socket_file_without_a_listener_does_not_answer(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    assert not daemon.answers(path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        assert daemon.answers(path)
    assert path.exists()
    assert not daemon.answers(path)


def test_other_addresses_and_users_are_left_alone() -> None:
    daemon.ensure("test:///default")
    daemon.ensure("qemu:///session" if os.geteuid() == 0 else "qemu:///system")
