"""Runs do what was planned; failures leave evidence and nothing else."""

from __future__ import annotations

import json
import os
import signal
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder import images
from builder.errors import FREE_SPACE, HostError, InstallError, PublishError
from builder.settings import Settings
from builder.stage import Inputs, Job, Ledger, Step
from builder.store import gc, runs
from builder.store.durations import Durations
from builder.store.objects import recorded
from builder.store.store import Store
from builder.system.retry import until
from tests.fault_table import FaultRow, Row
from tests.pipeline import processes, toys
from tests.pipeline.toys import STAGES, ToyOrder, Watcher, diary, plan_in, run_in, told, up_to

NAMES = [stage.name for stage in STAGES]


def store_of(folder: Path) -> Store:
    return Store(toys.settings_in(folder).store)


def stages_in(store: Store) -> set[str]:
    return {recorded(path).stage for path in store.objects.iterdir()}


def fail(folder: Path, name: str) -> Path:
    """From now on the stage of this name fails, until the file is removed."""
    path = folder / "artifacts" / f"fail-{name}"
    path.parent.mkdir(exist_ok=True)
    path.touch()
    return path


def test_a_run_does_every_stage_once_and_publishes(memory_path: Path) -> None:
    watcher = Watcher()
    outcome = run_in(memory_path, watcher=watcher)
    assert outcome.built == tuple(NAMES)
    assert diary(memory_path) == NAMES
    assert [what for what, _ in watcher.events] == ["planned", *["started", "ended"] * 6]
    image = images.load_image(toys.settings_in(memory_path).images, "toy")
    assert image.disk.read_bytes() == (plan_object(memory_path, "seal") / "disk.qcow2").read_bytes()
    assert outcome.object == plan_object(memory_path, "publish")


def test_a_run_remembers_what_each_stage_took(memory_path: Path) -> None:
    run_in(memory_path)
    fail(memory_path, "verify")
    with pytest.raises(InstallError):
        run_in(memory_path, ToyOrder(vars={"hostname": "two"}))
    history = Durations(store_of(memory_path).root, "toy")
    assert set(history.expected("tcg")) == set(NAMES)


def test_what_a_late_stage_misses_is_said_before_the_first_one_starts(memory_path: Path) -> None:
    def preflight(_inputs: Inputs, _settings: Settings) -> None:
        raise HostError("no qemu-img")

    stages = tuple(replace(one, preflight=preflight) if one.name == "install" else one for one in toys.STAGES)
    watcher = Watcher()
    with pytest.raises(HostError, match="no qemu-img"):
        run_in(memory_path, watcher=watcher, stages=stages)
    assert diary(memory_path) == []
    assert [what for what, _ in watcher.events] == ["planned"]
    run_in(memory_path)
    # Nobody asks for what is there already.
    run_in(memory_path, stages=stages)


def plan_object(folder: Path, name: str) -> Path:
    return next(store_of(folder).path(step.digest) for step in plan_in(folder).steps if step.stage.name == name)


def test_a_second_run_does_nothing(memory_path: Path) -> None:
    run_in(memory_path)
    outcome = run_in(memory_path)
    assert outcome.built == ()
    assert outcome.plan.idle
    assert diary(memory_path) == NAMES
    record = runs.load_run(toys.settings_in(memory_path).runs, outcome.run_id)
    assert [step.action for step in record.steps] == ["not needed"] * 5 + ["reuse"]


def test_a_change_runs_what_it_touches(memory_path: Path) -> None:
    run_in(memory_path)
    outcome = run_in(memory_path, ToyOrder(vars={"hostname": "two"}))
    assert outcome.built == ("kickstart", "install", "seal", "verify", "publish")
    assert len(images.list_images(toys.settings_in(memory_path).images)) == 2


def test_intermediates_go_when_the_seal_stands(memory_path: Path) -> None:
    run_in(memory_path)
    assert stages_in(store_of(memory_path)) == {"fetch", "seal", "verify", "publish"}


