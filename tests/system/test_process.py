"""A program that must not stop half-way continues when its caller is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from builder.errors import HostError
from builder.system import process, retry

KILLS_ITS_CALLER = 'read what; kill -9 "$PPID"; sleep 0.2; echo "$what" > "$1"'


def test_it_outlives_its_caller(tmp_path: Path) -> None:
    words = ["sh", "-c", KILLS_ITS_CALLER, "sh", str(tmp_path / "done")]
    code = f"from builder.system import process; process.run_through({words!r}, 'all of it\\n')"
    caller = subprocess.run([sys.executable, "-c", code], check=False)
    assert caller.returncode == -signal.SIGKILL
    assert retry.until(lambda: (tmp_path / "done").exists() or None, within=10)
    assert (tmp_path / "done").read_text() == "all of it\n"


def test_an_interrupt_waits_for_its_end(tmp_path: Path) -> None:
    script = 'kill -INT "$PPID"; sleep 0.3; touch "$1"'
    words = ["sh", "-c", script, "sh", str(tmp_path / "done")]
    code = f"""
from builder.system import process, signals
with signals.one_interrupt():
    process.run_through({words!r}, "")
"""
    caller = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Interrupted" in caller.stderr
    assert (tmp_path / "done").exists()


def test_what_it_says_is_the_fault() -> None:
    with pytest.raises(HostError, match="no such luck"):
        process.run_through(["sh", "-c", "echo no such luck; exit 1"], "")


def test_a_daemon_finds_the_programs_of_administrators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As cron gives it to root.
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    said = tmp_path / "path"
    process.start_daemon(["sh", "-c", f'echo "$PATH" > {said}.new && mv {said}.new {said}'])
    assert retry.until(lambda: said.exists() or None, within=30)
    assert "/usr/sbin" in said.read_text().strip().split(":")
