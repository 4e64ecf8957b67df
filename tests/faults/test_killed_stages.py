"""SIGKILL in the middle of the real stages that write much: nothing half-made is used, and the next run succeeds."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest

from builder.pipeline.execute import Context, execute
from builder.pipeline.plan import plan
from builder.settings import BuildOptions, MediumSource, Settings
from builder.store.store import Store
from tests.fakes import vendor
from tests.fault_table import FaultRow
from tests.faults.conftest import SectorSecrets
from tests.faults.test_store import RealOrder, real_stages
from tests.pipeline import processes
from tests.pipeline.test_killed import assert_nothing_is_left, assert_objects_are_whole, count_kills
from tests.pipeline.toys import Watcher

# Every so many changes of a file: each kill costs a whole run.
EVERY = 23


def run_real(folder: Path, iso: Path) -> None:
    """Fetch, remaster, write a disk and seal it."""
    settings = Settings(folder / "artifacts", (), ())
    store = Store(settings.store)
    given = plan(real_stages(iso), RealOrder(), store, settings)
    execute(given, Context(store, settings, BuildOptions(MediumSource(iso)), SectorSecrets()), Watcher())


@pytest.mark.slow
def test_killed_in_the_real_stages(tmp_path: Path, fault_row: FaultRow) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    vendor.tree(tree, vendor.Shape())
    iso = vendor.press(tree, tmp_path / "vendor.iso", vendor.Shape())
    before = hashlib.sha256(iso.read_bytes()).hexdigest()

    def place(change: int) -> tuple[Path, Path]:
        (tmp_path / str(change)).mkdir()
        return tmp_path / str(change), iso

    kills, began = 0, time.time()
    for change in processes.killed_before_each_change(run_real, place, every=EVERY):
        folder = tmp_path / str(change)
        store = Store(folder / "artifacts" / ".store")
        assert_objects_are_whole(store)
        run_real(folder, iso)
        assert_objects_are_whole(store)
        assert_nothing_is_left(Settings(folder / "artifacts", (), ()))
        kills += 1
    assert kills > 3
    assert hashlib.sha256(iso.read_bytes()).hexdigest() == before
    count_kills(fault_row, "fetch, medium and seal", kills, began)
