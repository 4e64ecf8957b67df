"""Plan a new ISO image before any of it is written; file contents are copied, never loaded into memory.

pycdlib lays an image out by copying from one file object to another. Here both are ours: the one it reads from returns
spans (where the bytes are) in place of the bytes, the one it writes to records what goes where. The result is a plan of
a few thousand small pieces, made in milliseconds whatever the size of the image, which can be corrected and then
written, hashed and flushed in one pass.
"""

from __future__ import annotations

import io
import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

from builder.errors import MediumError


class RewriteError(MediumError):
    """The medium cannot be rewritten; the command that wanted it knows what else can be done (`with_hint`)."""


class ForeignLayoutError(RewriteError):
    """The medium is laid out in a way that only the program that made it knows (`builder.iso.xorriso`)."""


@contextmanager
def with_hint(hint: str) -> Iterator[None]:
    """Add to errors about a medium that cannot be rewritten what to do next."""
    try:
        yield
    except RewriteError as error:
        error.hint = hint
        raise


SECTOR = 2048
SYSTEM_AREA = 16 * SECTOR
# Small enough that what was read is still in the processor's cache when it is hashed and written (measured: 4 MiB
# takes half as much processor time again).
CHUNK = 256 << 10
_ZEROS = bytes(CHUNK)


@dataclass(frozen=True)
class Span:
    """Bytes that stand in a file and were not read: all that may be asked of them is their number."""

    file: BinaryIO
    offset: int
    length: int

    def __len__(self) -> int:
        return self.length


class ExtentSource:
    """A file as pycdlib sees it.

    Attributes:
        deferred: `read` hands out spans instead of bytes.
    """

    def __init__(self, file: BinaryIO, *, hide_system_area: bool) -> None:
        """Args:
        file: open for reading; has to stay open as long as a plan made from it.
        hide_system_area: show zeros in place of the first 16 sectors (MBR and GPT). pycdlib 1.22 writes wrong
            checksums there and gives up on some valid layouts; `builder.iso.boot_records` owns that area.
        """
        self._file = file
        self._hidden = SYSTEM_AREA if hide_system_area else 0
        self._at = 0
        self._size = os.fstat(file.fileno()).st_size
        self.deferred = False

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def fileno(self) -> int:
        # As for a file in memory: pycdlib then gives new files mode 0444 instead of the mode of some temporary file.
        raise io.UnsupportedOperation("fileno")

    def read(self, size: int = -1) -> bytes | Span:
        if self._at < 0:
            raise ValueError("before the beginning of the image")
        left = max(0, self._size - self._at)
        size = left if size < 0 else min(size, left)
        start, self._at = self._at, self._at + size
        if self.deferred:
            return Span(self._file, start, size)
        data = os.pread(self._file.fileno(), size, start)
        if start < self._hidden:
            blank = min(len(data), self._hidden - start)
            data = bytes(blank) + data[blank:]
        return data


class Recorder:
    """The file that pycdlib writes to: keeps what goes where."""

    def __init__(self) -> None:
        self._at = 0
        self.size = 0
        self.pieces: list[tuple[int, bytes | Span]] = []

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def write(self, data: bytes | Span) -> int:
        if len(data):
            self.pieces.append((self._at, data if isinstance(data, Span) else bytes(data)))
        self._at += len(data)
        self.size = max(self.size, self._at)
        return len(data)


@dataclass
class IsoPlan:
    """Parts of a new image, in order.

    Attributes:
        size: bytes of the whole file; what no piece covers is zero.
        pieces: offset and content, in the order of writing: a later piece covers an earlier one.
    """

    size: int
    pieces: list[tuple[int, bytes | Span]] = field(default_factory=list)

    def put(self, offset: int, data: bytes) -> None:
        """Cover what is at `offset`, growing the image where it has to."""
        self.pieces.append((offset, data))
        self.size = max(self.size, offset + len(data))

    def check(self) -> None:
        """See that no two files were given the same place.

        Raises:
            MediumError: they were: the layout of the source was misunderstood.
        """
        end = 0
        for offset, span in sorted(
            ((at, piece) for at, piece in self.pieces if isinstance(piece, Span)), key=lambda placed: placed[0]
        ):
            if offset < end or offset + len(span) > self.size:
                raise RewriteError(
                    "the install medium cannot be rewritten: its files would overlap",
                    details=f"at byte {offset} of the new image",
                )
            end = offset + len(span)

    def chunks(self, buffers: list[memoryview]) -> Iterator[tuple[int, memoryview]]:
        """The image's bytes in order, in the given buffers, taken round and round.

        Args:
            buffers: each of CHUNK bytes; the caller must be done with one before it comes round again.

        Raises:
            MediumError: a source ended early.
        """
        touching: dict[int, list[tuple[int, bytes | Span]]] = defaultdict(list)
        for at, piece in self.pieces:
            for index in range(at // CHUNK, (at + len(piece) - 1) // CHUNK + 1):
                touching[index].append((at, piece))
        for index in range(-(-self.size // CHUNK)):
            start = index * CHUNK
            buffer = buffers[index % len(buffers)][: min(CHUNK, self.size - start)]
            _paint(buffer, start, touching.pop(index, []))
            yield start, buffer


def _paint(buffer: memoryview, start: int, pieces: list[tuple[int, bytes | Span]]) -> None:
    end = start + len(buffer)
    if not any(isinstance(piece, Span) and at <= start and at + len(piece) >= end for at, piece in pieces):
        buffer[:] = _ZEROS[: len(buffer)]
    for at, piece in pieces:
        first, last = max(at, start), min(at + len(piece), end)
        if isinstance(piece, Span):
            _fill(buffer[first - start : last - start], piece.file, piece.offset + first - at)
        else:
            buffer[first - start : last - start] = piece[first - at : last - at]


def _fill(target: memoryview, file: BinaryIO, offset: int) -> None:
    done = 0
    while done < len(target):
        count = os.preadv(file.fileno(), [target[done:]], offset + done)
        if count == 0:
            raise MediumError(
                f"{file.name} ended early: it was changed while it was read", details=f"at byte {offset + done}"
            )
        done += count
