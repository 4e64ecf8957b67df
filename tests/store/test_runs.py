"""Run records: what is kept, what is redacted, and what is removed when there are too many."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from builder.errors import Cause, Diagnosis, InstallError, PublishError, Source
from builder.store import runs
from builder.store.store import Store

pytestmark = pytest.mark.unit


def record(folder: Path, run_id: str, outcome: runs.Outcome, size: int = 0) -> None:
    (folder / run_id).mkdir(parents=True)
    (folder / run_id / "console.log").write_bytes(b"x" * size)
    runs.save(folder, runs.RunRecord(id=run_id, pipeline="toy", started="2026-11-23T09:45:01+00:00", outcome=outcome))


def test_ids_tell_the_time_and_differ() -> None:
    ids = {runs.new_id() for _ in range(50)}
    assert len(ids) > 40
    assert all(re.fullmatch(r"\d{8}-\d{6}-[2-9a-z]{4}", one) for one in ids)


def test_the_oldest_successful_go_first(tmp_path: Path) -> None:
    for number, outcome in enumerate(("failed", "done", "failed", "done", "done")):
        record(tmp_path, f"run-{number}", outcome)  # type: ignore[arg-type]
    assert runs.bound(tmp_path, runs=3) == ["run-1", "run-3"]
    assert runs.bound(tmp_path, runs=1, spare={"run-4"}) == ["run-0", "run-2"]
    assert [one.id for one in runs.list_runs(tmp_path)] == ["run-4"]


def test_bytes_are_bounded_too(tmp_path: Path) -> None:
    for number in range(4):
        record(tmp_path, f"run-{number}", "done", size=100_000)
    assert runs.bound(tmp_path, size=250_000) == ["run-0", "run-1"]
    assert runs.bound(tmp_path, size=0, spare={"run-2", "run-3"}) == []


def test_a_run_is_found_by_the_beginning_of_its_id(tmp_path: Path) -> None:
    record(tmp_path, "20261123-094501-k3f9", "done")
    record(tmp_path, "20261123-100000-aaaa", "failed")
    assert runs.load_run(tmp_path, "20261123-10").outcome == "failed"
    with pytest.raises(PublishError) as caught:
        runs.load_run(tmp_path, "20261123")
    assert caught.value.brief == "2 runs begin with 20261123"
    with pytest.raises(PublishError) as caught:
        runs.load_run(tmp_path, "20261123-094502-k3f9")
    assert caught.value.details.splitlines()[0] == "20261123-094501-k3f9"


def test_folders_without_a_record_are_passed_over(tmp_path: Path) -> None:
    record(tmp_path, "run-1", "done")
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "run.json").write_text('{"id":')
    assert [one.id for one in runs.list_runs(tmp_path)] == ["run-1"]
    assert runs.list_runs(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("--set=root_password=hunter2", "--set=root_password=***"),
        ("API_TOKEN=a=b", "API_TOKEN=***"),
        ("--root-password-file=/etc/pw", "--root-password-file=/etc/pw"),
        ("https://me:hunter2@mirror.invalid/a.iso", "https://***@mirror.invalid/a.iso"),
        ("hostname=web", "hostname=web"),
        ("https://mirror.invalid/a@b:c", "https://mirror.invalid/a@b:c"),
    ],
)
def test_secrets_are_blotted_out_of_the_command_line(word: str, shown: str) -> None:
    assert runs.redacted(["run", word]) == ["run", shown]


def test_a_recorded_failure_is_read_back(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    folder = tmp_path / "runs"

    def fail() -> None:
        with runs.recording(store, folder, "run-1", "toy", ["run", "toy"]) as kept:
            assert runs.load_run(folder, "run-1").outcome == "running"
            kept.steps.append(runs.StepRecord(stage="install", digest="0", action="failed", reason="first run"))
            raise InstallError("the guest is gone", "no marker", "look at console.log")

    with pytest.raises(InstallError):
        fail()
    found = runs.load_run(folder, "run-1")
    assert [step.stage for step in found.steps] == ["install"]
    assert found.argv == ["run", "toy"]
    assert found.outcome == "failed"
    assert found.ended is not None
    assert found.verdict == {
        "kind": "install",
        "exit_code": 5,
        "brief": "the guest is gone",
        "details": "no marker",
        "hint": "look at console.log",
        "cause": "",
        "line": "",
        "source": "",
        "role": "",
        "transient": False,
        "stage": "install",
    }


@pytest.mark.parametrize(
    ("role", "source", "first"),
    [
        ("twin-b", Source.CONSOLE, "twin-b.console.txt"),
        ("twin-b", Source.BUILDER, "twin-b.console.txt"),
        ("install", Source.WATCHDOG, "screenshot.png"),
        ("twin-b", Source.WATCHDOG, "twin-b.console.txt"),
        ("install", Source.QEMU_LOG, "verdict.json"),
        ("", Source.KICKSTART, "kickstart.cfg"),
        ("", Source.PROGRAM, "verdict.json"),
        ("", Source.BUILDER, "verdict.json"),
    ],
)
def test_the_readme_says_what_to_look_at_first(role: str, source: Source, first: str, tmp_path: Path) -> None:
    def fail() -> None:
        with runs.recording(Store(tmp_path / "store"), tmp_path, "run-1", "toy"):
            for name in ("twin-b.console.txt", "screenshot.png", "kickstart.cfg"):
                (tmp_path / "run-1" / name).write_text("something")
            # A guest that said nothing: what it shows is on the screen.
            (tmp_path / "run-1" / "console.txt").write_text("\n")
            fault = InstallError("it failed")
            fault.diagnosis = Diagnosis(Cause.STALLED, "x", source, role)
            raise fault

    with pytest.raises(InstallError):
        fail()
    assert f"look first: {first}\n" in (tmp_path / "run-1" / runs.README).read_text()


def test_a_live_run_is_seen_and_its_id_is_taken(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with runs.register(store, "run-1", ["b", "a"]):
        assert runs.live(store) == {"run-1"}
        assert runs.claimed(store) == {"a", "b"}
        with pytest.raises(PublishError, match="run run-1 exists already"), runs.register(store, "run-1"):
            pass
        runs.release(store, "run-1", "a")
        assert runs.claimed(store) == {"b"}
        assert runs.dead(store) == []
    assert runs.live(store) == set()
    assert list(store.marks.iterdir()) == []
