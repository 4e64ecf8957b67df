"""The commands that change the catalogue, as programs: their output, exit codes and leftovers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder import images
from builder.settings import Settings
from builder.stages import publish as stage
from tests.fakes.qcow2 import qcow2

pytestmark = pytest.mark.unit

Run = Callable[..., Any]


def publish(folder: Path, text: str, packages: list[str]) -> images.Image:
    source = folder / f"source-{text}"
    source.write_bytes(qcow2(text.encode() * 100))
    manifest = {
        "disk": {"virtual_size": 8 << 30},
        "stages": {"install": {"seconds": 60.0}},
        "verified": {"twins": {"twin-a": {"packages": packages, "boot_seconds": 20.0, "kernel": "3.10"}}},
    }
    return images.publish(folder / "artifacts" / "images", "toy", {"toy.qcow2": source}, manifest)


@pytest.fixture
def two(tmp_path: Path) -> tuple[images.Image, images.Image]:
    """An older and a newer version; versions of one second have no order, so the older one is a day older."""
    old = publish(tmp_path, "one", ["bash 1-1", "vim 7-1"])
    manifest = old.path / images.MANIFEST
    told = json.loads(manifest.read_bytes()) | {"created": "2026-01-01T00:00:00+00:00"}
    manifest.chmod(0o644)
    manifest.write_text(json.dumps(told))
    return old, publish(tmp_path, "two", ["bash 1-2", "vim 7-1", "zsh 5-1"])


def test_a_damaged_record_is_named_and_passed_over(builder: Run, two: tuple[images.Image, images.Image]) -> None:
    new = two[1]
    assert builder("images", "verify", "toy").returncode == 0
    record = new.path.parent / ".verified" / f"{new.version}.jsonl"
    with record.open("ab") as file:
        file.write(b'null\n{"name": "to')
    shown = builder("images", "show", "toy")
    assert shown.returncode == 0
    assert "verified" in shown.stdout
    assert [line.partition(", line ")[2] for line in shown.stderr.splitlines()] == [
        f"{number}, cannot be read and is passed over" for number in (2, 3)
    ]


def test_going_back_and_forth(builder: Run, two: tuple[images.Image, images.Image]) -> None:
    old, new = two
    done = builder("images", "rollback", "toy")
    assert done.stdout.splitlines() == [
        f"toy@{old.version} is the latest",
        f"toy@{new.version} is held until: builder images release toy@{new.version}",
    ]
    rows = [line.split() for line in builder("images", "list").stdout.splitlines()[1:]]
    assert [row[:3] for row in rows] == [["toy", new.version, "held"], ["toy", old.version, "*"]]
    assert builder("images", "rollback", "toy").returncode == 7
    assert builder("images", "release", "toy").stdout == f"toy@{new.version} is the latest\n"
    assert builder("images", "release", "toy").returncode == 7
    told = builder("images", "rollback", "toy", old.version[:6], "--json").document()
    assert (told["version"], told["latest"], told["held_version"]) == (old.version, True, new.version)
    assert builder("images", "rollback", "toy@1", "2").returncode == 2


def test_a_diff_for_people_and_programs(builder: Run, two: tuple[images.Image, images.Image]) -> None:
    old, new = two
    done = builder("images", "diff", f"toy@{old.version}", f"@{new.version}")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    for line in (
        "packages: 1 added, 0 removed, 1 updated",
        "  + zsh 5-1",
        "  bash 1-1 -> 1-2",
        "boot: 20 s",
        "packages: 2 -> 3",
        "stage install: 1 m 00 s",
        f"services: no record of them in {old.version}, {new.version}",
    ):
        assert line in lines
    told = builder("images", "diff", f"toy@{old.version}", "toy", "--json").document()
    assert told["packages"]["added"] == ["zsh 5-1"]
    assert told["numbers"]["packages"] == {"old": 2, "new": 3}


def test_a_damaged_version_is_told_and_exits_6(builder: Run, two: tuple[images.Image, images.Image]) -> None:
    _, new = two
    done = builder("images", "verify", "toy")
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, f"toy@{new.version}: good")
    new.disk.unlink()
    new.disk.write_text("tampered")
    done = builder("images", "verify", "toy")
    assert done.returncode == 6
    assert (
        f"  toy@{new.version}: toy.qcow2: 8 bytes, {new.manifest['files']['toy.qcow2']['size']} published"
        in done.stderr.splitlines()
    )
    assert builder("images", "verify", "toy", "--json").returncode == 6
    shown = builder("images", "show", "toy", "--json").document()
    assert [proof["good"] for proof in shown["proofs"]] == [True, False, False]
    assert builder("images", "verify").returncode == 6
    assert builder("images", "verify", "toi").returncode == 7


def test_pruning_says_what_goes_and_what_stays(
    builder: Run, tmp_path: Path, two: tuple[images.Image, images.Image]
) -> None:
    old, _ = two
    disk = tmp_path / "vms" / "web" / "disk.qcow2"
    disk.parent.mkdir(parents=True)
    disk.touch()
    with images.using(old):
        images.enter(old, images.User("1", "clone", "web", str(disk), "2026-01-01T00:00:00+00:00"))
    done = builder("images", "prune", "toy", "--keep", "1")
    assert (done.returncode, done.stdout.splitlines()[1:]) == (
        0,
        [f"toy   {old.version}  stays: used by web", "nothing to remove"],
    )
    disk.parent.rename(tmp_path / "elsewhere")
    dry = builder("images", "prune", "--keep", "1", "--dry-run").stdout.splitlines()
    assert dry[1:] == [f"toy   {old.version}  would be removed"]
    disk.parent.parent.rmdir()
    done = builder("images", "prune", "toy", "--keep", "1")
    assert done.returncode == 7
    assert "error: toy stays whole: whether web still uses" in done.stderr
    disk.parent.parent.mkdir()
    told = builder("images", "prune", "toy", "--keep", "1", "--json").document()
    assert told["removed"] == [{"name": "toy", "version": old.version}]
    assert builder("images", "prune", "toy@1").returncode == 2
    assert builder("images", "prune", "--keep", "0").returncode == 2
    assert builder("images", "prune", "nope").returncode == 7


def test_a_finished_publication_stands_while_it_is_the_latest_or_held(
    tmp_path: Path, two: tuple[images.Image, images.Image]
) -> None:
    old, new = two
    settings = Settings(artifacts=tmp_path / "artifacts", recipes=(), templates=())

    def stands(image: images.Image) -> str | None:
        record = {"name": image.name, "version": image.version}
        (tmp_path / stage.FILE).write_text(json.dumps(record))
        return stage.why_stale(tmp_path, settings)

    assert stands(new) is None
    assert stands(old) == f"toy@{old.version} is not the latest any more"
    images.roll_back(settings.images, old)
    assert (stands(new), stands(old)) == (None, None)
    images.release(settings.images, new)
    images.prune(settings.images, ["toy"], 1)
    assert stands(old) == f"toy@{old.version} is not in the catalogue any more"
