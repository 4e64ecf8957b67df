"""Files in folders that others may write to, opened so that no link leads to another file.

Sources of the facts: open(2), O_NOFOLLOW: ELOOP for a symbolic link; a hard link shows as a second name (st_nlink).
"""

from __future__ import annotations

import errno
import os
import stat
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


def _refused(path: Path) -> HostError:
    return HostError(
        f"{path} is a link, or not a plain file, and was not opened",
        "builder makes this file itself; what is there now was put there by somebody else",
        f"look at it: ls -l {path}; unless somebody needs it: rm {path}",
    )
