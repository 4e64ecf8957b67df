"""The journal of changes to this host: one JSON line a change, in order, with what undoes it.

Invariant: what undoes a change is on disk before the change is made, so that a crash can be undone too. A line that
cannot be read stops nothing: it is passed over, and named by `unreadable`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from builder.errors import HostError
from builder.system import jsonlines, locks
from builder.system.atomic_file import replacing

FOLDER = Path("/var/lib/builder/host")
Entry = dict[str, Any]


@dataclass(frozen=True)
class Journal:
    """The journal of this host; `folder` also holds the backups of changed files."""

    folder: Path = FOLDER

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / "journal.jsonl"

    @property
    def damaged(self) -> Path:
        """Copy of the file as it was when lines of it could not be read."""
        return self.folder / "journal.damaged.jsonl"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other builders from changing the host at the same time.

        Raises:
            HostError: one does, or this user may not.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = locks.attempt(self.folder / "lock")
        except OSError as fault:
            raise HostError(f"cannot keep a journal in {self.folder}: {fault.strerror}", hint="run as root") from None
        if handle is None:
            raise HostError("another builder is changing this host just now", hint="wait for it to end")
        try:
            yield
        finally:
            os.close(handle)

    def record(self, kind: str, **facts: Any) -> None:
        """Note how to undo what is about to be done."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        entry = {"kind": kind, "at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", **facts}
        jsonlines.append(self.path, entry, 0o600)

    def entries(self) -> list[Entry]:
        """All that can be read, the oldest first."""
        return list(self._read().entries)

    def unreadable(self) -> list[str]:
        """Lines that are passed over, a text for people each; one that a crash cut short was never acted on."""
        return list(self._read().unreadable)

    def _read(self) -> jsonlines.LinesRead[Entry]:
        try:
            return jsonlines.read(self.path, _require_kind)
        except OSError as fault:
            hint = "run as root" if isinstance(fault, PermissionError) else "repair the file or move it away"
            raise HostError(f"cannot read {self.path}: {fault.strerror}", hint=hint) from None

    def keep(self, entries: list[Entry]) -> None:
        """Keep these entries only; a file with lines that cannot be read is copied first."""
        if self._read().unreadable:
            shutil.copy2(self.path, self.damaged)
        with replacing(self.path, 0o600) as file:
            file.write("".join(json.dumps(entry) + "\n" for entry in entries).encode())

    def replace_file(self, path: Path, text: str, mode: int = 0o644, then: list[str] | None = None) -> None:
        """Write a file whole, with a backup of what stood there.

        Args:
            then: command that makes a program read the file again; run after an undo, by `restore`.

        Raises:
            HostError: it cannot be written.
        """
        backup = None
        if path.exists():
            mode = path.stat().st_mode & 0o7777
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            backup = self._free_backup(path.name)
            shutil.copy2(path, backup)
            with backup.open("rb") as file:
                os.fsync(file.fileno())
        for folder in reversed([folder for folder in path.parents if not folder.exists()]):
            self.record("directory", path=str(folder))
            folder.mkdir(mode=0o755)
        written = hashlib.sha256(text.encode()).hexdigest()
        self.record("file", path=str(path), backup=str(backup) if backup else None, sha256=written, then=then)
        with replacing(path, mode) as file:
            file.write(text.encode())

    def _free_backup(self, name: str) -> Path:
        """A name that no backup has yet; entries that were undone leave gaps in the numbers."""
        count = itertools.count(len(self.entries()))
        return next(path for number in count if not (path := self.folder / f"{number:04}-{name}").exists())


def _require_kind(entry: Entry) -> Entry:
    if not isinstance(entry["kind"], str):
        raise TypeError(entry)
    return entry
