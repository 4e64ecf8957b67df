"""No byte of a rolling log is lost."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Event

import pytest

from builder.system import retry
from builder.vm import log_follower
from builder.vm.log_follower import LogFollower, settle

ROLL = 2 << 20


class Roller:
    """Writes as virtlogd does: at 2 MiB `x.1` becomes `x.2`, `x.0` becomes `x.1`, `x` becomes `x.0`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def write(self, data: bytes) -> None:
        while data:
            room = ROLL - self.path.stat().st_size
            with self.path.open("ab") as file:
                file.write(data[:room])
            data = data[room:]
            if data:
                self.roll()

    def roll(self) -> None:
        names = [self.path, *(Path(f"{self.path}.{number}") for number in range(3))]
        for older, newer in reversed(list(zip(names[1:], names, strict=False))):
            if newer.exists():
                newer.rename(older)
        self.path.touch()


@pytest.fixture
def roller(tmp_path: Path) -> Roller:
    return Roller(tmp_path / "x")


def numbered(start: int, count: int) -> bytes:
    return b"".join(b"%09d\n" % number for number in range(start, start + count))


def test_ten_mebibytes_arrive_whole(roller: Roller, tmp_path: Path) -> None:
    with LogFollower(roller.path, tmp_path / "copy") as follower:
        written = 0
        for start in range(0, 1 << 20, 1 << 13):
            piece = numbered(start, 1 << 13)
            roller.write(piece)
            written += len(piece)
            # A guest is never faster than this: half of what the log daemon keeps stays unread at most.
            retry.until(lambda: written - follower.copied < 2 * ROLL or None, within=10, every=0.005)  # noqa: B023
    assert (tmp_path / "copy").read_bytes() == numbered(0, 1 << 20)
    assert not follower.torn


def test_what_is_there_before_and_at_the_end_is_copied(roller: Roller, tmp_path: Path) -> None:
    roller.write(numbered(0, ROLL // 10 + 5))
    with LogFollower(roller.path, tmp_path / "copy"):
        roller.write(b"last words, no newline")
    assert (tmp_path / "copy").read_bytes() == numbered(0, ROLL // 10 + 5) + b"last words, no newline"


def test_a_log_that_comes_later_is_found(tmp_path: Path) -> None:
    with LogFollower(tmp_path / "x", tmp_path / "sub" / "copy") as follower:
        Roller(tmp_path / "x").write(b"hello\n")
        settle(follower)
        assert follower.copied == 6
    assert (tmp_path / "sub" / "copy").read_bytes() == b"hello\n"


def test_a_gap_is_reported(roller: Roller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Looks so seldom that all of it happens between two looks.
    monkeypatch.setattr(log_follower, "EVERY", 1.0)
    with LogFollower(roller.path, tmp_path / "copy") as follower:
        roller.write(b"first\n")
        retry.until(lambda: follower.copied or None, within=10)
        for _ in range(5):
            roller.roll()
            roller.write(b"x")
    assert follower.torn


def test_a_log_renamed_while_its_names_are_read_is_no_gap(
    roller: Roller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.stat
    begun, rolled = Event(), Event()

    def rename_first(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        # Its older name has been looked at, its own not yet: renamed now, it is seen under neither.
        if path == roller.path and follower.copied and not begun.is_set():
            begun.set()
            roller.roll()
            rolled.set()
        return real(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", rename_first)
    with LogFollower(roller.path, tmp_path / "copy") as follower:
        roller.write(b"before ")
        assert rolled.wait(10)
        roller.write(b"after")
    assert (tmp_path / "copy").read_bytes() == b"before after"
    assert not follower.torn


def test_no_log_at_all_is_an_empty_copy(tmp_path: Path) -> None:
    with LogFollower(tmp_path / "x", tmp_path / "copy"):
        pass
    assert (tmp_path / "copy").read_bytes() == b""
