"""Whatever one build of a night does, and whatever its guest prints: the others go on, and the report is written."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from builder.nightly import run
from builder.nightly.progress import ProgressReporter
from builder.nightly.record import Fault, Result
from tests.nightly.conftest import Place, place, verdicts
from tests.nightly.test_run import FakeExecutor

__all__ = ["place"]


def test_a_build_that_raises_and_a_hostile_console_stop_no_other_build(place: Place) -> None:
    place.recipe("alpha")
    place.recipe("broken", behave="raise")
    place.recipe("hostile", behave="hostile")
    place.recipe("omega")
    night = place.night("alpha", "broken", "hostile", "omega", "--jobs", "2", code=10)
    assert verdicts(night) == {"alpha": "published", "broken": "failed", "hostile": "failed", "omega": "published"}
    broken, hostile = night["results"][1:3]
    assert "LookupError" in broken["fault"]["brief"] + broken["fault"]["details"]
    assert hostile["exit_code"] == 5
    assert hostile["fault"]["brief"] == "the installer ended by itself"
    assert hostile["fault"]["details"].startswith("no such file: /x/")
    assert hostile["console"].splitlines()[-1] == "Pane is dead"
    folder = place.artifacts / "reports" / "latest"
    for name in ("index.html", "report.md", "night.json"):
        assert "Pane is dead" in (folder / name).read_text(encoding="utf-8")
    ElementTree.fromstring((folder / "junit.xml").read_bytes())


def test_results_that_cannot_be_written_down_are_failures_of_their_own_build(tmp_path: Path) -> None:
    """From a worker of a farm: text that no file can hold, a record that is none."""
    place = Place(tmp_path)
    for folder in ("pipelines", "kickstarts"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b", "c"):
        place.recipe(name)
    odd = Result(name="a", pipeline="a", verdict="failed", console="\udcff", run="\ud800")
    odd.fault = Fault(kind="install", exit_code=5, brief="ended \udcff", line="\x1b")
    torn = Result.model_construct(name="b", verdict="published", stages=3)
    plan = run.NightlyPlan(place.artifacts, (place.folder / "pipelines",))
    executor = FakeExecutor({}, given={"a": odd, "b": torn})
    nightly = run.run(plan, executor, ProgressReporter(as_json=True))
    assert [result.verdict for result in nightly.results] == ["failed", "failed", "published"]
    assert [result.pipeline for result in nightly.results] == [str(name) for name in ("a", "b", "c")]
    assert (plan.reports / nightly.date / "index.html").is_file()
    first, second, _ = nightly.results
    assert first.fault is not None
    assert first.fault.brief == "ended \ufffd"
    assert second.fault is not None
    assert "ValidationError" in second.fault.brief
