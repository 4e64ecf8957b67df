"""A program that must not stop half-way goes on when the one who started it is killed."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from builder.adapters import process, waiting
from builder.errors import HostError

KILLS_ITS_CALLER = 'read what; kill -9 "$PPID"; sleep 0.2; echo "$what" > "$1"'


def test_it_outlives_its_caller(tmp_path: Path) -> None:
    words = ["sh", "-c", KILLS_ITS_CALLER, "sh", str(tmp_path / "done")]
    code = f"from builder.adapters import process; process.run_through({words!r}, 'all of it\\n')"
    caller = subprocess.run([sys.executable, "-c", code], check=False)
    assert caller.returncode == -signal.SIGKILL
    assert waiting.until(lambda: (tmp_path / "done").exists() or None, within=10)
    assert (tmp_path / "done").read_text() == "all of it\n"


def test_an_interrupt_waits_for_its_end(tmp_path: Path) -> None:
    script = 'kill -INT "$PPID"; sleep 0.3; touch "$1"'
    words = ["sh", "-c", script, "sh", str(tmp_path / "done")]
    code = f"""
from builder import interrupt
from builder.adapters import process
with interrupt.one_interrupt():
    process.run_through({words!r}, "")
"""
    caller = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Interrupted" in caller.stderr
    assert (tmp_path / "done").exists()


def test_what_it_says_is_the_fault() -> None:
    with pytest.raises(HostError, match="no such luck"):
        process.run_through(["sh", "-c", "echo no such luck; exit 1"], "")


def _owner(path: str) -> str:
    """The Debian package that brings a file; of a merged /usr it may know the other name only."""
    for name in (path, path.removeprefix("/usr")):
        found = subprocess.run(["dpkg-query", "-S", name], capture_output=True, text=True, check=False)
        if found.returncode == 0:
            return found.stdout.partition(":")[0]
    return ""


@pytest.mark.parametrize("program", sorted(process.PACKAGES))
def test_a_missing_program_is_hinted_at_by_its_package(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shutil.which(program, path="/usr/bin:/usr/sbin")
    if path is None:
        pytest.skip(f"{program} is not installed")
    # The daemons' own package lacks the accounts and the configuration.
    if process.PACKAGES[program] != "libvirt-daemon-system":
        assert process.PACKAGES[program] == _owner(path)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(HostError) as fault:
        process.find(program)
    assert fault.value.hint == f"apt-get install {process.PACKAGES[program]}"
