"""The number of builds that run at a time, on hosts of any size."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from builder import recipe
from builder.nightly.capacity import Capacity, host_capacity
from builder.recipe import Recipe

GIB = 1 << 30


@pytest.fixture
def many() -> list[Recipe]:
    """A hundred recipes of 2 processors, 1 GiB of memory and a disk of 1 GiB."""
    sets = {"machine.vcpus": "2", "machine.memory": "1GiB", "disk.size": "1GiB"}
    return [recipe.load("centos7-minimal", sets, (Path(__file__).parents[2] / "pipelines",))] * 100


@pytest.fixture
def cores() -> int:
    count = len(os.sched_getaffinity(0))
    if count < 2:
        pytest.skip("one core limits everything")
    return count


def with_memory(folder: Path, size: int) -> Path:
    path = folder / "meminfo"
    path.write_text(f"MemTotal:       999999999 kB\nMemAvailable:   {size >> 10} kB\n")
    return path


def test_cores_limit_the_number_without_jobs(many: list[Recipe], cores: int, tmp_path: Path) -> None:
    assert host_capacity(many, None, tmp_path, with_memory(tmp_path, 1000 * GIB)) == Capacity(cores // 2, "cores")


def test_jobs_may_share_processors_but_not_cores(many: list[Recipe], cores: int, tmp_path: Path) -> None:
    plenty = with_memory(tmp_path, 1000 * GIB)
    assert host_capacity(many, cores, tmp_path, plenty).jobs == cores
    assert host_capacity(many, 1, tmp_path, plenty) == Capacity(1, "--jobs")
    assert host_capacity(many, 99, tmp_path, plenty) == Capacity(cores, "cores")


def test_memory_holds_both_copies_of_each_build(many: list[Recipe], cores: int, tmp_path: Path) -> None:
    # 2.5 GiB a build: two copies of 1 GiB, and what builder and QEMU need beside them.
    assert host_capacity(many, 2, tmp_path, with_memory(tmp_path, 5 * GIB)).jobs == 2
    assert host_capacity(many, 2, tmp_path, with_memory(tmp_path, 5 * GIB - 1024)) == Capacity(1, "memory")
    # One always runs: it reports itself what is missing.
    assert host_capacity(many, 2, tmp_path, with_memory(tmp_path, 0)) == Capacity(1, "memory")


def test_a_full_disk_limits_the_number(many: list[Recipe], cores: int, tmp_path: Path) -> None:
    large = many[0].model_copy(
        update={"disk": many[0].disk.model_copy(update={"size": shutil.disk_usage(tmp_path).total})}
    )
    assert host_capacity([large] * 9, 2, tmp_path, with_memory(tmp_path, 1000 * GIB)) == Capacity(1, "disk")


def test_no_more_than_there_is_to_do(many: list[Recipe], cores: int, tmp_path: Path) -> None:
    assert host_capacity(many[:1], 2, tmp_path / "not" / "there", with_memory(tmp_path, 1000 * GIB)) == Capacity(
        1, "builds"
    )
