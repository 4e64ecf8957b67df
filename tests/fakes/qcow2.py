"""Small qcow2 files, made without qemu-img: a header, its tables, and some bytes that a guest would see."""

from __future__ import annotations

import struct

CLUSTER_BITS = 9
CLUSTER = 1 << CLUSTER_BITS
PER_TABLE = CLUSTER // 8
COPIED = 1 << 63


def qcow2(content: bytes) -> bytes:
    """Return a sound qcow2 file of version 3 whose disk begins with these bytes."""
    clusters = max(1, -(-len(content) // CLUSTER))
    seconds = -(-clusters // PER_TABLE)
    firsts = -(-seconds // PER_TABLE)
    # Header, refcount table (one cluster, of up to 64 blocks), refcount blocks, L1, L2 tables, data.
    blocks = 1
    while 2 + blocks + firsts + seconds + clusters > blocks * (CLUSTER // 2):
        blocks += 1
    assert blocks <= PER_TABLE, "too large for this"
    l1 = 2 + blocks
    l2 = l1 + firsts
    data = l2 + seconds
    total = data + clusters
    head = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        b"QFI\xfb", 3, 0, 0, CLUSTER_BITS, clusters * CLUSTER, 0, seconds, l1 * CLUSTER, CLUSTER, 1, 0, 0, 0, 0, 0, 4,
        104,
    )  # fmt: skip
    table = b"".join(struct.pack(">Q", (2 + number) * CLUSTER) for number in range(blocks))
    counts = b"\0\1" * total
    tables = b"".join(struct.pack(">Q", COPIED | (l2 + number) * CLUSTER) for number in range(seconds))
    leaves = b"".join(struct.pack(">Q", COPIED | (data + number) * CLUSTER) for number in range(clusters))
    sizes = ((head, 1), (table, 1), (counts, blocks), (tables, firsts), (leaves, seconds), (content, clusters))
    return b"".join(part.ljust(count * CLUSTER, b"\0") for part, count in sizes)
