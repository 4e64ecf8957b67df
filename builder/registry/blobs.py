"""Send blobs whole, and fetch them with resume; the digest decides whether one is right.

Each blob is sent with one request (section "POST then PUT"). A larger file is many blobs, so that a broken connection
costs one of them: the protocol's own chunks within a blob cannot be relied on (docs/decisions.md). Blobs are fetched
with ranges (RFC 9110, section 14) and hashed as they arrive, whatever a registry says about ranges and lengths.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlencode

import requests

from builder.errors import PublishError
from builder.registry.client import PassingError, Repository
from builder.system.plain_file import open_plain
from builder.system.transfer_progress import brief

_CHUNK = 1 << 20
# What is read of it when an answer breaks off is lost: less than for local files.
_NET_CHUNK = 1 << 16

# Called with the bytes of a blob, or of a file, that are through.
Tell = Callable[[int], None]


@dataclass(frozen=True)
class Blob:
    """Bytes by their digest (`sha256:…`)."""

    digest: str
    size: int


def has(repository: Repository, blob: Blob) -> bool:
    """Return whether the repository holds it already."""
    return repository.ask("HEAD", f"blobs/{blob.digest}", ok=(200, 404)).status_code == 200


def send(repository: Repository, blob: Blob, content: bytes, tell: Tell = lambda _: None) -> None:
    """Store a blob.

    Raises:
        PublishError: the registry is away or refuses.
    """

    def attempt() -> None:
        opened = repository.once("POST", "blobs/uploads/", ok=(202,))
        place = opened.headers.get("Location")
        if not place:
            raise PublishError(f"the registry {repository.address.host} does not say where to send a blob")
        place += f"{'&' if '?' in place else '?'}{urlencode({'digest': blob.digest})}"
        headers = {"Content-Type": "application/octet-stream"}
        repository.once("PUT", place, ok=(201,), headers=headers, data=_Told(content, tell)).close()

    repository.again(attempt)


def small(repository: Repository, blob: Blob, limit: int) -> bytes:
    """A blob that fits into memory.

    Raises:
        PublishError: it is larger than `limit` bytes, missing, or not what it is called.
    """
    if blob.size > limit:
        raise PublishError(f"{repository.address.name}: {blob.digest} has {blob.size} bytes, {limit} are too many")
    file = io.BytesIO()
    _take(repository, blob, file, 0, lambda _: None)
    return file.getvalue()


def take(repository: Repository, blobs: Sequence[Blob], path: Path, tell: Tell) -> None:
    """Write blobs one after the other into a file, and flush it; goes on where an earlier call was cut off.

    Raises:
        PublishError: the registry is away, lacks a blob, or has another one under its digest.
        OSError: the file cannot be written.
    """
    with os.fdopen(open_plain(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), "ab+") as file:
        start = 0
        for blob in blobs:
            _take(repository, blob, file, start, tell)
            start += blob.size
        file.truncate(start)
        file.flush()
        os.fsync(file.fileno())


def _take(repository: Repository, blob: Blob, file: BinaryIO, start: int, tell: Tell) -> None:
    repository.again(lambda: _attempt(repository, blob, file, start, tell))
    tell(start + blob.size)


def _attempt(repository: Repository, blob: Blob, file: BinaryIO, start: int, tell: Tell) -> None:
    """Make at most one request for what is missing of a blob that begins at `start` in the file."""
    digest, there = _there(file, start, blob.size)
    pieced = there > 0
    if there < blob.size:
        headers = {"Range": f"bytes={there}-"} if there else {}
        with repository.once("GET", f"blobs/{blob.digest}", ok=(200, 206, 416), headers=headers, stream=True) as answer:
            if there and not _goes_on(answer, there):
                digest, there, pieced = hashlib.sha256(), 0, False
                _cut(file, start)
                if answer.status_code != 200:
                    raise PassingError("the registry answered with another range than was asked for")
            try:
                for data in answer.iter_content(_NET_CHUNK):
                    digest.update(data)
                    there += len(data)
                    if there > blob.size:
                        break
                    file.write(data)
                    tell(start + there)
            except requests.RequestException as fault:
                raise PassingError(brief(fault)) from None
        if there < blob.size:
            raise PassingError(f"{blob.digest} broke off after {there} of {blob.size} bytes")
    found = f"sha256:{digest.hexdigest()}"
    if found != blob.digest:
        _cut(file, start)
        if pieced:
            raise PassingError(f"what there was of {blob.digest} was damaged")
        raise repository.wrong("a blob", blob.digest, found)


def _there(file: BinaryIO, start: int, size: int) -> tuple[hashlib._Hash, int]:
    """Return what an earlier attempt left of the blob: its hash so far, and bytes."""
    file.flush()
    file.seek(start)
    digest, there = hashlib.sha256(), 0
    while there < size and (data := file.read(min(_CHUNK, size - there))):
        digest.update(data)
        there += len(data)
    return digest, there


def _cut(file: BinaryIO, start: int) -> None:
    file.flush()
    file.truncate(start)
    file.seek(start)


def _goes_on(answer: requests.Response, there: int) -> bool:
    return answer.status_code == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {there}-")


class _Told(io.BytesIO):
    """Bytes that say how far they were read."""

    def __init__(self, content: bytes, tell: Tell) -> None:
        super().__init__(content)
        self._tell = tell

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._tell(self.tell())
        return data
