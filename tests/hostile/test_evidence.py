"""Evidence from a farm's worker that was broken into: it chooses contents, and no place on this host."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from builder.errors import HostError
from builder.nightly.farm import evidence
from builder.nightly.farm.client import keep_evidence
from builder.nightly.farm.worker import BuildResult
from builder.nightly.record import Result

RUN = "20261123-094501-k3f9"
GOOD = {"README.txt": b"read me\n", "twin-a/console.log": b"\x1b[1m", "screenshot.png": b"png"}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """The folder of all runs, made with a umask that keeps nothing back."""
    before = os.umask(0)
    yield_to = tmp_path / "artifacts" / "runs"
    yield_to.mkdir(parents=True, mode=0o755)
    os.umask(before)
    return yield_to


def result(run: str = RUN, **more: str) -> Result:
    return Result(name="x", pipeline="x", verdict="failed", run=run, host="east", **more)  # type: ignore[arg-type]


def test_only_the_owner_reads_it(runs: Path) -> None:
    before = os.umask(0)
    try:
        folder = evidence.keep(runs, RUN, GOOD, "east")
    finally:
        os.umask(before)
    modes = {path.relative_to(runs).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in runs.rglob("*")}
    assert modes == {
        RUN: 0o700,
        f"{RUN}/twin-a": 0o700,
        **{f"{RUN}/{name}": 0o600 for name in GOOD},
    }
    assert {name: (folder / name).read_bytes() for name in GOOD} == GOOD


NAMES = [
    "../../../../escaped",
    "../escaped",
    "/tmp/escaped",
    "a/../../escaped",
    "..",
    ".",
    "",
    "a//escaped",
    "a/",
    "a\x00b",
    "a\nb",
    "\x1b]0;owned\x07",
    ".hidden",
    "a/" * 50 + "escaped",
    "n" * 300,
]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_lead_out_are_refused(runs: Path, name: str) -> None:
    with pytest.raises(HostError, match="the worker east sent evidence that is refused"):
        evidence.keep(runs, RUN, {**GOOD, name: b"x"}, "east")
    with pytest.raises(HostError, match="the worker east sent"):
        evidence.keep(runs, name, GOOD, "east")
    assert list(runs.iterdir()) == []
    assert not list(runs.parent.parent.rglob("escaped"))


def test_a_run_of_this_host_is_not_changed(runs: Path, tmp_path: Path) -> None:
    (runs / RUN).mkdir()
    (runs / RUN / "README.txt").write_text("ours")
    evidence.keep(runs, RUN, GOOD, "east")
    assert [(path.name, path.read_text()) for path in (runs / RUN).iterdir()] == [("README.txt", "ours")]
    (runs / "linked").symlink_to(tmp_path)
    evidence.keep(runs, "linked", GOOD, "east")
    assert not (tmp_path / "README.txt").exists()


def test_too_much_is_refused(runs: Path) -> None:
    with pytest.raises(HostError, match="refused"):
        evidence.keep(runs, RUN, {"a": b"x" * evidence.LARGEST, "b": b"x"}, "east")
    assert list(runs.iterdir()) == []


def test_a_report_shows_no_file_of_this_host(runs: Path, tmp_path: Path) -> None:
    """The report embeds the picture in the result's folder."""
    (tmp_path / "shadow").write_text("root:secret")
    for files in (GOOD, {}):
        said = result(run=RUN if files else "", folder=str(tmp_path), picture="shadow")
        kept = keep_evidence(BuildResult(said, dict(files)), runs)
        assert (kept.picture, kept.evidence) == ("", sorted(files))
        assert kept.folder == (str(runs / RUN) if files else "")
    shown = keep_evidence(BuildResult(result("other", picture="screenshot.png"), GOOD), runs)
    assert shown.picture == "screenshot.png"
