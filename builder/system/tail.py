"""The end of a growing log: its last lines for error messages, its last bytes."""

from __future__ import annotations

from pathlib import Path

# Bytes that are read from the end: enough for some long lines.
MOST = 8192


def last_bytes(path: Path, most: int) -> bytes:
    """Return the end of a file, at most so many bytes.

    Raises:
        FileNotFoundError: there is none.
    """
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - most))
        return file.read(most)


def last_lines(path: Path, count: int = 8) -> str:
    """Return the last lines of a log that are not empty; "" when there is no such file."""
    try:
        text = last_bytes(path, MOST).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return "\n".join([line for line in text.splitlines() if line.strip()][-count:])
