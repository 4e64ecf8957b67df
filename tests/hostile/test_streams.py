"""Standard streams that are closed, as cron and supervisors leave them, and readers that leave early."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from builder.system import streams
from tests.command import RECIPE, environment

# Commands of each kind, with their exit codes: a result, an error, help, a wrong command line.
COMMANDS = {"pipelines": 0, "plan nosuch --json": 2, "--help": 0, "nosuchcommand": 2}


def shell(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which `$B` is builder."""
    (folder / "pipelines").mkdir(exist_ok=True)
    (folder / "pipelines" / "small.yaml").write_text(RECIPE.format(sha="ab" * 32))
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; B='{sys.executable} -m builder'; {script}"],
        cwd=folder,
        env=environment(folder, {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_a_closed_stream_changes_nothing(tmp_path: Path, closed: str) -> None:
    done = shell(tmp_path, f"$B pipelines {closed}")
    assert (done.returncode, done.stderr) == (0, "")
    assert ("small" in done.stdout) == (closed != ">&-")


@pytest.mark.parametrize("words", COMMANDS)
def test_each_kind_of_command_ends_as_always(tmp_path: Path, words: str) -> None:
    """With all three closed, and with a reader of both outputs that has left before anything was written."""
    for script in (f"$B {words} <&- >&- 2>&-", f"$B {words} 2>&1 | true"):
        done = shell(tmp_path, script)
        assert (done.returncode, done.stderr) == (COMMANDS[words], ""), script
    assert list(tmp_path.rglob("crash-*")) == []


def test_a_json_error_that_cannot_be_written_is_said_in_words(tmp_path: Path) -> None:
    done = shell(tmp_path, "$B plan nosuch --json > /dev/full")
    assert (done.returncode, "nosuch" in done.stderr, "Traceback" in done.stderr) == (2, True, False)


def test_a_file_that_is_opened_gets_no_number_of_a_stream() -> None:
    """What is opened first would otherwise be standard input, and a program that is started would write into it."""
    script = "import os, sys; from builder.system import streams; streams.prepare(); sys.exit(os.open('.', 0) < 3)"
    done = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -c "{script}" <&- >&- 2>&-'],
        cwd=Path(streams.__file__).parents[2],
        check=False,
    )
    assert done.returncode == 0
