"""Small parts of the store: the digest cache, locks, files of secrets, and places where no store can be made."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from pathlib import Path

import pytest

from builder.errors import HostError
from builder.store.store import Store
from builder.system import locks
from builder.system.digests import STEP_NS, DigestCache, sha256_file

pytestmark = pytest.mark.unit


def old_file(path: Path, text: bytes) -> Path:
    """A file that was written long enough ago for its digest to be kept."""
    path.write_bytes(text)
    then = path.stat().st_mtime_ns - 10 * STEP_NS
    os.utime(path, ns=(then, then))
    return path


def rows(cache: Path) -> int:
    database = sqlite3.connect(cache)
    try:
        return int(database.execute("select count(*) from digests").fetchone()[0])
    finally:
        database.close()


def test_a_known_file_is_not_read_again(tmp_path: Path) -> None:
    cache = DigestCache(tmp_path / "digests.sqlite")
    path = old_file(tmp_path / "file", b"first")
    facts = path.stat()
    first = cache.sha256_of(path)
    assert first == hashlib.sha256(b"first").hexdigest() == sha256_file(path)
    # Rot that moves neither size nor mtime nor inode is what the cache does not see.
    path.write_bytes(b"other")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert cache.sha256_of(path) == first
    assert sha256_file(path) != first


@pytest.mark.parametrize("change", ["size", "mtime", "inode"])
def test_a_changed_file_is_read_again(tmp_path: Path, change: str) -> None:
    cache = DigestCache(tmp_path / "digests.sqlite")
    path = old_file(tmp_path / "file", b"first")
    facts = path.stat()
    before = cache.sha256_of(path)
    if change == "inode":
        other = tmp_path / "other"
        other.write_bytes(b"other")
        other.replace(path)
    else:
        path.write_bytes(b"other" if change == "mtime" else b"longer")
    if change != "mtime":
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert cache.sha256_of(path) == sha256_file(path) != before


def test_a_file_that_may_still_change_is_not_remembered(tmp_path: Path) -> None:
    cache = DigestCache(tmp_path / "digests.sqlite")
    cache.sha256_of(old_file(tmp_path / "old", b"old"))
    young = tmp_path / "young"
    young.write_bytes(b"young")
    later = young.stat().st_mtime_ns + 3600 * 10**9
    os.utime(young, ns=(later, later))
    cache.sha256_of(young)
    assert rows(cache.path) == 1


def test_a_broken_cache_is_no_obstacle(tmp_path: Path) -> None:
    cache = DigestCache(tmp_path / "digests.sqlite")
    cache.path.write_bytes(b"this is no database" * 100)
    path = old_file(tmp_path / "file", b"text")
    assert cache.sha256_of(path) == sha256_file(path)
    nowhere = DigestCache(tmp_path / "no" / "digests.sqlite")
    assert nowhere.sha256_of(path) == sha256_file(path)
    nowhere.forget(0)


def test_old_digests_are_forgotten(tmp_path: Path) -> None:
    cache = DigestCache(tmp_path / "digests.sqlite")
    cache.sha256_of(old_file(tmp_path / "file", b"text"))
    cache.forget(0)
    assert rows(cache.path) == 1
    cache.forget(2e10)
    assert rows(cache.path) == 0


def test_a_lock_is_exclusive_and_tells_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locks.held(path, holder="run one"):
        assert locks.attempt(path) is None
        assert locks.attempt(path, shared=True) is None
        assert path.read_text().endswith("run one")
    handle = locks.attempt(path)
    assert handle is not None
    os.close(handle)
    assert path.read_text() == ""


def test_shared_locks_go_together(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locks.held(path, shared=True), locks.held(path, shared=True):
        assert locks.attempt(path) is None


def test_a_lock_file_that_is_gone_is_not_made_unasked(tmp_path: Path) -> None:
    assert locks.attempt(tmp_path / "gone", create=False) is None
    assert not (tmp_path / "gone").exists()


def test_a_secret_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    store = Store(tmp_path / "a" / "store")
    made = iter([b"first", b"second"])
    assert not store.has_secret("word")
    assert store.secret("word", lambda: next(made)) == b"first"
    assert store.secret("word", lambda: next(made)) == b"first"
    assert (store.secrets / "word").stat().st_mode & 0o777 == 0o600
    assert store.secrets.stat().st_mode & 0o777 == 0o700
    assert len(store.key) == 32
    assert Store(store.root).key == store.key


def test_a_store_writes_nothing_before_it_has_to(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert store.load("0" * 64) is None
    assert store.recall("name", "stage") is None
    assert not store.has_secret("key")
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_made_is_an_error_for_people(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError) as caught:
        Store(tmp_path / "file" / "store").prepare()
    assert caught.value.brief == f"the store {tmp_path}/file/store cannot be made: File exists"
