"""Many processes at once on one store: each object is made once, and nothing that a live run needs is removed."""

from __future__ import annotations

import os
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from builder.pipeline.plan import ASKED
from builder.stage import Ledger
from builder.store import gc, runs
from builder.store.objects import bytes_freed, remove
from builder.store.secrets import StoredSecrets
from builder.store.store import ABSENT, Store
from builder.system import locks
from builder.system.digests import STEP_NS
from builder.system.retry import until
from tests.fault_table import FaultRow
from tests.pipeline import processes, toys


def together(count: int, work: Callable[..., None], *args: Any) -> list[int]:
    """Start `work` in so many processes, which begin at one moment; their exit statuses."""
    barrier = processes.FORKS.Barrier(count)
    started = [processes.start(work, barrier, number, *args) for number in range(count)]
    return [processes.status(process) for process in started]


def run_one(barrier: Barrier, number: int, folder: Path) -> None:
    barrier.wait()
    toys.run_in(folder)


def test_runs_of_one_order_at_once_build_each_stage_once(memory_path: Path) -> None:
    assert together(4, run_one, memory_path) == [0, 0, 0, 0]
    assert sorted(toys.diary(memory_path)) == sorted(stage.name for stage in toys.STAGES)
    store = Store(toys.settings_in(memory_path).store)
    assert list(store.tmp.iterdir()) == []
    # The last one that needed them took the intermediates away.
    assert {store.load(path.name).stage for path in store.objects.iterdir()} == {  # type: ignore[union-attr]
        "fetch",
        "seal",
        "verify",
        "publish",
    }
    assert {record.outcome for record in runs.list_runs(toys.settings_in(memory_path).runs)} == {"done"}


def run_fresh(barrier: Barrier, number: int, folder: Path) -> None:
    barrier.wait()
    toys.run_in(folder, fresh={"install"} if number % 2 else frozenset())


def test_a_fresh_build_does_not_disturb_those_who_read_the_old_one(memory_path: Path) -> None:
    for _ in range(3):
        assert together(4, run_fresh, memory_path) == [0, 0, 0, 0]
    toys.run_in(memory_path)
    assert toys.plan_in(memory_path).idle


def write_count_and_remove(barrier: Barrier, number: int, folder: Path) -> None:
    """Two write to the folders of their runs, two count all and remove the old ones: as runs do that end together."""
    barrier.wait()
    for turn in range(150):
        if number < 2:
            live = folder / f"live-{number}"
            (live / "evidence").mkdir(parents=True, exist_ok=True)
            (live / "evidence" / f".{turn}.tmp").write_bytes(b"half")
            (live / "evidence" / f".{turn}.tmp").rename(live / "evidence.json")
            (folder / f"old-{number}-{turn}" / "evidence").mkdir(parents=True)
        else:
            bytes_freed(folder)
            runs.bound(folder, spare={"live-0", "live-1"}, runs=4)


def test_folders_of_runs_are_counted_while_others_write_and_remove(memory_path: Path) -> None:
    assert together(4, write_count_and_remove, memory_path) == [0] * 4


def tell_secrets(barrier: Barrier, number: int, folder: Path) -> None:
    barrier.wait()
    store = Store(folder / "store")
    told = f"{store.key.hex()} {StoredSecrets(store, 'toy').root_password}"
    (folder / f"told-{number}").write_text(told)


def test_key_and_password_are_made_once(memory_path: Path) -> None:
    for attempt in range(3):
        folder = memory_path / str(attempt)
        folder.mkdir()
        assert together(6, tell_secrets, folder) == [0] * 6
        assert len({(folder / f"told-{number}").read_text() for number in range(6)}) == 1
        assert sorted(path.name for path in (folder / "store" / "secrets").iterdir()) == ["key", "toy.password"]


LIVES = 60


def live_and_look(folder: Path, number: int) -> None:
    store = Store(folder / "store")
    for turn in range(LIVES):
        run_id = f"{number}-{turn}"
        with runs.register(store, run_id):
            work = store.temporary(run_id, "stage")
            work.mkdir()
            for _ in range(20):
                (work / "file").write_bytes(b"still here")
            assert (work / "file").read_bytes() == b"still here"
            assert (store.marks / run_id).exists()
            remove(work)


def live_or_sweep(barrier: Barrier, number: int, folder: Path) -> None:
    barrier.wait()
    if number < 2:
        try:
            live_and_look(folder, number)
        finally:
            (folder / f"over-{number}").touch()
        return
    store = Store(folder / "store")
    while len(list(folder.glob("over-*"))) < 2:
        gc.sweep(store, folder / "runs", lambda run_id: (folder / f"cleaned-{run_id}").touch())


