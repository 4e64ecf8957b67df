"""The one rule: an image is written, hashed and flushed in one pass, with a bounded amount of memory.

Hashing is the slowest of the three (MD5 allows no parallel work), so it sets the pace: writing and flushing happen
beside it on another thread. Both release the interpreter's lock while they work.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO

from builder.adapters.implant_md5 import APPLICATION_USE, Implant
from builder.adapters.iso_plan import CHUNK, Plan
from builder.errors import HostError

_BUFFERS = 8
# Writing is the faster side: it uses its spare time to send what it has to the disk, so that little is left to do.
_FLUSH_EVERY = 128


def burn(plan: Plan, output: BinaryIO, implant: Implant | None) -> None:
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
    _room(handle, plan.size)
    with ThreadPoolExecutor(1) as hashing, ThreadPoolExecutor(1) as writing:
        under_way: deque[tuple[Future[None], ...]] = deque()
        for index, (offset, chunk) in enumerate(plan.chunks(buffers)):
            jobs = [writing.submit(_write, handle, offset, chunk, (index + 1) % _FLUSH_EVERY == 0)]
            if implant is not None:
                jobs.append(hashing.submit(implant.update, chunk))
            under_way.append(tuple(jobs))
            if len(under_way) == _BUFFERS:
                _finish(under_way)
        while under_way:
            _finish(under_way)
    if implant is not None:
        _write(handle, APPLICATION_USE, memoryview(implant.application_use()), False)


def _room(handle: int, size: int) -> None:
    """Better now than after half the work. (Reserving the space makes writing slower: measured on ext4.)"""
    disk = os.fstatvfs(handle)
    free = disk.f_bavail * disk.f_frsize
    if free < size:
        raise HostError(f"no space for the new medium: it takes {size >> 20} MiB, {free >> 20} MiB are free")


def _finish(under_way: deque[tuple[Future[None], ...]]) -> None:
    for job in under_way.popleft():
        job.result()


def _write(handle: int, offset: int, data: memoryview, flush: bool) -> None:
    while data:
        done = os.pwrite(handle, data, offset)
        offset, data = offset + done, data[done:]
    if flush:
        os.fdatasync(handle)
