"""A local file gets a second name: by shared blocks, a link or a copy."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path

import pytest

from builder.errors import MediumError
from builder.system.digests import DigestCache
from builder.system.reflink import take

DATA = random.Random(7).randbytes(300_000)
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.mark.parametrize("link", [False, True])
def test_take_a_local_file(tmp_path: Path, link: bool) -> None:
    file = tmp_path / "here.iso"
    file.write_bytes(DATA)
    found, how = take(file, tmp_path / "there.iso", link=link)
    assert found == SHA
    assert how in (("reflink", "hard link") if link else ("reflink", "copy"))
    assert (tmp_path / "there.iso").read_bytes() == DATA
    assert (tmp_path / "there.iso").samefile(file) is link


def test_a_copy_of_a_file_is_hashed_while_it_is_made(tmp_path: Path) -> None:
    cache, file, out = DigestCache(tmp_path / "digests.sqlite"), tmp_path / "here.iso", tmp_path / "there.iso"
    file.write_bytes(DATA)
    os.utime(file, (0, 0))
    assert take(file, out, cache=cache)[0] == SHA
    assert cache.known(out) == SHA
    # What is written to the copy shows, although it bears the time stamp of its source.
    with out.open("r+b") as changed:
        changed.write(b"rot")
    assert cache.known(out) is None


@pytest.mark.parametrize("link", [False, True])
def test_a_file_that_changed_since_it_was_hashed_is_read_again(tmp_path: Path, link: bool) -> None:
    cache, file = DigestCache(tmp_path / "digests.sqlite"), tmp_path / "here.iso"
    file.write_bytes(b"before" + DATA)
    os.utime(file, (0, 0))
    cache.sha256_of(file)
    file.write_bytes(DATA)
    assert take(file, tmp_path / "there.iso", link=link, cache=cache)[0] == SHA


def test_take_falls_back_to_a_copy_on_another_file_system(tmp_path: Path) -> None:
    shm = Path("/dev/shm")
    if shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is on the same file system")
    file = tmp_path / "here.iso"
    file.write_bytes(DATA)
    target = shm / f"builder-test-{tmp_path.name}-{id(file)}.iso"
    try:
        assert take(file, target, link=True) == (SHA, "copy")
        assert target.read_bytes() == DATA
    finally:
        target.unlink(missing_ok=True)


def test_take_follows_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "here.iso").write_bytes(DATA)
    (tmp_path / "name.iso").symlink_to("here.iso")
    assert take(tmp_path / "name.iso", tmp_path / "there.iso", link=True)[0] == SHA
    assert not (tmp_path / "there.iso").is_symlink()


def test_take_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MediumError, match="cannot read"):
        take(tmp_path / "none.iso", tmp_path / "there.iso")
