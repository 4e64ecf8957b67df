"""Write, hash and flush a planned image in one pass, with a bounded amount of memory.

Hashing is the slowest of the three (MD5 allows no parallel work) and sets the pace: writing and flushing happen beside
it, each on a thread of its own. All three release the interpreter's lock while they work.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO

from builder.errors import Cause, HostError
from builder.iso.layout import CHUNK, IsoPlan
from builder.iso.media_checksum import APPLICATION_USE, Implant

_BUFFERS = 8
# In chunks: what is written is sent to the disk meanwhile, so that little is left to do at the end.
_FLUSH_EVERY = 512


def burn(plan: IsoPlan, output: BinaryIO, implant: Implant | None) -> None:
    """Write the planned image.

    Args:
        output: an empty file; written to below its buffer.
        implant: hashes the volume on the way, and its result is written into the image at the end.

    Raises:
        MediumError: a source of the plan ended early.
        HostError: no space.
        OSError: the disk failed.
    """
    buffers = [memoryview(bytearray(min(CHUNK, plan.size))) for _ in range(_BUFFERS)]
    handle = output.fileno()
    require_room(output, plan.size)
    with ThreadPoolExecutor(1) as hashing, ThreadPoolExecutor(1) as writing, ThreadPoolExecutor(1) as flushing:
        under_way: deque[tuple[Future[None], ...]] = deque()
        flush: Future[None] | None = None
        for index, (offset, chunk) in enumerate(plan.chunks(buffers), start=1):
            jobs = [writing.submit(_write, handle, offset, chunk)]
            if implant is not None:
                jobs.append(hashing.submit(implant.update, chunk))
            under_way.append(tuple(jobs))
            if len(under_way) == _BUFFERS:
                _finish(under_way)
            if index % _FLUSH_EVERY == 0 and (flush is None or flush.done()):
                flush = flushing.submit(os.fdatasync, handle)
        while under_way:
            _finish(under_way)
        if flush is not None:
            flush.result()
    if implant is not None:
        _write(handle, APPLICATION_USE, memoryview(implant.application_use()))


def require_room(output: BinaryIO, size: int) -> None:
    """See that there is space for a new medium: better now than after half the work.

    (Reserving the space makes writing slower: measured on ext4.)

    Args:
        size: bytes.

    Raises:
        HostError: there is not.
    """
    disk = os.fstatvfs(output.fileno())
    free = disk.f_bavail * disk.f_frsize
    if free < size:
        brief = f"no space for the new medium: it takes {size >> 20} MiB, {free >> 20} MiB are free"
        raise HostError(brief, cause=Cause.DISK_FULL)


def _finish(under_way: deque[tuple[Future[None], ...]]) -> None:
    for job in under_way.popleft():
        job.result()


def _write(handle: int, offset: int, data: memoryview) -> None:
    while data:
        done = os.pwrite(handle, data, offset)
        offset, data = offset + done, data[done:]
