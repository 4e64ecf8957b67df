"""Files and records of finished objects; the record alone shows whether an object was damaged or made otherwise."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from builder.errors import PublishError
from builder.system.atomic_file import sync_folder
from builder.system.digests import DigestCache, sha256_file
from builder.system.plain_file import entries_below

RECORD = "stage.json"


class FileRecord(BaseModel):
    """A file of an object as it was when the object was finished; no sha256 for what is dropped soon anyway."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int
    mtime_ns: int
    sha256: str | None


class Record(BaseModel):
    """Contents of `stage.json` of a finished object.

    Args:
        needs: digest of each needed stage, by name.
        made_from: `content` of each needed stage's object that was read, by name.
        content: one digest over names and bytes of all files; distinguishes two builds of one digest.
        created: UTC, ISO 8601.
        seconds: wall time of the stage.
        ledger: where seconds and bytes went (`builder.stage.Ledger`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    version: int
    digest: str
    run_id: str
    created: str
    inputs: dict[str, Any]
    needs: dict[str, str]
    made_from: dict[str, str]
    content: str
    seconds: float
    ledger: dict[str, dict[str, float]]
    files: dict[str, FileRecord]


def read(path: Path) -> Record | None:
    """The record in this file; None when there is none that can be read."""
    try:
        return Record.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def recorded(folder: Path) -> Record:
    """The record in a finished directory, as a stage gets it in `Job.needs`.

    Raises:
        PublishError: it cannot be read.
    """
    try:
        return Record.model_validate_json((folder / RECORD).read_bytes())
    except (OSError, ValidationError) as fault:
        raise PublishError(f"{folder / RECORD} cannot be read", str(fault), "builder gc, then run again") from fault


def describe(folder: Path, hashed: bool, cache: DigestCache) -> dict[str, FileRecord]:
    """Make every file below the folder read-only and say what it is, by relative name.

    Args:
        cache: knows files that were hashed while they came.

    Raises:
        PublishError: something is neither a file nor a folder.
    """
    files = {}
    for name, facts in sorted(_walk(folder)):
        if not stat.S_ISREG(facts.st_mode):
            raise PublishError(f"{name} is no regular file and cannot be kept", str(folder / name))
        path = folder / name
        path.chmod(stat.S_IMODE(facts.st_mode) & 0o444)
        sha256 = (cache.known(path) or sha256_file(path)) if hashed else None
        files[name] = FileRecord(size=facts.st_size, mtime_ns=facts.st_mtime_ns, sha256=sha256)
    return files


def find_corruption(folder: Path, record: Record) -> str | None:
    """Return what about the files is not as recorded, by size and time stamp; None when all is."""
    there = {name: facts for name, facts in _walk(folder) if name != RECORD}
    for name in sorted(record.files.keys() | there.keys()):
        change = _change(name, record.files.get(name), there.get(name))
        if change is not None:
            return change
    return None


def mark_corrupt(folder: Path, record: Record) -> list[str]:
    """Mark the files whose content is not as recorded, by their time stamps, so that `find_corruption` sees them.

    Returns:
        Their names. A file that was recorded without its digest is not looked at.
    """
    corrupt = []
    for name, facts in record.files.items():
        path = folder / name
        if facts.sha256 is not None and path.is_file() and sha256_file(path) != facts.sha256:
            os.utime(path)
            corrupt.append(name)
    return corrupt


def flush(folder: Path) -> None:
    """Write everything below the folder to disk, each folder after what is in it."""
    for path, folders, names in os.walk(folder, topdown=False):
        for name in names:
            sync_file(Path(path) / name)
        for name in folders:
            sync_folder(Path(path) / name)
    sync_folder(folder)


def sync_file(path: Path) -> None:
    """Write the file's bytes to disk."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _change(name: str, was: FileRecord | None, now: os.stat_result | None) -> str | None:
    if now is None:
        return f"{name} is missing"
    if was is None:
        return f"{name} was added"
    if was.size != now.st_size:
        return f"{name} has {now.st_size} bytes, {was.size} recorded"
    if was.mtime_ns != now.st_mtime_ns:
        changed = datetime.fromtimestamp(now.st_mtime, UTC).isoformat(" ", "seconds").removesuffix("+00:00")
        return f"{name} was written to at {changed} UTC"
    return None


def remove(path: Path) -> int:
    """Remove a file or a whole directory if it is there; returns the bytes this gave back to the file system."""
    freed = bytes_freed(path)
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        # Another process may remove the same at this moment: each takes what the other left.
        while path.exists():
            with suppress(FileNotFoundError):
                shutil.rmtree(path)
    return freed


def bytes_freed(path: Path) -> int:
    """Count the bytes that `remove` would give back; a file that has a name elsewhere gives nothing."""
    with suppress(FileNotFoundError):
        facts = path.lstat()
        return sum(_bytes(each) for _, each in entries_below(path)) if stat.S_ISDIR(facts.st_mode) else _bytes(facts)
    return 0


def _bytes(facts: os.stat_result) -> int:
    return facts.st_blocks * 512 if facts.st_nlink == 1 and stat.S_ISREG(facts.st_mode) else 0


def _walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below the folder but folders, by relative name."""
    for path, facts in entries_below(folder):
        yield path.relative_to(folder).as_posix(), facts
