"""Copy a log whole and in order while it grows and another program rotates it.

libvirt's log daemon renames `x` to `x.0`, `x.0` to `x.1` and so on at 2 MiB, and deletes what would become the
fourth. A file is followed by its inode, never by its name: the open descriptor stays on the same bytes wherever they
are renamed to, and the next file is its neighbour on the younger side.
"""

from __future__ import annotations

import os
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import BinaryIO

from builder.system import retry

BACKUPS = 3
CHUNK = 1 << 20
EVERY = 0.05  # seconds between two looks: what is lost first are 6 MiB written within that time


class LogFollower:
    """Copies a log into a file of ours in a thread, from entering the block to its end.

    Args:
        source: the log's own name; it may not be there yet. What it and its backups hold at the start is copied too.
        copy: appended to.

    `copied` counts bytes; `torn` says that the log rolled faster than it could be copied, so that bytes are missing.
    """

    def __init__(self, source: Path, copy: Path) -> None:
        self.source = source
        self.copy = copy
        self.copied = 0
        self.torn = False
        self._current: BinaryIO | None = None
        self._target: BinaryIO | None = None
        self._stop = Event()
        self._thread = Thread(target=self._run, name=f"follow {source.name}", daemon=True)
        self._fault: OSError | None = None

    def __enter__(self) -> LogFollower:
        self.copy.parent.mkdir(parents=True, exist_ok=True)
        # A guest may print anything, so its log is for its owner alone.
        self._target = open(self.copy, "ab", buffering=0, opener=lambda name, flags: os.open(name, flags, 0o600))
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        for file in (self._current, self._target):
            if file:
                file.close()
        if self._fault and kind is None:
            raise self._fault

    def _run(self) -> None:
        try:
            while not self._stop.wait(EVERY):
                self._catch_up()
            self._catch_up()
        except OSError as error:
            self._fault = error

    def _catch_up(self) -> None:
        """Copy all there is, over as many rolled files as there are."""
        while True:
            if self._current:
                self._drain()
            younger = self._younger()
            if younger is None:
                return
            if self._current:
                # It is rolled: nothing is written to it any more, but the last words came after the first drain.
                self._drain()
                self._current.close()
            self._current = younger

    def _drain(self) -> None:
        assert self._current
        assert self._target
        while data := self._current.read(CHUNK):
            self._target.write(data)
            self.copied += len(data)

    def _younger(self) -> BinaryIO | None:
        """The file that comes after the current one; the oldest there is when there is no current one."""
        while True:
            files = self._listing()
            inodes = list(files)
            own = _identity(os.fstat(self._current.fileno())) if self._current else None
            wanted = inodes.index(own) + 1 if own in inodes else 0
            if wanted >= len(inodes):
                chosen = None
            else:
                try:
                    chosen = files[inodes[wanted]].open("rb", buffering=0)
                except FileNotFoundError:
                    continue
            # A rename in the middle of the listing hides a file or shows it twice: only a calm listing counts.
            same = chosen is None or _identity(os.fstat(chosen.fileno())) == inodes[wanted]
            if same and files == self._listing():
                # Rolled out of sight: what was between is lost.
                self.torn = self.torn or bool(own and files and own not in files)
                return chosen
            if chosen:
                chosen.close()

    def _listing(self) -> dict[tuple[int, int], Path]:
        """The log and its backups that are there, oldest first, by inode."""
        names = [f"{self.source}.{number}" for number in reversed(range(BACKUPS))] + [str(self.source)]
        files = {}
        for path in map(Path, names):
            try:
                files[_identity(path.stat())] = path
            except FileNotFoundError:
                continue
        return files


def settle(*followers: LogFollower, quiet: float = 0.2, within: float = 5.0) -> None:
    """Wait until nothing has come to any of them for `quiet` seconds, at most `within`: the log daemon may lag behind
    a guest that is gone.
    """
    still = int(quiet / EVERY) + 1
    seen = [-1] * still

    def settled() -> bool | None:
        seen.append(sum(follower.copied for follower in followers))
        return True if len(set(seen[-still:])) == 1 else None

    retry.until(settled, within=within, every=EVERY)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
