"""Temporary failures are retried; permanent ones never are."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder.diagnosis import classify
from builder.errors import BuilderError, HostError, InstallError, Source
from builder.stage import Job, Stage
from builder.store import runs
from builder.system import retry
from tests.fakes import vendor
from tests.fault_table import FaultRow
from tests.pipeline import toys

ROOT = Path(__file__).parents[2]


def failing(times: int, fault: BuilderError) -> tuple[Stage[Any], ...]:
    """The toy pipeline, whose install fails so many times before it succeeds."""
    left = [fault] * times
    good = toys.STAGES[2].run

    def install(job: Job[Any]) -> None:
        if left:
            raise left.pop()
        good(job)

    return (*toys.STAGES[:2], replace(toys.STAGES[2], run=install), *toys.STAGES[3:])


def heal(folder: Path, stages: tuple[Stage[Any], ...], tries: int = 3) -> list[str]:
    """What `builder run --retry-transient` does; the causes that it told on the way."""
    causes: list[str] = []

    def heals(fault: BaseException) -> bool:
        return isinstance(fault, BuilderError) and classify.diagnose(fault).diagnosis.transient

    def told(fault: BaseException, _seconds: float) -> None:
        assert isinstance(fault, BuilderError)
        causes.append(fault.diagnosis.cause or "")

    retry.again(lambda: toys.run_in(folder, stages=stages), heals=heals, tries=tries, first=0.01, on_retry=told)
    return causes


def outcomes(folder: Path) -> list[str]:
    return [record.outcome for record in reversed(runs.list_runs(toys.settings_in(folder).runs))]


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        ("libvirt gone", "End of file while reading data: Input/output error"),
        ("host memory", "cannot set up guest memory 'pc.ram': Cannot allocate memory"),
    ],
)
def test_what_heals_is_tried_again(cause: str, words: str, memory_path: Path, fault_row: FaultRow) -> None:
    with fault_row(f"{cause}, twice; --retry-transient", kind="mend", place=memory_path) as row:
        assert heal(memory_path, failing(2, HostError("it failed", output=words))) == [cause, cause]
        row.judged(f"{cause}, third run done")
        assert sorted(outcomes(memory_path)) == ["done", "failed", "failed"]
        # What was finished before is not done again.
        assert toys.diary(memory_path).count("fetch") == 1


def test_what_does_not_heal_ends_it(memory_path: Path, fault_row: FaultRow) -> None:
    with fault_row("kickstart error; --retry-transient", place=memory_path) as row:
        fault = classify.classify("The following problem occurred on line 3 of the kickstart file: x", Source.CONSOLE)
        assert fault is not None
        with pytest.raises(InstallError) as caught:
            heal(memory_path, failing(1, fault.to_error(InstallError, "install")))
        row.judged(caught.value.diagnosis.cause)
        assert row.verdict == "kickstart error"
        assert outcomes(memory_path) == ["failed"]
        told = runs.list_runs(toys.settings_in(memory_path).runs)[0].verdict
        assert told is not None
        assert (told["transient"], told["exit_code"]) == (False, 5)


def test_it_is_not_tried_for_ever(memory_path: Path) -> None:
    with pytest.raises(HostError):
        heal(memory_path, failing(9, HostError("it failed", output="Cannot allocate memory")))
    assert outcomes(memory_path) == ["failed"] * 3


@pytest.mark.slow
def test_the_command_tries_again_and_tells_so(tmp_path: Path, fault_row: FaultRow) -> None:
    """No libvirt at all, as while its daemon restarts; the exit code and the document tell what it was."""
    tree = tmp_path / "tree"
    tree.mkdir()
    vendor.tree(tree, vendor.Shape())
    iso = vendor.press(tree, tmp_path / "vendor.iso", vendor.Shape())
    for kind in ("pipelines", "kickstarts"):
        shutil.copytree(ROOT / kind, tmp_path / kind)
    recipe = tmp_path / "pipelines" / "centos7-minimal.yaml"
    # The recipe of a vendor whose medium this is.
    ours = hashlib.sha256(iso.read_bytes()).hexdigest()
    recipe.write_text(re.sub(r"sha256: \S+", f"sha256: {ours}", recipe.read_text(), count=1))
    words = ["--artifacts", "artifacts", "run", "centos7-minimal", "--media", str(iso), "--retry-transient", "--json"]
    with fault_row("no libvirt; builder run --retry-transient", kind="stall", place=tmp_path) as row:
        done = subprocess.run(
            [sys.executable, "-m", "builder", *words, "--connect", f"qemu:///system?socket={tmp_path}/libvirt-sock"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 3, done.stderr
        error = json.loads(done.stdout)["error"]
        row.judged(error["cause"])
        assert (error["cause"], error["transient"]) == ("libvirt gone", True)
        assert done.stderr.count("trying again in") == 2
