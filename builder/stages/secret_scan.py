"""Search the bytes of a raw disk for secrets: passwords and keys in files, in deleted files and in free space.

Of a private key only the place is known here: libraries ship published keys for their self-tests, so the file that
holds it decides (`builder.stages.key_owners`). Holes are skipped: where nothing is allocated, nothing is stored.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHUNK = 1 << 20
# Beside a disk that was provisioned: how the private key of the run is recognised on it.
RUN_KEY = "run_key.json"
# Longer than any match below and than a private key of ours, so that one across two chunks is seen.
OVERLAP = 4096
# What comes before the crypt string in /etc/shadow.
SHADOW = b"root:"
# A header alone is a constant in every program that can write keys; a key has a body of base64 behind it
# (or, in the old encrypted form, RFC 1421 headers).
PRIVATE_KEY = re.compile(rb"(-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----)\r?\n(?:Proc-Type:|[A-Za-z0-9+/=]{40})")


@dataclass(frozen=True)
class Leak:
    """Something that must not be on the disk; `offset` in bytes from its start."""

    what: str
    offset: int

    def __str__(self) -> str:
        return f"{self.what} at byte {self.offset} of the disk"


@dataclass(frozen=True)
class Fingerprint:
    """Bytes that can be recognised without being known: how many, and their SHA-256.

    Only for random keys: a digest of a password could be guessed from.
    """

    length: int
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> Fingerprint:
        """Take it of these bytes."""
        return cls(len(data), hashlib.sha256(data).hexdigest())

    def matches(self, data: bytes) -> bool:
        """Tell whether the data begins with these bytes."""
        return Fingerprint.of(data[: self.length]) == self


@dataclass(frozen=True)
class FoundKey:
    """A private key on the disk: `offset` in bytes from its start, and its first line, which reveals nothing."""

    offset: int
    header: str


@dataclass(frozen=True)
class Findings:
    """Matches of a search, by offset."""

    leaks: tuple[Leak, ...]
    keys: tuple[FoundKey, ...]


def scan(disk: Path, *, password: str, crypt: str, run_key: Fingerprint | None = None) -> Findings:
    """Search a raw disk for the root password, stray copies of its crypt string and private keys.

    Args:
        disk: a raw image.
        password: the plain root password: may stand nowhere.
        crypt: its crypt string: may stand in a line of /etc/shadow for root only.
        run_key: the private key that the disk was provisioned with, without white space at its end; may be nowhere.
    """
    plain = password.encode()
    hashed = crypt.encode()
    leaks: dict[int, str] = {}
    keys: dict[int, str] = {}
    for start, continued, data in _chunks(disk):
        for at in _places(data, plain):
            leaks[start + at] = "the plain root password"
        for at in _places(data, hashed):
            # The chunk before has seen a match so close to the border, with what comes before it.
            seen_before = continued and at < len(SHADOW)
            if not seen_before and data[max(0, at - len(SHADOW)) : at] != SHADOW:
                leaks[start + at] = "a copy of the root password's hash outside /etc/shadow"
        for match in PRIVATE_KEY.finditer(data):
            at = match.start()
            if run_key and run_key.matches(data[at:]):
                leaks[start + at] = "the private key that the run logged in with"
            keys[start + at] = match[1].decode("ascii")
    return Findings(
        tuple(Leak(what, offset) for offset, what in sorted(leaks.items())),
        tuple(FoundKey(offset, header) for offset, header in sorted(keys.items())),
    )


def _places(data: bytes, needle: bytes) -> Iterator[int]:
    at = data.find(needle)
    while at >= 0:
        yield at
        at = data.find(needle, at + 1)


def _chunks(path: Path) -> Iterator[tuple[int, bool, bytes]]:
    """Allocated pieces of a file: offset, whether the piece overlaps the one before it, bytes."""
    with path.open("rb", buffering=0) as file:
        size = path.stat().st_size
        at = 0
        while at < size:
            try:
                begin = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
            here = begin
            while here < end:
                data = os.pread(file.fileno(), min(CHUNK, end - here), here)
                if not data:
                    return
                yield here, here > begin, data
                if here + len(data) >= end:
                    break
                here += max(1, len(data) - OVERLAP)
            at = end
