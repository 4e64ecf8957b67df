"""How many builds run at a time, on hosts of any size."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from builder import recipe
from builder.nightly.capacity import Room, room
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
        pytest.skip("one core bounds everything")
    return count


def with_memory(folder: Path, size: int) -> Path:
    path = folder / "meminfo"
    path.write_text(f"MemTotal:       999999999 kB\nMemAvailable:   {size >> 10} kB\n")
    return path


def test_cores_bound_what_nobody_asked_for(many: list[Recipe], cores: int, tmp_path: Path) -> None:
    assert room(many, None, tmp_path, with_memory(tmp_path, 1000 * GIB)) == Room(cores // 2, "cores")


def test_who_asks_may_share_processors_but_not_cores(many: list[Recipe], cores: int, tmp_path: Path) -> None:
    plenty = with_memory(tmp_path, 1000 * GIB)
    assert room(many, cores, tmp_path, plenty).jobs == cores
    assert room(many, 1, tmp_path, plenty) == Room(1, "--jobs")
    assert room(many, 99, tmp_path, plenty) == Room(cores, "cores")


def test_memory_holds_both_copies_of_each_build(many: list[Recipe], cores: int, tmp_path: Path) -> None:
    # 2.5 GiB a build: two copies of 1 GiB, and what builder and QEMU need beside them.
    assert room(many, 2, tmp_path, with_memory(tmp_path, 5 * GIB)).jobs == 2
    assert room(many, 2, tmp_path, with_memory(tmp_path, 5 * GIB - 1024)) == Room(1, "memory")
    # One is always tried: it says itself what is missing.
    assert room(many, 2, tmp_path, with_memory(tmp_path, 0)) == Room(1, "memory")


def test_a_full_disk_bounds(many: list[Recipe], cores: int, tmp_path: Path) -> None:
    large = many[0].model_copy(
        update={"disk": many[0].disk.model_copy(update={"size": shutil.disk_usage(tmp_path).total})}
    )
    assert room([large] * 9, 2, tmp_path, with_memory(tmp_path, 1000 * GIB)) == Room(1, "disk")


def test_no_more_than_there_is_to_do(many: list[Recipe], cores: int, tmp_path: Path) -> None:
    assert room(many[:1], 2, tmp_path / "not" / "there", with_memory(tmp_path, 1000 * GIB)) == Room(1, "builds")
