"""Folders that others may write to: files are opened so that no link leads astray, and what vanishes is passed over.

Sources of the facts: open(2), O_NOFOLLOW: ELOOP for a symbolic link; a hard link shows as a second name (st_nlink).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from builder.errors import HostError


def open_plain(path: Path, flags: int, mode: int = 0o600) -> int:
    """Open a regular file that has one name only, and return the descriptor.

    Args:
        flags: of os.open; O_CLOEXEC is added.

    Raises:
        HostError: it is a symbolic link, has a second name, or is not a regular file.
        OSError: it cannot be opened.
    """
    try:
        # Without O_NONBLOCK a named pipe would be waited for.
        handle = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, mode)
    except OSError as fault:
        if fault.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise _refused(path) from None
        raise
    facts = os.fstat(handle)
    if not stat.S_ISREG(facts.st_mode) or facts.st_nlink > 1:
        os.close(handle)
        raise _refused(path)
    return handle


def entries_below(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield everything below a folder but folders, with its facts; no link is followed, a missing folder is empty."""
    for parent, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            path = Path(parent, name)
            with suppress(FileNotFoundError):
                facts = path.lstat()
                if not stat.S_ISDIR(facts.st_mode):
                    yield path, facts


def _refused(path: Path) -> HostError:
    return HostError(
        f"{path} is a link, or not a plain file, and was not opened",
        "builder makes this file itself; what is there now was put there by somebody else",
        f"look at it: ls -l {path}; unless somebody needs it: rm {path}",
    )
