"""Folders that others may write to while they are read: what vanishes on the way is passed over."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def entries_below(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield everything below a folder but folders, with its facts; no link is followed, a missing folder is empty."""
    for parent, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            path = Path(parent, name)
            with suppress(FileNotFoundError):
                facts = path.lstat()
                if not stat.S_ISDIR(facts.st_mode):
                    yield path, facts
