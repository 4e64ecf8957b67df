"""The lines that a guest reports on its second serial port (ttyS1), and the only parser for them.

    BUILDER INSTALLED <digest>                    the installer came to the end of the kickstart with this digest
    BUILDER HOSTKEY <SHA256:fingerprint> <type>   an SSH host key was made; sshd is not running yet
    BUILDER ADDRESS <IPv4 address>                the guest's own static address
    BUILDER READY <instance id>                   identity is in place (`none` without a seed)
    BUILDER HELD                                  it waits for a seed and has no identity: now it can be saved
    BUILDER WARNING <text>                        something in the seed was refused, or root was not grown

They are written by `%post` of the kickstart and by `kickstarts/snippets/first-boot.sh`. A port delivers what a guest
prints, so other lines are ignored.
"""

from __future__ import annotations

import os
import re
from collections import deque
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

PREFIX = b"BUILDER "
KNOWN = ("INSTALLED", "HOSTKEY", "ADDRESS", "READY", "HELD", "WARNING")
IDENTITY = ("HOSTKEY", "ADDRESS", "READY")
# Bytes of one report; and of each kind, as many of the newest: a guest has three host keys and warns a few times.
LONGEST = 4096
MOST = 100
# Bytes of the end of all that came, for error messages; and bytes that are read at once.
KEPT = 16 << 10
PIECE = 1 << 20
# Of a log that libvirt's daemon rolls.
BACKUPS = 3
_HOST_KEY = re.compile(r"(SHA256:[A-Za-z0-9+/]{43}) \S+")


@dataclass(frozen=True)
class GuestReport:
    """The lines that a guest has reported so far, oldest first.

    Args:
        installed: digests of the kickstarts that an installer finished.
        host_keys: fingerprints (`SHA256:…`).
        addresses: the last one counts.
        ready: ids of the instances whose identity is in place.
        held: it waits for an identity.
        identity: the reports about its identity as lines; a guest says them once, when it boots.
        text: the end of everything that came, also what is not a report.
    """

    installed: tuple[str, ...]
    host_keys: tuple[str, ...]
    addresses: tuple[str, ...]
    ready: tuple[str, ...]
    held: bool
    warnings: tuple[str, ...]
    identity: tuple[str, ...]
    text: str


def read_report(path: Path) -> GuestReport:
    """Read what a guest has reported; nothing when the file is not there yet."""
    return ReportReader(path).read()


def parse_report(text: str) -> GuestReport:
    """Parse the text of a ttyS1; a last line that has not come whole yet is left out."""
    lines = _ReportLines()
    lines.feed(text.encode())
    return lines.report()


class ReportReader:
    """Reads what a guest reports while it reports it; each look reads what is new.

    libvirt's log daemon rolls the file: `x` becomes `x.0`, `x.0` becomes `x.1`, and so on.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at: tuple[tuple[int, int], int] | None = None
        self._lines = _ReportLines()

    def read(self) -> GuestReport:
        """Return all that has been reported so far."""
        names = [self._path, *(self._path.with_name(f"{self._path.name}.{number}") for number in range(BACKUPS))]
        files = {}
        with ExitStack() as stack:
            for name in reversed(names):
                with suppress(FileNotFoundError):
                    file = stack.enter_context(name.open("rb"))
                    status = os.fstat(file.fileno())
                    files[status.st_dev, status.st_ino] = file
            known = list(files)
            # At first the newest alone, since older ones may be of an earlier start of the machine. Later what was
            # read last, and what came after it; all there is when that is gone.
            start = -1 if self._at is None else known.index(self._at[0]) if self._at[0] in files else 0
            for inode in known[start:]:
                file = files[inode]
                at = self._at[1] if self._at and self._at[0] == inode else 0
                if at > os.fstat(file.fileno()).st_size:
                    # Emptied: the machine was started anew.
                    at, self._lines = 0, _ReportLines()
                file.seek(at)
                while data := file.read(PIECE):
                    self._lines.feed(data)
                self._at = inode, file.tell()
        return self._lines.report()


class _ReportLines:
    """The reports in what a guest has printed; of all else only the end is kept."""

    def __init__(self) -> None:
        self._words: dict[str, deque[str]] = {}
        self._line = b""
        self._end = b""

    def feed(self, data: bytes) -> None:
        self._end = (self._end + data)[-KEPT:]
        lines = (self._line + data).splitlines(keepends=True)
        last = b"" if not lines or lines[-1].endswith((b"\n", b"\r")) else lines.pop()
        for line in lines:
            if line.startswith(PREFIX) and len(line) <= LONGEST:
                word, _, value = line.decode("utf-8", "replace").removeprefix("BUILDER ").strip().partition(" ")
                if word in KNOWN:
                    self._words.setdefault(word, deque(maxlen=MOST)).append(value.strip())
        # What is longer than any report will be none.
        self._line = last if len(last) <= LONGEST else b"?" * (LONGEST + 1)

    def report(self) -> GuestReport:
        words = {word: tuple(values) for word, values in self._words.items()}
        return GuestReport(
            installed=words.get("INSTALLED", ()),
            host_keys=tuple(match[1] for value in words.get("HOSTKEY", ()) if (match := _HOST_KEY.fullmatch(value))),
            addresses=words.get("ADDRESS", ()),
            ready=words.get("READY", ()),
            held="HELD" in words,
            warnings=words.get("WARNING", ()),
            identity=tuple(f"BUILDER {word} {value}" for word in IDENTITY for value in words.get(word, ())),
            text=self._end.decode("utf-8", "replace"),
        )
