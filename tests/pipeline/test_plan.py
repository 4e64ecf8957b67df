"""Plans: each action with its reason; planning leaves no trace."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder.errors import RecipeError
from builder.store import gc
from builder.store.store import Store
from tests.pipeline import processes, toys
from tests.pipeline.toys import STAGES, ToyOrder, plan_in, run_in, told, up_to

ALL_FIRST = dict.fromkeys(("fetch", "kickstart", "install", "seal", "verify", "publish"), "run: first run")


def changed(name: str, **more: Any) -> tuple[Any, ...]:
    """The toy stages with one of them changed."""
    return tuple(replace(stage, **more) if stage.name == name else stage for stage in STAGES)


def object_of(folder: Path, name: str) -> Path:
    store = Store(toys.settings_in(folder).store)
    return next(store.path(step.digest) for step in plan_in(folder).steps if step.stage.name == name)


def test_a_first_run_runs_everything(memory_path: Path) -> None:
    assert told(plan_in(memory_path)) == ALL_FIRST
    assert list(memory_path.iterdir()) == []


def test_after_a_run_nothing_is_left_to_do(memory_path: Path) -> None:
    run_in(memory_path)
    assert plan_in(memory_path).idle
    assert told(plan_in(memory_path)) == {
        "fetch": "not needed: only install would read it",
        "kickstart": "not needed: only install would read it",
        "install": "not needed: only seal would read it",
        "seal": "not needed: only verify and publish would read it",
        "verify": "not needed: only publish would read it",
        "publish": "reuse: finished object found",
    }


def test_changed_inputs_are_named_and_the_stages_that_follow_say_why(memory_path: Path) -> None:
    run_in(memory_path)
    order = ToyOrder(vars={"hostname": "two", "zone": "UTC"}, packages=("core", "tree"))
    said = told(plan_in(memory_path, order))
    assert said["fetch"] == "reuse: finished object found"
    assert said["kickstart"] == "run: +packages.tree, vars.hostname changed, +vars.zone"
    assert said["install"] == "run: kickstart changed"
    assert said["seal"] == "run: install changed"
    assert said["publish"] == "run: seal changed, verify changed"


def test_another_order_shares_objects_but_not_the_memory(memory_path: Path) -> None:
    run_in(memory_path)
    said = told(plan_in(memory_path, ToyOrder(name="other", vars={"hostname": "two"})))
    assert said["fetch"] == "reuse: finished object found"
    assert said["install"] == "run: first run"


def test_a_new_stage_version_is_told(memory_path: Path) -> None:
    run_in(memory_path)
    said = told(plan_in(memory_path, stages=changed("verify", version=2)))
    assert said["verify"] == "run: stage version 1 → 2"
    assert said["seal"] == "reuse: finished object found"
    assert said["install"].startswith("not needed")


def test_damage_is_named(memory_path: Path) -> None:
    run_in(memory_path)
    run_in(memory_path, stages=up_to("verify", changed("publish", version=2)))
    disk = object_of(memory_path, "seal") / "disk.qcow2"
    size = disk.stat().st_size
    disk.chmod(0o644)
    os.truncate(disk, 5)
    said = told(plan_in(memory_path, fresh={"publish"}))
    assert said["seal"] == f"run: finished object damaged: disk.qcow2 has 5 bytes, {size} recorded"
    assert said["verify"] == "run: seal is built anew"
    assert said["install"] == "run: finished object was dropped, and is needed again"


@pytest.mark.parametrize("what", ["gone", "touched", "added", "record"])
def test_every_kind_of_damage_is_found(memory_path: Path, what: str) -> None:
    run_in(memory_path, stages=up_to("fetch"))
    folder = object_of(memory_path, "fetch")
    file = folder / "medium.iso"
    if what == "gone":
        file.unlink()
        expected = "medium.iso is missing"
    elif what == "touched":
        os.utime(file, (0, 0))
        expected = "medium.iso was written to at 1970-01-01 00:00:00 UTC"
    elif what == "added":
        (folder / "more").touch()
        expected = "more was added"
    else:
        (folder / "stage.json").write_text("{")
        expected = "stage.json cannot be read"
    assert told(plan_in(memory_path))["fetch"] == f"run: finished object damaged: {expected}"


def test_fresh_takes_along_what_follows(memory_path: Path) -> None:
    run_in(memory_path)
    said = told(plan_in(memory_path, fresh={"seal"}))
    assert said["seal"] == "run: asked for by --rebuild"
    assert said["verify"] == "run: seal is built anew"
    assert said["publish"] == "run: seal and verify are built anew"
    assert said["install"] == "run: finished object was dropped, and is needed again"
    assert said["fetch"] == "reuse: finished object found"


def test_an_image_that_left_the_catalogue_is_published_again(memory_path: Path) -> None:
    run_in(memory_path)
    settings = toys.settings_in(memory_path)
    for manifest in settings.images.glob("toy/*/manifest.json"):
        manifest.unlink()
    said = told(plan_in(memory_path))
    assert said["publish"].startswith("run: version ")
    assert said["publish"].endswith(" is not in the catalogue")
    assert said["seal"] == "reuse: finished object found"
    assert said["install"].startswith("not needed")


@pytest.mark.parametrize(
    ("more", "brief"),
    [
        ({"fresh": {"instal"}}, "there is no stage instal"),
        ({"fresh": {"answers"}}, "the stage answers was renamed"),
    ],
)
def test_unknown_stages_are_refused(memory_path: Path, more: dict[str, Any], brief: str) -> None:
    with pytest.raises(RecipeError) as caught:
        plan_in(memory_path, **more)
    assert caught.value.brief == brief
    hints = {"there is no stage instal": "did you mean install?"}
    assert caught.value.hint == hints.get(brief, "it is called kickstart now")


def test_a_dropped_object_is_missed_with_the_right_words(memory_path: Path) -> None:
    run_in(memory_path, stages=up_to("fetch"))
    assert gc.drop(Store(toys.settings_in(memory_path).store), object_of(memory_path, "fetch").name) > 0
    assert told(plan_in(memory_path))["fetch"] == "run: finished object was dropped, and is needed again"


# -- no trace


def _plan_without_a_write(folder: Path) -> None:
    """Plan with every change of a file, every socket and every program forbidden, as a user who may only read."""

    def forbid(event: str, args: tuple[Any, ...]) -> None:
        if processes.is_change(event, args) or event.startswith(("socket.", "subprocess.", "os.exec", "os.posix_")):
            os.write(2, f"{event} {args}\n".encode())
            os._exit(3)

    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    sys.addaudithook(forbid)
    assert told(plan_in(folder))["publish"] == "reuse: finished object found"
    said = told(plan_in(folder, ToyOrder(vars={"hostname": "two"}), fresh={"fetch"}))
    assert said["fetch"] == "run: asked for by --rebuild"
    assert said["kickstart"] == "run: vars.hostname changed"
    # Nobody may say later that reading was not forbidden by anything.
    if not os.access(folder, os.W_OK):
        os._exit(0)
    os._exit(4)


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder with a finished run in it that may be read and not written to."""
    with tempfile.TemporaryDirectory(prefix="builder-") as name:
        folder = Path(name)
        run_in(folder)
        everything = [folder, *folder.rglob("*")]
        for path in everything:
            if path.is_symlink():
                continue
            path.chmod(path.stat().st_mode & 0o555)
            if os.geteuid() == 0:
                os.chown(path, 65534, 65534)
        yield folder
        for path in everything:
            if path.is_dir():
                path.chmod(0o700)


def test_planning_leaves_no_trace_on_a_read_only_store(read_only: Path) -> None:
    before = {path: path.lstat() for path in read_only.rglob("*")}
    assert processes.status(processes.start(_plan_without_a_write, read_only)) == 0
    after = {path: path.lstat() for path in read_only.rglob("*")}
    assert {path: facts.st_mtime_ns for path, facts in before.items()} == {
        path: facts.st_mtime_ns for path, facts in after.items()
    }
