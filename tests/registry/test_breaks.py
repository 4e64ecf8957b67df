"""Broken connections and killed processes: what arrived stays, and nothing half-made is ever visible."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from builder import images
from builder.errors import FREE_SPACE, PublishError
from builder.registry import artifact, staging
from tests.command import Ran
from tests.faults.test_store import small_disk
from tests.pipeline import processes
from tests.registry.conftest import SIZE, Make, Registry, Wire, pulled, pushed

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")


def test_a_push_that_broke_goes_on_where_it_was(make: Make, registry: Registry, wire: Wire, small_pieces: int) -> None:
    image = make()
    wire.break_after = SIZE // 2
    with pytest.raises(PublishError, match="fails again and again") as caught:
        pushed(image, wire.address())
    assert caught.value.exit_code == 7
    assert registry.get(f"manifests/{image.version}").status_code == 404
    there = registry.blobs()
    assert SIZE // 2 - 2 * small_pieces <= there <= SIZE // 2
    wire.break_after, wire.moved = None, 0
    done = pushed(image, wire.address())
    assert done.sent < SIZE - there + (100 << 10)
    assert registry.get("manifests/latest").status_code == 200


def test_a_push_outlives_a_hiccup(make: Make, registry: Registry, wire: Wire, small_pieces: int) -> None:
    broken: list[str] = []

    def hiccup(handler: Any, method: str, path: str) -> bool:
        if method == "PUT" and "/blobs/" in path and len(broken) < 3:
            broken.append(path)
            return True
        return False

    wire.act = hiccup
    image = make()
    pushed(image, wire.address())
    assert len(broken) == 3
    assert registry.get(f"manifests/{image.version}").status_code == 200


@pytest.mark.parametrize("part", [0.3, 0.9])
def test_a_pull_that_broke_goes_on_in_mid_piece(
    make: Make, registry: Registry, wire: Wire, tmp_path: Path, part: float
) -> None:
    image = make()
    pushed(image, registry.address())
    wire.break_after = int(SIZE * part)
    catalogue = tmp_path / "other"
    with pytest.raises(PublishError, match="fails again and again"):
        pulled(catalogue, wire.address())
    assert images.list_images(catalogue) == []
    wire.break_after, wire.moved = None, 0
    assert pulled(catalogue, wire.address()).image.version == image.version
    assert wire.moved < SIZE * (1 - part) + (200 << 10)


def test_what_rotted_while_it_waited_is_fetched_again(
    make: Make, registry: Registry, wire: Wire, tmp_path: Path, small_pieces: int
) -> None:
    image = make()
    pushed(image, registry.address())
    wire.break_after = SIZE // 2
    with pytest.raises(PublishError):
        pulled(tmp_path / "other", wire.address())
    (part,) = (tmp_path / "other" / staging.FOLDER).rglob("toy.qcow2")
    with part.open("r+b") as file:
        file.seek(1000)
        file.write(b"rot")
    wire.break_after = None
    done = pulled(tmp_path / "other", wire.address())
    assert done.image.disk.read_bytes() == image.disk.read_bytes()


def pulling_in(catalogue: Path, address: str) -> None:
    artifact.PIECE = 256 << 10
    pulled(catalogue, address)


def test_killed_anywhere_a_pull_leaves_nothing_half(make: Make, registry: Registry, tmp_path: Path) -> None:
    image = make()
    pushed(image, registry.address())
    kills = 0
    # One catalogue for all: each pull finds what the killed ones left.
    catalogue = tmp_path / "other"
    for _ in processes.killed_before_each_change(pulling_in, lambda _: (catalogue, registry.address()), every=9):
        kills += 1
        for found in images.list_images(catalogue):
            assert images.verify_version(found.path).good
    assert kills > 2
    assert images.load_image(catalogue, "toy").disk.read_bytes() == image.disk.read_bytes()
    assert not list((catalogue / staging.FOLDER).iterdir())


def start(tmp_path: Path, *words: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "builder", *words]
    return subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


@pytest.mark.parametrize("what", ["push", "pull"])
def test_killed_in_the_middle_of_the_bytes(
    builder: Any, make: Make, registry: Registry, wire: Wire, tmp_path: Path, what: str
) -> None:
    """The program itself, with SIGKILL, while a registry takes its time."""
    image = make()
    if what == "pull":
        pushed(image, registry.address())
    words = ("push", "toy", wire.address()) if what == "push" else ("pull", wire.address())
    folder = "artifacts" if what == "push" else "other"
    wire.hold_after = SIZE // 2
    child = start(tmp_path, "--artifacts", folder, "images", *words)
    assert wire.held.wait(30)
    child.send_signal(signal.SIGKILL)
    child.wait()
    wire.hold_after = None
    wire.go_on.set()
    if what == "pull":
        assert builder("--artifacts", folder, "images", "list").stdout == "no images\n"
    done: Ran = builder("--artifacts", folder, "images", *words)
    assert done.returncode == 0, done.stderr
    assert pulled(tmp_path / "other/images", registry.address()).image.sha256 == image.sha256


def test_what_nobody_takes_up_again_is_collected(
    builder: Any, make: Make, registry: Registry, wire: Wire, tmp_path: Path
) -> None:
    pushed(make(), registry.address())
    catalogue = tmp_path / "artifacts/images"
    wire.break_after = SIZE // 2
    with pytest.raises(PublishError):
        pulled(tmp_path / "other/images", wire.address())
    left = tmp_path / "other/images" / staging.FOLDER
    (folder,) = [path for path in left.iterdir() if path.is_dir()]
    assert builder("--artifacts", "other", "gc", "--json").document()["bytes"] == 0
    old = folder.stat().st_mtime - 31 * 86400
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (old, old))
    assert builder("--artifacts", "other", "gc", "--dry-run", "--json").document()["bytes"] > SIZE // 3
    assert folder.exists()
    assert builder("--artifacts", "other", "gc", "--json").document()["bytes"] > SIZE // 3
    assert not list(left.iterdir())
    assert images.load_image(catalogue, "toy").latest


@needs_root
def test_a_full_disk_is_told_and_the_pull_goes_on_later(
    builder: Any, make: Make, registry: Registry, wire: Wire, tmp_path: Path
) -> None:
    image = make()
    pushed(image, registry.address())
    with small_disk(tmp_path / "full", 1 << 20) as full:

        def pull() -> Ran:
            done: Ran = builder("--artifacts", str(full), "images", "pull", wire.address())
            return done

        def fill(_handler: Any, _method: str, path: str) -> bool:
            if sum("/blobs/" in one for _, one in wire.asked) == 3:
                (full / "filler").write_bytes(b"x" * (6 << 20))
            return False

        done = pull()
        assert (done.returncode, done.stderr.splitlines()[0]) == (7, f"error: no space in {full}/images")
        assert done.stderr.splitlines()[-1] == f"hint: {FREE_SPACE}"
        subprocess.run(["mount", "-o", "remount,size=8M", str(full)], check=True)
        # Something else takes the room while the bytes come.
        wire.asked, wire.act = [], fill
        done = pull()
        assert done.returncode == 7
        assert done.stderr.splitlines()[0] == (f"error: toy@{image.version} cannot be pulled: No space left on device")
        assert images.list_images(full / "images") == []
        (full / "filler").unlink()
        wire.act, wire.moved = lambda *_: False, 0
        done = pull()
        assert done.returncode == 0, done.stderr
        assert wire.moved < SIZE
        assert images.load_image(full / "images", "toy").sha256 == image.sha256
