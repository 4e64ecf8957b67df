"""Fixtures of the pipeline tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """A folder in memory where there is one: flushing costs nothing there, and SIGKILL does not care."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="builder-", dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)
