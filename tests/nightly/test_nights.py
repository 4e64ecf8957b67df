"""Whole nightly runs over toy stages: every build is a real child process of the real command line."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from builder.images import verifications
from builder.nightly.builds import ImageBuild
from builder.nightly.capacity import Capacity
from builder.nightly.record import Result
from builder.nightly.scheduler import run_all
from builder.system import retry
from tests.nightly.conftest import Place, verdicts
from tests.rewording import MARK


def test_one_failure_stops_no_other_build_and_decides_the_exit_code(place: Place) -> None:
    place.recipe("alpha")
    place.recipe("broken", behave="fail")
    place.recipe("gamma", "matrix: {machine.firmware: [bios, uefi]}")
    (place.folder / "pipelines" / "torn.yaml").write_text("name: torn\nmedia: 3\n")
    night = place.night("alpha", "broken", "gamma", code=5)
    assert verdicts(night) == {
        "alpha": "published",
        "broken": "failed",
        "gamma": "published",
        "gamma-uefi": "published",
    }
    broken = night["results"][1]
    assert broken["exit_code"] == 5
    assert broken["fault"]["stage"] == "install"
    assert broken["fault"]["hint"] == "see the console"
    assert broken["console"].splitlines()[-1] == "Pane is dead"
    assert broken["picture"] == "screenshot.png"
    assert Path(broken["folder"], "verdict.json").is_file()
    assert {path.name for path in (place.artifacts / "images").iterdir()} == {"alpha", "gamma", "gamma-uefi"}

    # Without names: all there are, and now failures of two kinds. What stands is proved, not built.
    night = place.night(code=10)
    assert verdicts(night) == {
        "alpha": "unchanged",
        "broken": "failed",
        "gamma": "unchanged",
        "gamma-uefi": "unchanged",
        "torn": "failed",
    }
    torn = night["results"][-1]
    assert torn["exit_code"] == 2
    assert "torn.yaml" in torn["fault"]["details"]
    latest = place.artifacts / "images" / "alpha" / night["results"][0]["image"]["version"]
    assert [proof.good for proof in verifications(latest)] == [True]
    assert sum(line.endswith("alpha ") for line in place.diary()) == 1


def test_a_changed_input_is_named_and_the_packages_are_compared(place: Place) -> None:
    place.recipe("alpha")
    place.night()
    place.recipe("alpha", hostname="longer-name")
    [result] = place.night()["results"]
    assert result["verdict"] == "published"
    assert result["why"] == "vars.hostname changed"
    assert result["difference"]["packages"]["updated"] == [{"name": "tree", "old": "5", "new": "11"}]


def test_silent_rot_is_found_and_the_image_is_not_built_anew(place: Place) -> None:
    place.recipe("alpha")
    [first] = place.night()["results"]
    disk = place.artifacts / "images" / "alpha" / first["image"]["version"] / "alpha.qcow2"
    before, data = disk.stat(), bytearray(disk.read_bytes())
    data[0] ^= 1
    disk.chmod(0o644)
    disk.write_bytes(bytes(data))
    disk.chmod(0o444)
    os.utime(disk, ns=(before.st_atime_ns, before.st_mtime_ns))
    [second] = place.night(code=6)["results"]
    assert second["verdict"] == "corrupt"
    assert "alpha.qcow2" in second["fault"]["details"]
    assert len(place.diary()) == 1


def test_a_medium_that_cannot_be_had_is_exit_4(place: Place) -> None:
    place.recipe("alpha", behave="medium")
    [result] = place.night(code=4)["results"]
    assert result["fault"]["kind"] == "medium"
    assert not (place.artifacts / "images").exists()


def test_fail_fast_starts_nothing_more(place: Place) -> None:
    place.recipe("a", behave="fail")
    place.recipe("b")
    night = place.night("--fail-fast", "--jobs", "1", "a", "b", code=5)
    assert verdicts(night) == {"a": "failed", "b": "skipped"}


def test_a_build_that_dies_without_a_word_is_a_failure(place: Place) -> None:
    place.recipe("a", behave="die")
    [result] = place.night(code=3)["results"]
    assert "without a verdict (SIGKILL)" in result["fault"]["brief"]
    assert "out of memory" in result["fault"]["hint"]


def test_what_took_longest_begins_first(place: Place) -> None:
    for name in ("a", "b", "c"):
        place.recipe(name)
    first = place.night("--jobs", "1")
    record = place.artifacts / "reports" / first["date"] / "night.json"
    for result in first["results"]:
        result["usual"] = {"a": 5.0, "b": 7.0, "c": 6.0}[result["name"]]
    record.write_text(json.dumps(first))
    # A night without news was over in no time, and must not be taken for what a build takes.
    place.night("--jobs", "1")
    for name in ("a", "b", "c"):
        place.recipe(name, size=11)
    place.night("--jobs", "1")
    assert [line.split()[2] for line in place.diary()] == ["a", "b", "c", "b", "c", "a"]


def test_an_unknown_pipeline_is_refused_before_anything_is_built(place: Place) -> None:
    place.recipe("alpha")
    done = place.run("--artifacts", str(place.artifacts), "nightly", "alpha", "alhpa")
    assert done.returncode == 2
    assert "did you mean alpha?" in done.stderr
    assert not place.artifacts.exists()


def test_every_build_has_a_process_group_of_its_own(place: Place) -> None:
    for name in ("a", "b"):
        place.recipe(name)
    place.night("--jobs", "2")
    groups = [line.split()[:2] for line in place.diary()]
    assert len(groups) == 2
    assert all(process == group for process, group in groups)


@contextlib.contextmanager
def waiting_night(place: Place) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A night whose one build waits, and the id of that build's process."""
    place.recipe("a", behave="wait")
    with (place.folder / "out").open("wb") as out, (place.folder / "err").open("wb") as err:
        night = subprocess.Popen(
            place.command("--artifacts", str(place.artifacts), "nightly", "--json"),
            cwd=place.folder,
            env=place.environment,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        try:
            lines = retry.until(lambda: place.diary() or None, within=60)
            assert lines is not None, (place.folder / "err").read_text()
            yield night, int(lines[0].split()[0])
        finally:
            night.kill()
            night.wait()


def gone(process: int) -> bool | None:
    """Whether the process has ended; one that nobody has collected yet counts as ended."""
    try:
        return True if Path(f"/proc/{process}/stat").read_text().split(") ")[1][0] == "Z" else None
    except OSError:
        return True


def test_an_interrupt_ends_the_builds_and_is_reported(place: Place) -> None:
    with waiting_night(place) as (night, child):
        os.kill(night.pid, signal.SIGINT)
        assert night.wait(60) == 130
        assert retry.until(lambda: gone(child), within=1)
    assert place.diary()[-1] == "undone"
    assert verdicts(json.loads((place.folder / "out").read_text())) == {"a": "interrupted"}
    assert (place.artifacts / "reports" / "latest" / "index.html").is_file()


def test_a_build_that_does_not_end_is_told_from_one_that_never_began() -> None:
    """As on a farm whose worker hangs: the run does not wait for it for ever."""
    never = threading.Event()

    class Pool:
        capacity = Capacity(2, "test")

        def __init__(self) -> None:
            self.threads = ThreadPoolExecutor(2)
            self.signals: list[signal.Signals] = []

        def submit(self, build: ImageBuild) -> Future[Result]:
            return self.threads.submit(self.run, build)

        def run(self, build: ImageBuild) -> Result:
            if build.name == "hangs":
                never.wait()
            return Result(name=build.name, pipeline=build.name, verdict="published")

        def shutdown(self) -> None:
            self.threads.shutdown(wait=False, cancel_futures=True)

        def end(self, how: signal.Signals) -> None:
            self.signals.append(how)

    reported: list[str] = []

    def on_result(result: Result) -> None:
        reported.append(result.name)
        if len(reported) == 1:
            raise KeyboardInterrupt

    pool = Pool()
    builds = [ImageBuild(name, name) for name in ("hangs", "quick", *map(str, range(99)))]
    try:
        outcome = run_all(builds, pool, on_result, grace=0.1)
    finally:
        never.set()
    assert pool.signals == [signal.SIGTERM, signal.SIGKILL]
    assert isinstance(outcome.interrupt, KeyboardInterrupt)
    results = {result.name: result for result in outcome.results}
    assert (results["hangs"].verdict, results["hangs"].exit_code) == ("interrupted", 130)
    assert results["quick"].verdict == "published"
    assert {"published", "skipped"} >= {results[str(number)].verdict for number in range(99)}
    assert len(reported) == len(builds)


def test_builds_end_when_the_night_is_killed(place: Place) -> None:
    with waiting_night(place) as (night, child):
        os.kill(night.pid, signal.SIGKILL)
        assert retry.until(lambda: gone(child), within=30)
        assert retry.until(lambda: place.diary()[-1] == "undone" or None, within=30)


def test_two_nights_of_one_day_have_two_reports_that_stay(place: Place) -> None:
    place.recipe("a")
    first, second = place.night(), place.night("--keep", "2")
    assert Path(first["report"], "index.html").is_file()
    assert second["date"] == f"{first['date']}.2" or time.strftime("%H") == "00"
    assert (place.artifacts / "reports" / "latest").readlink() == Path(second["date"])


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("matrix: {machine.firmware: [bios, ufei]}", "machine.firmware=ufei"),
        ("matrix: {machine.firmwear: [bios]}", "machine.firmwear"),
        ("matrix: {name: [b]}", "name"),
    ],
)
def test_a_matrix_that_makes_no_sense_is_that_recipe_s_failure(place: Place, more: str, told: str) -> None:
    place.recipe("a", more)
    night = place.night(code=2)
    faults = [result["fault"] for result in night["results"] if result["fault"]]
    assert len(faults) == 1
    assert told in faults[0]["details"]


