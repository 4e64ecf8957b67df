"""The mode with which files and folders are made, whatever the umask of the caller is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def readable_by_all() -> Iterator[None]:
    """Make what is made in this block readable by all and writable by its owner, unless it is given a stricter mode.

    QEMU runs as another user and opens disks by name, so a stricter umask would lock it out; a looser one would let
    every user exchange an image that was verified. What is secret is always given its own mode.
    """
    before = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(before)
