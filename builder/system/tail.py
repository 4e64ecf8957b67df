"""The last lines of a growing log, for error messages."""

from __future__ import annotations

from pathlib import Path

# Bytes that are read from the end: enough for some long lines.
MOST = 8192


def last_lines(path: Path, count: int = 8) -> str:
    """Return the last lines of a log that are not empty; "" when there is no such file."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - MOST))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return "\n".join([line for line in text.splitlines() if line.strip()][-count:])
