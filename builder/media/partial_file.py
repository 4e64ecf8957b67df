"""The file that a download grows in: locked, hashed as it is written, within what the disk has."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from builder.errors import FREE_SPACE, Cause, HostError
from builder.media.mirror import MirrorError
from builder.stage import Progress
from builder.system.atomic_file import sync_folder
from builder.system.plain_file import open_plain
from builder.system.transfer_progress import Beat

_CHUNK = 1 << 20
# Of an answer that does not say how long it is; the largest install media have 13 GiB.
MOST_UNKNOWN = 32 << 30
# Bytes of the disk that a download leaves free, and how many are written between two looks.
RESERVE = 64 << 20
_LOOK_EVERY = 16 << 20


class PartialFile:
    """The file that grows: locked, hashed as it is written.

    Attributes:
        validator: ETag or date of the version that the bytes so far came from; None when that is not known.
        pieced: the bytes come from more than one answer.
    """

    def __init__(self, path: Path, progress: Progress) -> None:
        self.path = path
        self.validator: str | None = None
        self.pieced = False
        self.size = 0
        self._progress = progress
        self._sha256 = hashlib.sha256()
        self._file: BinaryIO

    def __enter__(self) -> PartialFile:
        self._file = self._locked()
        self._file.seek(0)
        while data := self._file.read(_CHUNK):
            self._sha256.update(data)
            self.size += len(data)
        self.pieced = self.size > 0
        return self

    def _locked(self) -> BinaryIO:
        while True:
            file = os.fdopen(open_plain(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND), "ab+")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                raise HostError(f"{self.path} is being downloaded by another builder", hint="wait for it") from None
            # Not one that somebody has given its final name meanwhile: that must not be written to.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), self.path.stat()):
                    return file
            file.close()

    def __exit__(self, *_: object) -> None:
        if self.size == 0:
            self.path.unlink(missing_ok=True)
        self._file.close()

    def digest(self) -> str:
        """Return the sha256 of what is there."""
        return self._sha256.hexdigest()

    def restart(self) -> None:
        """Drop what is there, also what a full disk does not take."""
        with suppress(OSError):
            self._file.flush()
        os.ftruncate(self._file.fileno(), 0)
        self._sha256 = hashlib.sha256()
        self.size = 0
        self.pieced = False
        self.validator = None

    def take(self, chunks: Iterator[bytes], total: int | None, host: str) -> None:
        """Append what comes.

        Args:
            total: size of the whole file, None where the server does not say.

        Raises:
            HostError: the disk has no space for it.
        """
        if total is not None:
            self._require_space(total - self.size)
        limit = MOST_UNKNOWN if total is None else total
        beat = Beat(self._progress, self.size, total, f"from {host}")
        looked = self.size
        for data in chunks:
            if self.size + len(data) > limit:
                self.restart()
                raise MirrorError(f"it sends more than {limit} bytes", "it sends too much", Cause.WRONG_MEDIUM)
            if total is None and self.size - looked >= _LOOK_EVERY:
                looked = self.size
                with self._dropped():
                    self._require_space(_LOOK_EVERY)
            with self._dropped():
                self._file.write(data)
            self._sha256.update(data)
            self.size += len(data)
            beat.at(self.size)

    @contextmanager
    def _dropped(self) -> Iterator[None]:
        """Give the space back when there is none left: nobody could do anything with what is there."""
        try:
            yield
        except (HostError, OSError):
            self.restart()
            raise

    def _require_space(self, size: int) -> None:
        disk = os.fstatvfs(self._file.fileno())
        free = disk.f_bavail * disk.f_frsize
        if free < size + RESERVE:
            text = f"no space for {self.path.name}: {size >> 20} MiB to come, {free >> 20} MiB are free"
            raise HostError(text, f"{RESERVE >> 20} MiB are left free", FREE_SPACE, cause=Cause.DISK_FULL)

    def publish(self, out: Path) -> None:
        """Give it its final name."""
        self._file.flush()
        os.fchmod(self._file.fileno(), 0o644)
        os.fsync(self._file.fileno())
        self.path.rename(out)
        sync_folder(out.parent)
