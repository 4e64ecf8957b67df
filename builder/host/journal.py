"""The journal of changes to this host; what undoes a change is on disk before the change is made.

It has one JSON line per change, in order: plain data, so that a later builder can undo what an earlier one did.
"""

from __future__ import annotations

import hashlib
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
from builder.system import locks
from builder.system.atomic_file import replacing, sync_folder

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
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
        sync_folder(self.folder)

    def entries(self) -> list[Entry]:
        """All of them, the oldest first; a last line that a crash cut short was never acted on."""
        try:
            lines = self.path.read_text(encoding="utf-8").split("\n")
        except FileNotFoundError:
            return []
        except OSError as fault:
            raise HostError(f"cannot read {self.path}: {fault.strerror}", hint="run as root") from None
        return [json.loads(line) for line in lines[:-1]]

    def keep(self, entries: list[Entry]) -> None:
        """Keep these entries only."""
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
            backup = self.folder / f"{len(self.entries()):04}-{path.name}"
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
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
