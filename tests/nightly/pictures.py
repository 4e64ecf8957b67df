"""A picture that tests can find again on a page."""

from __future__ import annotations

import struct
import zlib


def red_square(side: int = 64) -> bytes:
    """A PNG file, all red (RFC 2083)."""
    rows = (b"\x00" + b"\xff\x00\x00" * side) * side

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
