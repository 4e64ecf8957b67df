"""A nightly run continues, and ends with a report, when one of its builds raises an exception."""

from __future__ import annotations

import contextlib
import io
import json
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from builder.errors import HostError, RecipeError
from builder.nightly import run
from builder.nightly.builds import ImageBuild
from builder.nightly.capacity import Capacity
from builder.nightly.progress import OnEvent, ProgressReporter
from builder.nightly.record import Result
from builder.nightly.worker import WorkerOptions, run_build
from builder.system.process import Children
from tests.nightly.conftest import Place

# A program that answers as no builder does: the document has no folder.
ANSWERS = ("sh", "-c", 'echo \'{"event": "note"}\' >&2; echo \'{"name": "x"}\'')


@dataclass
class FakeExecutor:
    """Builds every image at once, or raises."""

    faults: Mapping[str, Exception]
    given: Mapping[str, Result] = field(default_factory=dict)
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    capacity: Capacity = field(default_factory=lambda: Capacity(1, "test"))

    @contextlib.contextmanager
    def open(self, builds: Sequence[ImageBuild], options: WorkerOptions, on_event: OnEvent) -> Iterator[FakeExecutor]:
        assert (len(builds), options.now >= 0, callable(on_event)) == (3, True, True)
        yield self

    def submit(self, build: ImageBuild) -> Future[Result]:
        return self.threads.submit(self.build, build)

    def build(self, build: ImageBuild) -> Result:
        if build.name in self.faults:
            raise self.faults[build.name]
        if build.name in self.given:
            return self.given[build.name]
        return Result(name=build.name, pipeline=build.pipeline, verdict="published", seconds=1.0)

    def shutdown(self) -> None:
        self.threads.shutdown(wait=False, cancel_futures=True)

    def end(self, how: signal.Signals) -> None:
        raise AssertionError(how)


def test_an_exception_of_one_build_is_the_failure_of_that_build(place: Place) -> None:
    for name in ("a", "b", "c"):
        place.recipe(name)
    plan = run.NightlyPlan(place.artifacts, (place.folder / "pipelines",))
    output = io.StringIO()
    faults = {"a": RuntimeError("odd"), "b": HostError("worker is lost", "rack 4", "start it")}
    nightly = run.run(plan, FakeExecutor(faults), ProgressReporter(as_json=False, stream=output))
    first, second, third = nightly.results
    assert [result.verdict for result in nightly.results] == ["failed", "failed", "published"]
    assert (first.exit_code, second.exit_code, nightly.exit_code) == (1, 3, 10)
    assert first.fault is not None
    assert first.fault.brief == "internal error: RuntimeError (this is a bug of builder)"
    assert "RuntimeError: odd" in first.fault.details
    assert second.fault is not None
    assert (second.fault.brief, second.fault.details, second.fault.hint) == ("worker is lost", "rack 4", "start it")
    assert third.usual == 1.0
    assert "2 of 3 builds need attention" in (plan.reports / nightly.date / "index.html").read_text()
    assert "c: published" in output.getvalue()


@pytest.mark.parametrize("command", [ANSWERS, ("/does/not/exist",)])
def test_a_build_raises_nothing(tmp_path: Path, command: tuple[str, ...]) -> None:
    options = WorkerOptions(tmp_path, (), 0.0, command)
    result = run_build(ImageBuild("a", "a"), options, Children(), lambda *_: None)
    assert result.verdict == "failed"
    assert result.fault is not None
    assert result.fault.brief.startswith("internal error: KeyError" if command == ANSWERS else "/does/not/exist")


def test_a_fault_in_reporting_progress_is_a_failure_too(tmp_path: Path) -> None:
    def on_event(build: ImageBuild, event: dict[str, Any]) -> None:
        raise ValueError(f"{build.name} {event['event']}")

    result = run_build(ImageBuild("a", "a"), WorkerOptions(tmp_path, (), 0.0, ANSWERS), Children(), on_event)
    assert result.fault is not None
    assert "ValueError: a note" in result.fault.details


def test_evidence_that_cannot_be_read_does_not_hide_the_failure(tmp_path: Path) -> None:
    """Reading this console fails."""
    (tmp_path / "runs" / "1").mkdir(parents=True)
    error = {"kind": "install", "brief": "the installer ended", "hint": "see the console"}
    planned = {"event": "planned", "run": "1", "name": "a", "stages": []}
    (tmp_path / "runs" / "1" / "console.log").symlink_to("/proc/self/mem")
    (tmp_path / "planned").write_text(json.dumps(planned) + "\n")
    (tmp_path / "error").write_text(json.dumps({"error": error}))
    command = ("sh", "-c", f"cat {tmp_path}/planned >&2; cat {tmp_path}/error; exit 5")
    result = run_build(ImageBuild("a", "a"), WorkerOptions(tmp_path, (), 0.0, command), Children(), lambda *_: None)
    assert (result.verdict, result.exit_code, result.evidence) == ("failed", 5, ["console.log"])
    assert result.fault is not None
    assert result.fault.brief == "the installer ended"


def test_options_that_exclude_each_other_are_refused(tmp_path: Path) -> None:
    plan = run.NightlyPlan(tmp_path, (), require_kvm=True, accel="tcg")
    with pytest.raises(RecipeError, match="exclude each other"):
        plan.worker_options(0.0)


def test_the_options_of_each_build(tmp_path: Path) -> None:
    plan = run.NightlyPlan(tmp_path, (), media="rehearsal", require_kvm=True, push="oci://h/x", allow_rehearsal=True)
    options = plan.worker_options(0.0)
    assert options.options == ("--media", "rehearsal", "--accel", "auto", "--require-kvm")
    assert options.push == ("oci://h/x", "--allow-rehearsal")
