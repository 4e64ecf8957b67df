"""A watchdog for machines that have failed but do not end: known messages, events, or silence for too long.

Invariant: it is over when words or events prove it, or when every sign of life has been quiet for too long.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from builder.diagnosis.classify import Verdict, classify
from builder.errors import Cause, Source
from builder.system import tail
from builder.system.screen import cleaned, last_line
from builder.vm.machine import Machine

# Bytes before the new ones that are read again, since a message may come in pieces: a few screens.
SCREENFUL = 16384
# Bytes of the end of a console in which the reason of an ending is looked for.
SCREENS = 64 * 1024
# Bytes that are read at one look; what is more waits for the next one.
PIECE = 1 << 20
# Bytes of one log: an installer writes a few MiB, and the run's folder must not fill the disk.
FLOOD = 256 << 20
PICTURE_EVERY = 15.0


class Watch:
    """Notices a machine that has failed but does not end.

    Args:
        console: the growing copy of its ttyS0.
        log: the growing copy of the installer's log.
        reports: the growing copy of its ttyS1.
        quiet: seconds without anything on the console, in the log or on any drive that mean the end.

    `verdict` says what was noticed.
    """

    def __init__(self, machine: Machine, console: Path, log: Path, reports: Path, picture: Path, quiet: float) -> None:
        self.verdict: Verdict | None = None
        self._machine, self._picture, self._quiet = machine, picture, quiet
        self._console, self._log, self._reports = _Growing(console), _Growing(log), reports
        self._pictured = 0.0
        self._seen: tuple[int, int, int, int] | None = None
        self._since = time.monotonic()

    def look(self) -> str | None:
        """The reason to give up; None while all may still go well."""
        clock = time.monotonic()
        if clock - self._pictured >= PICTURE_EVERY:
            # A machine that is gone shows nothing any more, so the evidence has its last picture.
            self._machine.keep_screenshot(self._picture)
            self._pictured = clock
        shown, logged = self._console.new(), self._log.new()
        self.verdict = (
            (classify(cleaned(shown), Source.CONSOLE) if shown else None)
            or (classify(logged.decode("utf-8", "replace"), Source.INSTALLER_LOG) if logged else None)
            or flooded(self._console.size, Source.CONSOLE)
            or flooded(self._log.size, Source.INSTALLER_LOG)
            or flooded(_size(self._reports), Source.GUEST_REPORT)
        )
        if self.verdict is not None:
            return self.verdict.brief
        now = (self._console.size, self._log.size, self._machine.disk_bytes(), self._machine.traffic())
        if now != self._seen:
            self._seen, self._since = now, clock
        if clock - self._since < self._quiet:
            return None
        line = last_line(self._machine.console.tail[-SCREENFUL:])
        since = datetime.now(UTC) - timedelta(seconds=clock - self._since)
        quiet = f"console, installer log and disks have been quiet for {self._quiet:.0f} s, since {since:%H:%M:%S} UTC"
        self.verdict = Verdict(Cause.STALLED, f"{quiet}; the last line was: {line}" if line else quiet, Source.WATCHDOG)
        return f"no sign of life for {self._quiet:.0f} s"


class _Growing:
    """A file that somebody appends to.

    Attributes:
        size: bytes that it had at the last look.
    """

    def __init__(self, path: Path) -> None:
        self.size = 0
        self._read = 0
        self._path = path

    def new(self) -> bytes:
        """Return what came since the last look, with some of what was before it; b"" when nothing did."""
        self.size = _size(self._path)
        if self.size == self._read:
            return b""
        start = max(0, self._read - SCREENFUL)
        with self._path.open("rb") as file:
            file.seek(start)
            data = file.read(self._read - start + PIECE)
        self._read = start + len(data)
        return data


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def flooded(size: int, source: Source) -> Verdict | None:
    """The verdict on a log of so many bytes, if it is a flood."""
    return Verdict(Cause.CONSOLE_FLOOD, f"{size >> 20} MiB", source) if size > FLOOD else None


def read_texts(files: Mapping[Source, Path], most: int = 1 << 20) -> dict[Source, str]:
    """The ends of some logs, for `classify.of_ending`; those that are not there are left out.

    Args:
        files: by source.
        most: bytes of each.
    """
    texts = {}
    for source, path in files.items():
        if path.exists():
            data = tail.last_bytes(path, most)
            texts[source] = cleaned(data[-SCREENS:]) if source is Source.CONSOLE else data.decode("utf-8", "replace")
    return texts
