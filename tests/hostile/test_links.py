"""Links that somebody puts in the way of a command of root: refused in one line, the file behind them unchanged."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from builder import images
from builder.errors import HostError
from builder.images.export import export
from builder.media import download
from builder.system import locks
from tests.command import Ran, builder
from tests.conftest import Silent
from tests.fakes.qcow2 import qcow2

__all__ = ["builder"]

Builder = Callable[..., Ran]
TEXT = "a file that only root may read\n"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file of somebody else."""
    path = tmp_path / "victim"
    path.write_text(TEXT)
    path.chmod(0o600)
    return path


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder of somebody else, to which root exports; and an image to export."""
    disk = tmp_path / "disk"
    disk.write_bytes(qcow2(b"disk"))
    images.publish(tmp_path / "artifacts/images", "toy", {"toy.qcow2": disk}, {})
    folder = tmp_path / "shared"
    folder.mkdir(mode=0o777)
    return folder


@pytest.mark.parametrize("hard", [False, True])
def test_a_lock_that_is_a_link(hard: bool, builder: Builder, shared: Path, victim: Path) -> None:
    link = shared / ".out.img.lock"
    link.hardlink_to(victim) if hard else link.symlink_to(victim)
    done = builder("images", "export", "toy", "-o", str(shared / "out.img"))
    assert done.returncode == 3
    assert done.stderr.splitlines()[0] == f"error: {link} is a link, or not a plain file, and was not opened"
    assert victim.read_text() == TEXT
    assert sorted(path.name for path in shared.iterdir()) == [".out.img.lock"]


def test_a_lock_that_is_a_pipe_is_not_waited_for(builder: Builder, shared: Path) -> None:
    os.mkfifo(shared / ".out.img.lock")
    assert builder("images", "export", "toy", "-o", str(shared / "out.img")).returncode == 3


def test_a_file_of_that_name_is_neither_emptied_nor_removed(builder: Builder, shared: Path) -> None:
    (shared / ".out.img.lock").write_text("notes of mine")
    done = builder("images", "export", "toy", "-o", str(shared / "out.img"))
    assert done.returncode == 0, done.stderr
    assert (shared / ".out.img.lock").read_text() == "notes of mine"


def test_links_in_the_way_of_an_export(builder: Builder, shared: Path, victim: Path) -> None:
    for name in (".out.img.exporting", ".out.img.exporting.x", "out.img"):
        (shared / name).symlink_to(victim)
    done = builder("images", "export", "toy", "-o", str(shared / "out.img"))
    assert done.returncode == 7
    assert "exists already" in done.stderr
    done = builder("images", "export", "toy", "--force", "-o", str(shared / "out.img"))
    assert done.returncode == 0, done.stderr
    assert victim.read_text() == TEXT
    assert not (shared / "out.img").is_symlink()
    assert [path.name for path in shared.iterdir()] == ["out.img"]


def test_while_an_export_is_written_nobody_else_may_enter_its_folder(shared: Path, tmp_path: Path) -> None:
    modes: list[int] = []

    def look(_what: str, _percent: float) -> None:
        modes.extend(path.stat().st_mode & 0o777 for path in shared.glob(".out.img.exporting*"))

    image = images.load_image(tmp_path / "artifacts/images", "toy")
    export(image, "raw", shared / "out.img", on_progress=look)
    assert set(modes) == {0o700}


@pytest.mark.parametrize("hard", [False, True])
def test_a_part_that_is_a_link(hard: bool, victim: Path, tmp_path: Path) -> None:
    link = tmp_path / "x.iso.part"
    link.hardlink_to(victim) if hard else link.symlink_to(victim)
    with pytest.raises(HostError, match=r"x\.iso\.part is a link"):
        download.fetch(["http://127.0.0.1:9/x.iso"], "0" * 64, tmp_path / "x.iso", progress=Silent(), pause=0, tries=1)
    assert victim.read_text() == TEXT


def test_a_holder_says_who_it_is_and_leaves_nothing(tmp_path: Path) -> None:
    lock, said, waits = tmp_path / ".lock", [""], threading.Event()

    def wait() -> None:
        def note(text: str) -> None:
            said[0] = text
            waits.set()

        with locks.held(lock, on_wait=note):
            pass

    with locks.held(lock, holder="process 1"):
        other = threading.Thread(target=wait)
        other.start()
        assert waits.wait(20)
    other.join()
    assert said == ["process 1"]
    assert lock.read_bytes() == b""
