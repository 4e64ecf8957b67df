"""SHA-256 of files, cached for as long as device, inode, size and mtime stay the same.

The cache does not notice silent corruption; where that matters, `sha256_file` reads the bytes.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

# Time stamps of files move in steps of the kernel's timer, up to 10 ms (Documentation/timers: CONFIG_HZ=100). A file
# written to within the last step could be written to again without a new time stamp, so its digest is not kept.
STEP_NS = 20_000_000

_TABLE = """
create table if not exists digests (
    device integer, inode integer, size integer, mtime_ns integer, sha256 text not null, seen real not null,
    primary key (device, inode, size, mtime_ns)
)
"""
_WHERE = "device = ? and inode = ? and size = ? and mtime_ns = ?"


def sha256_file(path: Path) -> str:
    """SHA-256 of the file's bytes as 64 hex digits, read now."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class DigestCache:
    """Digests of files that did not change, in one SQLite file that many processes may use at once.

    The cache is a convenience: where it cannot be read or written, the file is hashed and all goes on.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def sha256_of(self, path: Path) -> str:
        """SHA-256 of the file, from the cache if (device, inode, size, mtime) are known, else from its bytes."""
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            known = self._look_up(before)
            if known is not None:
                return known
            start = time.time_ns()
            found = hashlib.file_digest(file, "sha256").hexdigest()
            if _key(os.fstat(file.fileno())) == _key(before) and start - before.st_mtime_ns > STEP_NS:
                self._keep(before, found)
        return found

    def known(self, path: Path) -> str | None:
        """SHA-256 of the file if it was hashed since it was written to; no byte of it is read."""
        return self._look_up(path.stat())

    def remember(self, path: Path, sha256: str) -> None:
        """Note what a file holds that was hashed while it was written, unless it was written to just now."""
        facts = path.stat()
        if time.time_ns() - facts.st_mtime_ns > STEP_NS:
            self._keep(facts, sha256)

    def forget(self, before: float) -> None:
        """Drop what was hashed before this time (seconds since the epoch)."""
        with suppress(sqlite3.Error), self._open("rw") as database, database:
            database.execute("delete from digests where seen < ?", (before,))

    def _look_up(self, facts: os.stat_result) -> str | None:
        try:
            with self._open("ro") as database:
                row = database.execute(f"select sha256 from digests where {_WHERE}", _key(facts)).fetchone()
        except sqlite3.Error:
            return None
        return None if row is None else str(row[0])

    def _keep(self, facts: os.stat_result, sha256: str) -> None:
        with suppress(sqlite3.Error), self._open("rwc") as database, database:
            database.execute(_TABLE)
            row = (*_key(facts), sha256, time.time())
            database.execute("insert or replace into digests values (?, ?, ?, ?, ?, ?)", row)

    @contextmanager
    def _open(self, mode: str) -> Iterator[sqlite3.Connection]:
        address = f"{self.path.absolute().as_uri()}?mode={mode}"
        with closing(sqlite3.connect(address, uri=True, timeout=10)) as database:
            yield database


def _key(facts: os.stat_result) -> tuple[int, int, int, int]:
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns
