"""Implant and verify the media checksum of isomd5sum, so that old installers and new ones alike accept it.

The sum that `implantisomd5` leaves is in the 512 bytes of application use of the primary volume descriptor. It covers
the volume without its last 15 sectors (burned CDs read badly there), with those 512 bytes taken as blanks.
Sums of the parts read so far let a check fail early: with n of them the volume is cut into n + 1 fragments, and the
checker, reading 32 KiB at a time, compares after the first read that begins in a new fragment. (Up to isomd5sum 1.2.0
a fragment is `offset * (n + 1) // total`, since then `offset // (total // (n + 1))`: for whole sectors that is the
same.) In a volume so small that a read would skip a fragment, the programs themselves implant sums that they refuse
later; here such a volume gets fewer fragments.
Source of the facts: isomd5sum, libcheckisomd5.c and libimplantisomd5.c, versions 1.0.10 (CentOS 7) and 1.2.3.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from builder.iso.layout import SECTOR, SYSTEM_AREA

APPLICATION_USE = SYSTEM_AREA + 883
APPLICATION_USE_SIZE = 512
SKIPPED_SECTORS = 15
_STRIDE = 16 * SECTOR
_SUMS_SIZE = 60
# Divisors of 60: each part sum gets the same number of digits.
_SIXTIETHS = (20, 15, 12, 10, 6, 5, 4)

Verdict = Literal["good", "bad", "none"]


class Implant:
    """Hashes a volume as it passes by, in order, and gives the 512 bytes to implant.

    The application use of what passes by must be blank.
    """

    def __init__(self, volume_size: int) -> None:
        """Args:
        volume_size: bytes, as the primary volume descriptor says.
        """
        self.total = max(0, volume_size - SKIPPED_SECTORS * SECTOR)
        self.fragments, self._stops = _fragments(self.total)
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._seen = 0
        self._sums = ""

    def update(self, data: memoryview) -> None:
        """Take the next bytes; those behind the checked part are ignored."""
        data = data[: max(0, self.total - self._seen)]
        while self._stops and self._stops[0] <= self._seen + len(data):
            head = self._stops.pop(0) - self._seen
            self._md5.update(data[:head])
            self._seen += head
            data = data[head:]
            digest = self._md5.digest()[: _SUMS_SIZE // self.fragments]
            self._sums += "".join(f"{byte:x}"[0] for byte in digest)
        self._md5.update(data)
        self._seen += len(data)

    @property
    def md5(self) -> str:
        """The sum over what has passed, 32 hex digits."""
        return self._md5.hexdigest()

    def application_use(self) -> bytes:
        """The 512 bytes to write at APPLICATION_USE."""
        text = (
            f"ISO MD5SUM = {self.md5};SKIPSECTORS = {SKIPPED_SECTORS};RHLISOSTATUS=0;"
            f"FRAGMENT SUMS = {self._sums.ljust(_SUMS_SIZE, '0')};FRAGMENT COUNT = {self.fragments};"
            "THIS IS NOT THE SAME AS RUNNING MD5SUM ON THIS ISO!!"
        )
        return text.encode().ljust(APPLICATION_USE_SIZE)


def implant(image: BinaryIO) -> Implant:
    """Hash an image that is on disk and implant the sum; its application use must be blank.

    Args:
        image: open for reading and writing; written to below its buffer.
    """
    handle = image.fileno()
    volume = int.from_bytes(os.pread(handle, 4, SYSTEM_AREA + 80), "little") * SECTOR
    new = Implant(volume)
    buffer = memoryview(bytearray(1 << 20))
    done = 0
    while done < new.total and (count := os.preadv(handle, [buffer], done)):
        new.update(buffer[:count])
        done += count
    os.pwrite(handle, new.application_use(), APPLICATION_USE)
    return new


@dataclass(frozen=True)
class Implanted:
    """Contents of a medium's application-use field."""

    md5: str
    skipped: int
    sums: str
    fragments: int


def parse(application_use: bytes) -> Implanted | None:
    """The implanted sum, None where there is none."""
    text = application_use.decode("latin-1")
    md5 = re.search(r"ISO MD5SUM = ([0-9a-f]{32})", text)
    skipped = re.search(r"SKIPSECTORS = (\d+)", text)
    if md5 is None or skipped is None:
        return None
    sums = re.search(r"FRAGMENT SUMS = ([0-9a-f]+);", text)
    count = re.search(r"FRAGMENT COUNT = (\d+)", text)
    return Implanted(md5[1], int(skipped[1]), sums[1] if sums else "", int(count[1]) if count else 0)


def verdict(path: Path) -> Verdict:
    """Read the whole medium and say whether the implanted sum still holds; `none` where nothing is implanted."""
    with path.open("rb", buffering=0) as file:
        descriptor = os.pread(file.fileno(), SECTOR, SYSTEM_AREA)
        found = parse(descriptor[883 : 883 + APPLICATION_USE_SIZE])
        if found is None:
            return "none"
        volume = int.from_bytes(descriptor[80:84], "little") * SECTOR
        return "good" if _md5_of(file, volume - found.skipped * SECTOR) == found.md5 else "bad"


def _md5_of(file: BinaryIO, total: int) -> str:
    md5 = hashlib.md5(usedforsecurity=False)
    buffer = memoryview(bytearray(1 << 20))
    done = 0
    while done < total:
        count = os.preadv(file.fileno(), [buffer[: total - done]], done)
        if count == 0:
            break
        if done == 0:
            blank = slice(APPLICATION_USE, APPLICATION_USE + APPLICATION_USE_SIZE)
            buffer[blank] = b" " * APPLICATION_USE_SIZE
        md5.update(buffer[:count])
        done += count
    return md5.hexdigest()


def _fragments(total: int) -> tuple[int, list[int]]:
    """Return the number of partial sums, and the bytes after which each is taken."""
    for count in _SIXTIETHS:
        begins = [number * (total // (count + 1)) for number in range(1, count + 1)]
        stops = [-(-begin // _STRIDE) * _STRIDE + _STRIDE for begin in begins]
        if len(set(stops)) == count and stops[-1] - _STRIDE < total:
            return count, [min(stop, total) for stop in stops]
    return 0, []