def test_no_sweep_takes_what_a_live_run_has(memory_path: Path) -> None:
    assert together(4, live_or_sweep, memory_path) == [0, 0, 0, 0]
    assert list(memory_path.glob("cleaned-*")) == []


def hash_many(barrier: Barrier, number: int, folder: Path) -> None:
    barrier.wait()
    store = Store(folder / "store")
    store.prepare()
    files = sorted((folder / "files").iterdir())
    told = "".join(f"{store.sha256_of(path)}\n" for path in files)
    (folder / f"told-{number}").write_text(told)


def test_the_digest_cache_bears_many_writers(memory_path: Path) -> None:
    (memory_path / "files").mkdir()
    for number in range(20):
        path = memory_path / "files" / str(number)
        path.write_text(str(number))
        old = path.stat().st_mtime_ns - 10 * STEP_NS
        os.utime(path, ns=(old, old))
    assert together(4, hash_many, memory_path) == [0] * 4
    assert len({(memory_path / f"told-{number}").read_text() for number in range(4)}) == 1


def collect(barrier: Barrier, number: int, folder: Path) -> None:
    barrier.wait()
    store = Store(toys.settings_in(folder).store)
    if number == 0:
        try:
            for _ in range(3):
                toys.run_in(folder, fresh={"kickstart"})
        finally:
            (folder / "over").touch()
    while not (folder / "over").exists():
        gc.gc(store, older_than=0)


def test_gc_takes_nothing_that_a_live_run_needs(memory_path: Path, fault_row: FaultRow) -> None:
    with fault_row("a run beside two gc", kind="mend", place=memory_path) as row:
        assert together(3, collect, memory_path) == [0, 0, 0]
        row.judged("nothing taken from it")


def test_two_that_build_one_digest_wait_for_each_other(memory_path: Path) -> None:
    """The second is told who builds, and finds the object when it gets the lock."""
    store = Store(memory_path / "store")
    step = toys.plan_in(memory_path).steps[0]
    barrier = processes.FORKS.Barrier(2)
    other = processes.start(wait_for_object, barrier, memory_path)
    try:
        with store.building(step, "first", {}, why_stale=lambda: ABSENT) as build:
            barrier.wait()
            (build.out / "file").write_bytes(b"whole")
            # The other one writes this when it begins to wait.
            wait_for(memory_path / "waited-for")
            build.finish(Ledger(), 0.0)
    finally:
        code = processes.status(other)
    assert code == 0
    assert (memory_path / "waited-for").read_text().startswith("run first (process ")
    assert (memory_path / "found").read_text() == "first"


def wait_for(path: Path) -> None:
    assert until(lambda: path.exists() or None, within=30, every=0.01)


def wait_for_object(barrier: Barrier, folder: Path) -> None:
    store = Store(folder / "store")
    step = toys.plan_in(folder).steps[0]

    def on_wait(holder: str) -> None:
        (folder / "waited-for.new").write_text(holder)
        (folder / "waited-for.new").rename(folder / "waited-for")

    barrier.wait()
    with store.building(step, "second", {}, on_wait=on_wait) as build:
        assert build.found is not None
        (folder / "found").write_text(build.found.run_id)


def replace_again_and_again(barrier: Barrier, number: int, folder: Path) -> None:
    store = Store(folder / "store")
    step = toys.plan_in(folder).steps[0]
    barrier.wait()
    if number == 0:
        try:
            for turn in range(300):
                with store.building(step, f"run-{turn}", {}, why_stale=lambda: ASKED) as build:
                    for name in range(5):
                        (build.out / str(name)).write_bytes(b"x" * turn)
                    build.finish(Ledger(), 0.0)
        finally:
            (folder / "over").touch()
        return
    while not (folder / "over").exists():
        said = store.why_stale(step.digest, {})
        assert said in (None, ABSENT), said


def test_an_object_that_is_replaced_never_looks_damaged(memory_path: Path) -> None:
    assert together(3, replace_again_and_again, memory_path) == [0, 0, 0]


def test_what_is_read_is_locked(memory_path: Path) -> None:
    """Nobody can replace an object while a stage reads it; others may read it, too."""
    store = Store(memory_path / "store")
    steps = toys.plan_in(memory_path).steps
    needs = {step.stage.name: step.digest for step in steps[:2]}
    with store.building(steps[2], "run", needs, why_stale=lambda: ABSENT):
        for digest in needs.values():
            assert locks.attempt(store.lock(digest)) is None
            handle = locks.attempt(store.lock(digest), shared=True)
            assert handle is not None
            os.close(handle)
