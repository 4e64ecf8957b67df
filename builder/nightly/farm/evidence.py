"""Keeps the evidence that a farm's worker sends of a run.

Invariant: a worker chooses contents, never places: what it names stays below the folder of a new run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from builder.errors import HostError

# Bytes that one run may send.
LARGEST = 8 << 20
# As `builder.store.runs.new_id` makes them.
_RUN = re.compile(r"[0-9a-z][0-9a-z-]{0,63}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+-]{0,126}")
_DEEPEST = 4


def keep(runs: Path, run: str, files: Mapping[str, bytes], worker: str) -> Path:
    """Write the evidence of a run for its owner alone, as that of a run on this host; returns its folder.

    A run that is here already, because the worker shares this host's store, is left as it is.

    Args:
        runs: the folder of all runs.
        run: the run's id, as the worker says.
        files: contents by name.
        worker: its host, for people.

    Raises:
        HostError: a name leads out of the folder, or it is too much; nothing is written.
    """
    strange = [*([] if _RUN.fullmatch(run) else [run]), *(name for name in files if not _harmless(name))]
    if strange:
        raise _refused(worker, f"a name that may lead out of the run's folder: {strange[0]!r:.200}")
    if sum(len(data) for data in files.values()) > LARGEST:
        raise _refused(worker, f"more than {LARGEST >> 20} MiB")
    folder = runs / run
    runs.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return folder
    for name, data in files.items():
        _write(folder, name, data)
    return folder


def _harmless(name: str) -> bool:
    parts = name.split("/")
    return len(parts) <= _DEEPEST and all(_PART.fullmatch(part) for part in parts)


def _write(folder: Path, name: str, data: bytes) -> None:
    path = folder / name
    for parent in reversed([one for one in path.parents if one.is_relative_to(folder)]):
        parent.mkdir(mode=0o700, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
        file.write(data)


def _refused(worker: str, what: str) -> HostError:
    hint = "look at that worker: an unchanged builder of this version does not send it"
    return HostError(f"the worker {worker or '(without a name)'} sent evidence that is refused", what, hint)
