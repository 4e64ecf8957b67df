"""SIGKILL at every change of a file: nothing half-made is ever visible, and the next run succeeds."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from pathlib import Path

from builder import images
from builder.pipeline.plan import ASKED
from builder.settings import Settings
from builder.stage import Ledger
from builder.store import runs
from builder.store.objects import RECORD, Record
from builder.store.store import ABSENT, Store
from tests.fault_table import FaultRow
from tests.pipeline import processes, toys


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def assert_objects_are_whole(store: Store) -> None:
    """Every directory in objects/ is complete to the last byte and read-only."""
    for path in store.objects.iterdir() if store.objects.is_dir() else []:
        record = Record.model_validate_json((path / RECORD).read_bytes())
        assert record.digest == path.name
        files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
        assert files.keys() == {*record.files, RECORD}
        for name, facts in record.files.items():
            assert facts.size == files[name].stat().st_size
            assert facts.sha256 in (None, sha256(files[name]))
        assert all(file.stat().st_mode & 0o222 == 0 for file in files.values())


def assert_catalogue_is_whole(catalogue: Path) -> None:
    """Every version that can be seen is complete, and `latest` points at one of them."""
    for folder in catalogue.iterdir() if catalogue.is_dir() else []:
        versions = [path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_symlink()]
        for path in versions:
            facts = json.loads((path / "manifest.json").read_bytes())["files"]
            assert {file.name for file in path.iterdir()} == {*facts, "manifest.json", "SHA256SUMS"}
            assert all(sha256(path / name) == fact["sha256"] for name, fact in facts.items())
        if (folder / "latest").is_symlink():
            assert (folder / "latest").resolve() in [path.resolve() for path in versions]


def assert_nothing_is_left(settings: Settings) -> None:
    store = Store(settings.store)
    assert list(store.tmp.iterdir()) == []
    assert list(store.marks.iterdir()) == []
    assert not list(settings.images.glob("*/.new-*"))


def count_kills(fault_row: FaultRow, what: str, kills: int, began: float) -> None:
    """One row for them all, with the mean time of a kill and what mends it; what was left is asserted each time."""
    with fault_row(f"kill -9 at each change of a file, {what}", kind="mend") as row:
        row.judged(f"{kills} times whole, next run good")
        row.happened = row.seen - (time.time() - began) / kills


def build_one(folder: Path) -> None:
    """Build the first toy stage by hand, in the place of one that stands already, if it does."""
    store = Store(folder / "store")
    step = toys.plan_in(folder).steps[0]
    run_id = runs.new_id()
    folder.mkdir(exist_ok=True)
    with runs.register(store, run_id), store.building(step, run_id, {}, why_stale=lambda: ASKED) as build:
        (build.out / "below").mkdir()
        (build.out / "below" / "disk").write_bytes(b"1" * 5000)
        (build.scratch / "rubbish").write_bytes(b"2")
        build.finish(Ledger(), 1.0)


def test_an_object_stands_whole_or_not_at_all(memory_path: Path, fault_row: FaultRow) -> None:
    def place(change: int) -> tuple[Path]:
        folder = memory_path / str(change)
        build_one(folder) if change % 2 else None
        return (folder,)

    step = toys.plan_in(memory_path).steps[0]
    kills, began = 0, time.time()
    for change in processes.killed_before_each_change(build_one, place):
        store = Store(memory_path / str(change) / "store")
        assert_objects_are_whole(store)
        build_one(memory_path / str(change))
        assert store.why_stale(step.digest, {}) is None
        kills += 1
    assert kills > 20
    count_kills(fault_row, "an object is written", kills, began)


def test_a_run_killed_anywhere_leaves_nothing_that_the_next_one_cannot_mend(
    memory_path: Path, fault_row: FaultRow
) -> None:
    def place(change: int) -> tuple[Path]:
        (memory_path / str(change)).mkdir()
        return (memory_path / str(change),)

    kills, began = 0, time.time()
    for change in processes.killed_before_each_change(toys.run_quietly, place, every=6):
        folder = memory_path / str(change)
        settings = toys.settings_in(folder)
        assert_objects_are_whole(Store(settings.store))
        assert_catalogue_is_whole(settings.images)
        before = images.list_images(settings.images, "toy")
        toys.run_in(folder)
        assert_objects_are_whole(Store(settings.store))
        assert_catalogue_is_whole(settings.images)
        assert_nothing_is_left(settings)
        after = images.list_images(settings.images, "toy")
        assert after[0].latest
        assert {image.version for image in before} <= {image.version for image in after}
        assert {record.outcome for record in runs.list_runs(settings.runs)} <= {"done", "killed"}
        # Only what the run itself had no object for is done twice.
        assert toys.diary(folder).count("fetch") <= 2
        kills += 1
    assert kills > 20
    count_kills(fault_row, "a run, in all its stages", kills, began)


def publish(catalogue: Path, source: Path) -> None:
    images.publish(catalogue, "toy", {"toy.qcow2": source / "new", "proof.json": source / "proof"}, {})


def test_publishing_killed_anywhere_keeps_the_last_good_image(memory_path: Path, fault_row: FaultRow) -> None:
    (memory_path / "old").write_bytes(b"old disk")
    (memory_path / "new").write_bytes(b"new disk")
    (memory_path / "proof").write_bytes(b"proof")

    def place(change: int) -> tuple[Path, Path]:
        catalogue = memory_path / f"images-{change}"
        images.publish(catalogue, "toy", {"toy.qcow2": memory_path / "old"}, {})
        return catalogue, memory_path

    old = sha256(memory_path / "old")
    kills, moved, began = 0, 0, time.time()
    for change in processes.killed_before_each_change(publish, place):
        catalogue = memory_path / f"images-{change}"
        assert_catalogue_is_whole(catalogue)
        latest = images.load_image(catalogue, "toy")
        assert sha256(latest.disk) == latest.sha256
        moved += latest.sha256 != old
        assert images.load_image(catalogue, f"toy@{old[:12]}").disk.read_bytes() == b"old disk"
        publish(catalogue, memory_path)
        assert images.load_image(catalogue, "toy").disk.read_bytes() == b"new disk"
        assert not list((catalogue / "toy").glob(".new-*"))
        kills += 1
    assert kills > 8
    count_kills(fault_row, "an image is published", kills, began)


def hold(folder: Path, ready: int) -> None:
    """Be in the middle of building, say so, and wait for the end."""
    store = Store(folder / "store")
    step = toys.plan_in(folder).steps[0]
    run_id = runs.new_id()
    with (
        runs.register(store, run_id, [step.digest]),
        store.building(step, run_id, {}, why_stale=lambda: ABSENT) as build,
    ):
        (build.out / "half").write_bytes(b"half")
        (folder / "ready").touch()
        os.kill(os.getpid(), ready)
        signal.pause()


def test_a_lock_goes_with_the_killed_process(memory_path: Path, fault_row: FaultRow) -> None:
    with fault_row("a lock of a killed process", kind="mend") as row:
        _taken_over(memory_path)
        row.judged("taken over at once")


def _taken_over(memory_path: Path) -> None:
    code = processes.status(processes.start(hold, memory_path, signal.SIGKILL))
    assert code == -signal.SIGKILL
    assert (memory_path / "ready").exists()
    waits: list[str] = []
    store = Store(memory_path / "store")
    step = toys.plan_in(memory_path).steps[0]
    with store.building(step, runs.new_id(), {}, why_stale=lambda: ABSENT, on_wait=waits.append) as build:
        (build.out / "whole").write_bytes(b"whole")
        build.finish(Ledger(), 0.0)
    assert waits == []