def test_other_words_change_no_verdict_of_a_night(place: Place, tmp_path_factory: pytest.TempPathFactory) -> None:
    """One night with builder's texts as they are, and one with all of them rewritten."""
    other = Place(tmp_path_factory.mktemp("reworded"), {"REWORDED": "1"})
    place.recipe("alpha")
    place.recipe("broken", behave="fail")
    (place.folder / "pipelines" / "torn.yaml").write_text("name: torn\nmedia: 3\n")
    shutil.copytree(place.folder, other.folder, dirs_exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        plain, reworded = pool.map(lambda place: place.night(code=10)["results"], (place, other))
    assert [result["verdict"] for result in plain] == ["published", "failed", "failed"]
    assert list(map(result_facts, plain)) == list(map(result_facts, reworded))
    assert [result["fault"]["brief"].startswith(MARK) for result in reworded[1:]] == [True, True]


def result_facts(result: dict[str, Any]) -> tuple[object, ...]:
    """What a program sees of a build; of the reason that it names, which stage's it is."""
    fault = result["fault"] or {}
    first = next((stage["stage"] for stage in result["stages"] if stage["reason"] == result["why"]), None)
    kinds = [(stage["stage"], stage["action"], stage["reason_kind"], stage["failed"]) for stage in result["stages"]]
    keys = (fault.get("kind"), fault.get("exit_code"), fault.get("stage"))
    return result["verdict"], result["exit_code"], keys, first, kinds, result["evidence"], result["picture"]
