"""Append-only files with one JSON object a line; a line that a crash tore costs that line alone.

Invariant: a line that was appended is on disk, whole, before `append` returns, whatever is before it in the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from builder.system.atomic_file import sync_folder

T = TypeVar("T")
# What is no line of JSON, also one that is nested too deeply; and what `parse` raises of other contents.
UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


@dataclass(frozen=True)
class LinesRead(Generic[T]):
    """Contents of a file.

    Args:
        entries: the lines, the oldest first.
        unreadable: what is passed over, a text for people each.
    """

    entries: tuple[T, ...]
    unreadable: tuple[str, ...]


def append(path: Path, entry: Mapping[str, Any], mode: int) -> None:
    """Add a line and flush it to disk; a torn line before it is closed first.

    Args:
        mode: permissions of a file that is not there yet.

    Raises:
        OSError: it cannot be written.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, mode)
    with os.fdopen(handle, "r+b", buffering=0) as file:
        size = os.fstat(handle).st_size
        torn = size and os.pread(handle, 1, size - 1) != b"\n"
        left = memoryview((b"\n" if torn else b"") + json.dumps(entry).encode() + b"\n")
        while left:
            left = left[file.write(left) :]
        os.fsync(handle)
    sync_folder(path.parent)


def read(path: Path, parse: Callable[[dict[str, Any]], T]) -> LinesRead[T]:
    """Read all lines; those that are no JSON object, or that `parse` refuses, are passed over and named.

    Raises:
        OSError: the file cannot be read. One that does not exist is an empty one.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return LinesRead((), ())
    entries, unreadable = [], []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict):
                raise TypeError(entry)
            entries.append(parse(entry))
        except UNREADABLE:
            unreadable.append(f"{path}, line {number}, cannot be read and is passed over")
    return LinesRead(tuple(entries), tuple(unreadable))