def test_intermediates_stay_when_asked_for_or_when_they_are_the_end(memory_path: Path) -> None:
    run_in(memory_path, stages=up_to("install"))
    assert stages_in(store_of(memory_path)) == {"fetch", "kickstart", "install"}
    run_in(memory_path, keep_intermediates=True)
    assert stages_in(store_of(memory_path)) == set(NAMES)
    assert diary(memory_path) == NAMES
    run_in(memory_path)
    assert stages_in(store_of(memory_path)) == {"fetch", "seal", "verify", "publish"}


def test_fresh_that_gives_the_same_bytes_ends_there(memory_path: Path) -> None:
    run_in(memory_path)
    outcome = run_in(memory_path, fresh={"fetch"})
    assert outcome.built == ("fetch",)
    assert plan_in(memory_path).idle


def test_fresh_that_gives_other_bytes_goes_on_to_the_end(memory_path: Path) -> None:
    run_in(memory_path)
    before = images.load_image(toys.settings_in(memory_path).images, "toy")
    outcome = run_in(memory_path, fresh={"kickstart"})
    assert outcome.built == ("kickstart", "install", "seal", "verify", "publish")
    after = images.load_image(toys.settings_in(memory_path).images, "toy")
    assert after.version != before.version
    assert plan_in(memory_path).idle


def test_a_fresh_build_that_fails_leaves_the_old_object(memory_path: Path) -> None:
    run_in(memory_path)
    stop = fail(memory_path, "seal")
    with pytest.raises(InstallError):
        run_in(memory_path, fresh={"seal"})
    stop.unlink()
    assert images.load_image(toys.settings_in(memory_path).images, "toy").latest
    assert plan_in(memory_path, stages=up_to("verify")).idle


def test_a_seal_from_an_older_install_is_not_taken_for_the_new_one(memory_path: Path) -> None:
    """Who wants a new seal gets one from the install that is there; the published image stands as it is."""
    run_in(memory_path)
    run_in(memory_path, fresh={"install"}, stages=up_to("install"))
    assert told(plan_in(memory_path))["publish"] == "reuse: finished object found"
    said = told(plan_in(memory_path, stages=up_to("seal")))
    assert said["seal"] == "run: install was built anew"


def test_a_damaged_object_is_replaced(memory_path: Path) -> None:
    run_in(memory_path, stages=up_to("fetch"))
    file = plan_object(memory_path, "fetch") / "medium.iso"
    file.chmod(0o644)
    os.truncate(file, 7)
    assert run_in(memory_path, stages=up_to("fetch")).built == ("fetch",)
    assert (plan_object(memory_path, "fetch") / "medium.iso").stat().st_size > 7
    assert list(store_of(memory_path).tmp.iterdir()) == []


