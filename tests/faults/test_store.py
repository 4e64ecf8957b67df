"""The store and the catalogue under a full disk, corruption, stale locks and crowds: the last good image stays."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder import images
from builder.errors import BuilderError
from builder.pipeline.execute import Context, execute
from builder.pipeline.plan import plan
from builder.settings import BuildOptions, MediumSource, Settings
from builder.stage import Inputs, Job, Stage, Step
from builder.stages import fetch, install, kickstart, remaster, seal
from builder.stages.fetch import FetchInputs
from builder.stages.remaster import RemasterInputs
from builder.stages.seal import SealInputs
from builder.store import runs
from builder.store.store import Store
from tests.fakes import vendor
from tests.fault_table import FaultRow
from tests.faults.conftest import SectorSecrets
from tests.pipeline import toys
from tests.pipeline.processes import start, status
from tests.pipeline.test_killed import assert_catalogue_is_whole, assert_nothing_is_left, assert_objects_are_whole
from tests.pipeline.test_races import run_one, together
from tests.pipeline.toys import Watcher, plan_in, run_in, told, up_to

MIB = 1 << 20
ROOT = Path(__file__).parents[2]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of so many bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


class Filling(Watcher):
    """Fills the file system to the last byte when a certain stage begins."""

    def __init__(self, folder: Path, stage: str) -> None:
        super().__init__()
        self.filler, self.stage = folder / "filler", stage

    def started(self, step: Step) -> None:
        if step.stage.name == self.stage:
            with self.filler.open("wb", buffering=0) as file:
                for size in (MIB, 4096):
                    try:
                        while file.write(b"x" * size) == size:
                            pass
                    except OSError:
                        continue


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def latest(folder: Path) -> images.Image:
    return images.load_image(toys.settings_in(folder).images, "toy")


def seal_of(folder: Path) -> Path:
    """The finished directory of the seal stage."""
    store = Store(toys.settings_in(folder).store)
    return next(store.path(step.digest) for step in plan_in(folder).steps if step.stage.name == "seal")


@needs_root
@pytest.mark.parametrize("stage", [stage.name for stage in toys.STAGES])
def test_full_disk_in_every_stage(stage: str, tmp_path: Path, fault_row: FaultRow) -> None:
    with fault_row(f"the disk is full when {stage} writes", place=tmp_path) as row, small_disk(tmp_path / "a", 4 * MIB):
        folder = tmp_path / "a"
        run_in(folder)
        good = latest(folder)
        before = sha256(good.disk)
        watcher = Filling(folder, stage)
        row.now()
        with pytest.raises(BuilderError) as caught:
            run_in(folder, toys.ToyOrder(vars={"hostname": "two"}), fresh={stage}, watcher=watcher)
        row.judged(caught.value.diagnosis.cause)
        assert row.verdict == "disk full"
        assert sha256(latest(folder).disk) == before
        assert latest(folder).version == good.version
        watcher.filler.unlink()
        run_in(folder, toys.ToyOrder(vars={"hostname": "two"}), fresh={stage})
        assert_objects_are_whole(Store(toys.settings_in(folder).store))
        assert_catalogue_is_whole(toys.settings_in(folder).images)


class RealOrder:
    """What the stages that write much are made from."""

    name = "real"


def _kickstart(job: Job[Any]) -> None:
    text = "cdrom\nclearpart --all\nreqpart\npart / --size=2048 --grow\npoweroff\n"
    (job.out / kickstart.FILE).write_text(text)


def _install(job: Job[Any]) -> None:
    (job.out / install.FILE).write_bytes(os.urandom(4 * MIB))


def real_stages(iso: Path) -> tuple[Stage[Any], ...]:
    """The real fetch, remaster and seal, around an install that only writes random bytes."""
    given = RemasterInputs(delivery="remaster", memory=2 << 30, disk_size=8 << 30, firmware="bios")
    got = FetchInputs(sha256=sha256(iso), rehearsal=None)
    return (
        replace(fetch.STAGE, inputs=lambda _: got),
        Stage("kickstart", 1, (), lambda _: Inputs(), _kickstart, "kickstart"),
        replace(remaster.STAGE, needs=("fetch", "kickstart"), inputs=lambda _: given),
        Stage("install", 1, ("remaster",), lambda _: Inputs(), _install, "install"),
        replace(seal.STAGE, inputs=lambda _: SealInputs(compression="zstd")),
    )


@needs_root
@pytest.mark.parametrize("stage", ["fetch", "remaster", "install", "seal"])
def test_full_disk_under_real_programs(stage: str, tmp_path: Path, fault_row: FaultRow) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    vendor.tree(tree, vendor.Shape())
    iso = vendor.press(tree, tmp_path / "vendor.iso", vendor.Shape())
    small = tmp_path / "small"
    with fault_row(f"the disk is full in the real {stage}", place=tmp_path) as row, small_disk(small, 48 * MIB):
        settings = Settings(small / "artifacts", (), ())
        store = Store(settings.store)
        context = Context(store, settings, BuildOptions(MediumSource(iso)), SectorSecrets())

        def go(watcher: Watcher) -> Any:
            given = plan(real_stages(iso), RealOrder(), store, settings)
            return execute(given, context, watcher)

        watcher = Filling(small, stage)
        with pytest.raises(BuilderError) as caught:
            go(watcher)
        row.judged(caught.value.diagnosis.cause)
        assert row.verdict == "disk full"
        watcher.filler.unlink()
        go(Watcher())
        assert_objects_are_whole(store)


@pytest.mark.parametrize("how", ["truncated", "changed", "without its record"])
def test_damaged_object(how: str, memory_path: Path, fault_row: FaultRow) -> None:
    with fault_row(f"a finished object is {how}", kind="mend", place=memory_path) as row:
        run_in(memory_path, stages=up_to("seal"))
        file = seal_of(memory_path) / "disk.qcow2"
        file.chmod(0o644)
        if how == "truncated":
            os.truncate(file, 7)
        elif how == "changed":
            file.write_bytes(file.read_bytes()[::-1])
        else:
            (seal_of(memory_path) / "stage.json").unlink()
        row.now()
        said = told(plan_in(memory_path))["seal"]
        row.judged("named, rebuilt")
        assert said.startswith("run: finished object damaged: ")
        assert {"truncated": "has 7 bytes", "changed": "was written to"}.get(how, "stage.json") in said
        assert "seal" in run_in(memory_path).built
        assert_objects_are_whole(Store(toys.settings_in(memory_path).store))
        assert_catalogue_is_whole(toys.settings_in(memory_path).images)


def flip(file: Path) -> None:
    """One bit, as a dying disk does it: size and time stamps stay."""
    facts = file.stat()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)
    file.chmod(0o444)
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def test_bit_flip_before_publish(memory_path: Path, fault_row: FaultRow) -> None:
    with fault_row("a bit flips in the sealed disk before publish", place=memory_path) as row:
        run_in(memory_path, stages=up_to("verify"))
        flip(seal_of(memory_path) / "disk.qcow2")
        assert told(plan_in(memory_path))["seal"].startswith("reuse")
        watcher = Watcher()
        row.now()
        with pytest.raises(BuilderError) as caught:
            run_in(memory_path, watcher=watcher)
        row.judged(caught.value.diagnosis.cause)
        assert row.verdict == "corrupt"
        assert "seal: disk.qcow2 is corrupt; the next run builds it anew" in watcher.notes
        assert images.list_images(toys.settings_in(memory_path).images) == []
        assert "seal" in run_in(memory_path).built
        assert_catalogue_is_whole(toys.settings_in(memory_path).images)


def test_bit_flip_in_a_published_image(memory_path: Path, fault_row: FaultRow) -> None:
    """It shares its bytes with the sealed object: asked to publish again, builder sees it, and builds another one."""
    with fault_row("a bit flips in the published image", place=memory_path) as row:
        run_in(memory_path)
        bad = latest(memory_path)
        flip(bad.disk)
        row.now()
        with pytest.raises(BuilderError) as caught:
            run_in(memory_path, fresh={"publish"})
        row.judged(caught.value.diagnosis.cause)
        assert row.verdict == "corrupt"
        run_in(memory_path, fresh={"publish"})
        assert sha256(latest(memory_path).disk) == latest(memory_path).sha256
        assert latest(memory_path).version != bad.version


@needs_root
def test_read_only_store(tmp_path: Path, fault_row: FaultRow) -> None:
    with fault_row("the store is read-only", place=tmp_path) as row, small_disk(tmp_path / "a", 4 * MIB) as folder:
        run_in(folder)
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        assert plan_in(folder).idle
        row.now()
        with pytest.raises(BuilderError) as caught:
            run_in(folder, fresh={"seal"})
        row.judged(caught.value.diagnosis.cause or "")
        assert row.verdict == "read-only"
        subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
        run_in(folder, fresh={"seal"})


@needs_root
def test_the_command_on_a_read_only_disk(tmp_path: Path, fault_row: FaultRow) -> None:
    """`plan` needs to write nothing; `run` says what it lacks, and is no crash."""
    with fault_row("builder run on a read-only disk", place=tmp_path) as row, small_disk(tmp_path / "a", MIB) as folder:
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        words = [sys.executable, "-m", "builder", "--artifacts", str(folder / "artifacts")]
        asked = [*words, "plan", "centos7-minimal", "--media", "rehearsal"]
        planned = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (planned.returncode, planned.stderr) == (0, "")
        assert planned.stdout.count("first run") == 7
        row.now()
        asked = [*words, "run", "centos7-minimal", "--media", "rehearsal", "--json"]
        failed = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
        error = json.loads(failed.stdout)["error"]
        row.judged(error["cause"])
        assert (failed.returncode, error["cause"], error["transient"]) == (3, "read-only", False)


def test_ten_runs_at_once(memory_path: Path, fault_row: FaultRow) -> None:
    with fault_row("ten runs of one order at once", kind="mend", place=memory_path) as row:
        row.now()
        assert together(10, run_one, memory_path) == [0] * 10
        row.judged("each stage built once")
        assert sorted(toys.diary(memory_path)) == sorted(stage.name for stage in toys.STAGES)
        assert {record.outcome for record in runs.list_runs(toys.settings_in(memory_path).runs)} == {"done"}


YEAR = 365 * 86400


@pytest.mark.parametrize(("ahead", "was"), [(YEAR, "ahead, and is set back"), (-YEAR, "behind, and is put right")])
def test_a_clock_that_jumps(ahead: int, was: str, memory_path: Path, fault_row: FaultRow) -> None:
    """Everything was made a year from now, or a year ago: objects, records, the remains of a killed run."""
    with fault_row(f"the clock was a year {was}", kind="mend", place=memory_path) as row:
        run_in(memory_path)
        assert status(start(die_in_a_stage, memory_path)) == -signal.SIGKILL
        settings = toys.settings_in(memory_path)
        store = Store(settings.store)
        for path in [*store.objects.iterdir(), *store.tmp.iterdir(), *store.marks.iterdir(), *settings.runs.iterdir()]:
            facts = path.stat()
            os.utime(path, (facts.st_atime + ahead, facts.st_mtime + ahead))
        row.now()
        assert plan_in(memory_path).idle
        assert run_in(memory_path, toys.ToyOrder(vars={"hostname": "two"})).built[-1] == "publish"
        row.judged("nothing rebuilt, nothing lost")
        assert latest(memory_path).latest
        assert_nothing_is_left(settings)


def die_in_a_stage(folder: Path) -> None:
    """A run that is killed half-way."""

    def die(job: Job[Any]) -> None:
        (job.out / "half").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    run_in(folder, stages=(replace(toys.STAGES[0], run=die),), fresh={"fetch"})