class Damaging(Watcher):
    """Truncates the medium when another stage has ended; the plan has it as done by then."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def ended(self, step: Step, seconds: float, ledger: Ledger) -> None:
        super().ended(step, seconds, ledger)
        file = plan_object(self.folder, "fetch") / "medium.iso"
        if step.stage.name == "kickstart":
            file.chmod(0o644)
            os.truncate(file, 7)


def test_what_was_damaged_since_the_plan_was_made_is_built_again_before_it_is_read(memory_path: Path) -> None:
    outcome = run_in(memory_path, watcher=Damaging(memory_path))
    assert outcome.built == ("fetch", "kickstart", "fetch", "install", "seal", "verify", "publish")
    run_in(memory_path, ToyOrder(vars={"hostname": "two"}), watcher=Damaging(memory_path))
    assert diary(memory_path)[-6:] == ["kickstart", "fetch", "install", "seal", "verify", "publish"]


def test_a_failure_keeps_evidence_and_nothing_else(memory_path: Path) -> None:
    fail(memory_path, "install")
    watcher = Watcher()
    with pytest.raises(InstallError):
        run_in(memory_path, watcher=watcher)
    settings = toys.settings_in(memory_path)
    record = runs.list_runs(settings.runs)[0]
    assert record.outcome == "failed"
    assert [(step.stage, step.action) for step in record.steps] == [
        ("fetch", "run"),
        ("kickstart", "run"),
        ("install", "failed"),
    ]
    folder = settings.runs / record.id
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (folder / "console.log").read_text() == "Pane is dead\n"
    verdict = json.loads((folder / "verdict.json").read_bytes())
    assert verdict == record.verdict
    assert verdict["brief"] == "install failed"
    assert (verdict["kind"], verdict["exit_code"], verdict["stage"]) == ("install", 5, "install")
    assert watcher.events[-1] == ("failed", "install: install failed")
    assert list(store_of(memory_path).tmp.iterdir()) == []
    assert stages_in(store_of(memory_path)) == {"fetch", "kickstart"}


def test_the_next_run_goes_on_after_a_failure(memory_path: Path) -> None:
    stop = fail(memory_path, "install")
    with pytest.raises(InstallError):
        run_in(memory_path)
    stop.unlink()
    assert run_in(memory_path).built == ("install", "seal", "verify", "publish")


def test_keep_failed_keeps_the_directories_and_says_where(memory_path: Path) -> None:
    fail(memory_path, "install")
    watcher = Watcher()
    with pytest.raises(InstallError):
        run_in(memory_path, watcher=watcher, keep_failed=True)
    store = store_of(memory_path)
    (note,) = [note for note in watcher.notes if note.startswith("kept for inspection: ")]
    kept = [path for path in store.tmp.iterdir() if path.is_dir()]
    assert len(kept) == 2
    assert all(str(path) in note for path in kept)
    with pytest.raises(InstallError):
        run_in(memory_path)
    assert [path for path in store.tmp.iterdir() if path.is_dir()] == kept
    gc.gc(store, older_than=-1)
    assert list(store.tmp.iterdir()) == []


def test_files_are_read_only_and_objects_cannot_be_listed(memory_path: Path) -> None:
    umask = os.umask(0o077)
    try:
        run_in(memory_path, keep_intermediates=True)
    finally:
        os.umask(umask)
    store = store_of(memory_path)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in store.objects.rglob("*") if path.is_file()}
    assert modes["ks.cfg"] == 0o400
    assert modes["disk.qcow2"] == 0o444
    assert stat.S_IMODE(store.objects.stat().st_mode) == 0o711
    assert {stat.S_IMODE(path.stat().st_mode) for path in store.objects.iterdir()} == {0o711}


def test_a_full_disk_is_an_error_for_people(memory_path: Path) -> None:
    def full(_job: Job[Any]) -> None:
        with Path("/dev/full").open("wb", buffering=0) as file:
            file.write(b"1")

    stages = (replace(STAGES[0], run=full),)
    with pytest.raises(HostError) as caught:
        run_in(memory_path, stages=stages)
    assert caught.value.brief.startswith("No space left on device")
    assert caught.value.hint == FREE_SPACE


def test_what_is_no_regular_file_is_refused(memory_path: Path) -> None:
    def link(job: Job[Any]) -> None:
        (job.out / "link").symlink_to("/etc/passwd")

    stages = (replace(STAGES[0], run=link),)
    with pytest.raises(PublishError, match="no regular file"):
        run_in(memory_path, stages=stages)
    assert list(store_of(memory_path).objects.iterdir()) == []


def test_a_stage_that_never_stands_ends_the_run(memory_path: Path) -> None:
    stages = (replace(STAGES[0], why_stale=lambda _path, _settings: "it is never good enough"),)
    with pytest.raises(PublishError) as caught:
        run_in(memory_path, stages=stages)
    assert caught.value.brief == "fetch was built, but cannot be used: it is never good enough"


def test_a_bug_is_recorded_as_one(memory_path: Path) -> None:
    def broken(_job: Job[Any]) -> None:
        raise ZeroDivisionError("by zero")

    with pytest.raises(ZeroDivisionError):
        run_in(memory_path, stages=(replace(STAGES[0], run=broken),))
    verdict = runs.list_runs(toys.settings_in(memory_path).runs)[0].verdict
    assert verdict is not None
    assert verdict["kind"] == "bug"
    assert "ZeroDivisionError" in verdict["details"]


def _hang(job: Job[Any]) -> None:
    (job.out / "half").write_bytes(b"half")
    (job.paths.artifacts / "hanging").touch()
    signal.pause()


def run_and_hang(folder: Path) -> None:
    from builder.errors import Interrupted
    from builder.system.signals import one_interrupt

    try:
        with one_interrupt():
            run_in(folder, stages=(replace(STAGES[0], run=_hang),))
    except Interrupted as fault:
        raise SystemExit(fault.exit_code) from None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_undoes_everything(memory_path: Path, number: signal.Signals, fault_row: FaultRow) -> None:
    with fault_row(f"{number.name} in a stage", place=memory_path) as row:
        _interrupted(memory_path, number, row)


def _interrupted(memory_path: Path, number: signal.Signals, row: Row) -> None:
    process = processes.start(run_and_hang, memory_path)
    assert until(lambda: (memory_path / "artifacts" / "hanging").exists() or None, within=30, every=0.01)
    assert process.pid is not None
    row.now()
    os.kill(process.pid, number)
    assert processes.status(process) == 130
    row.judged(f"interrupted by {number.name}")
    store = store_of(memory_path)
    assert list(store.tmp.iterdir()) == []
    assert list(store.objects.iterdir()) == []
    assert list(store.marks.iterdir()) == []
    record = runs.list_runs(toys.settings_in(memory_path).runs)[0]
    assert record.outcome == "interrupted"
    assert record.verdict is not None
    assert record.verdict["brief"] == f"interrupted by {number.name}"


def test_a_killed_run_is_swept_and_its_machines_too(memory_path: Path) -> None:
    process = processes.start(run_and_hang, memory_path)
    assert until(lambda: (memory_path / "artifacts" / "hanging").exists() or None, within=30, every=0.01)
    settings, store = toys.settings_in(memory_path), store_of(memory_path)
    (run_id,) = runs.live(store)
    assert gc.sweep(store, settings.runs, pytest.fail).runs == ()
    process.kill()
    assert processes.status(process) == -signal.SIGKILL
    assert list(store.tmp.iterdir()) != []

    def stuck(_run_id: str) -> None:
        raise HostError("libvirt does not answer")

    assert gc.sweep(store, settings.runs, stuck).stuck == {run_id: "libvirt does not answer"}
    assert list(store.tmp.iterdir()) != []
    cleaned: list[str] = []
    assert gc.sweep(store, settings.runs, cleaned.append).runs == (run_id,)
    assert cleaned == [run_id]
    assert list(store.tmp.iterdir()) == []
    assert runs.load_run(settings.runs, run_id).outcome == "killed"


def test_gc_spares_what_is_kept_or_was_used_lately(memory_path: Path) -> None:
    run_in(memory_path)
    store = store_of(memory_path)
    sealed = plan_object(memory_path, "seal")
    assert gc.gc(store, older_than=3600) == 0
    assert stages_in(store) == {"fetch", "seal", "verify", "publish"}
    with runs.register(store, "alive", [sealed.name]):
        freed = gc.gc(store, older_than=-1)
    assert freed > 0
    assert stages_in(store) == {"seal"}
    assert {path.name for path in store.locks.iterdir()} == {"gate", sealed.name}
    assert store.recall("toy", "seal") is not None
    assert store.recall("toy", "fetch") is None


def test_gc_and_drop_spare_what_a_live_run_needs(memory_path: Path) -> None:
    run_in(memory_path)
    store = store_of(memory_path)
    sealed = plan_object(memory_path, "seal")
    with runs.register(store, "waiting", [sealed.name]):
        gc.gc(store, older_than=-1)
        assert gc.drop(store, sealed.name) == 0
        assert stages_in(store) == {"seal"}
        runs.release(store, "waiting", sealed.name)
        gc.drop(store, sealed.name)
    assert list(store.objects.iterdir()) == []


def test_gc_takes_torn_files_but_none_that_may_still_be_written(memory_path: Path) -> None:
    run_in(memory_path)
    store = store_of(memory_path)
    young, torn = store.index / "toy" / ".seal.json.young.tmp", store.secrets / ".key.torn.tmp"
    young.touch()
    torn.touch()
    os.utime(torn, (0, 0))
    gc.gc(store, older_than=-1)
    assert young.exists()
    assert not torn.exists()
