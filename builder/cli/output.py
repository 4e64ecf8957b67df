"""Write a command's result to standard output, and its notes to standard error.

Invariant: standard output holds the result and nothing else; a reader that left early is not an error
(`builder.system.streams`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from builder.errors import HostError
from builder.system.streams import silence


def emit(data: Any, text: str | Iterable[str], as_json: bool) -> None:
    """Write a command's result once: as one JSON document with `--json`, else as text.

    Args:
        data: what `json.dumps` takes.
        text: whole text as it is, or lines without their ends.
    """
    if as_json:
        print_json(data)
    elif isinstance(text, str):
        write(text)
    else:
        print_lines(text)


def print_lines(texts: Iterable[str]) -> None:
    """Write lines of text that cannot steer a terminal, whoever wrote the words in them; one may hold several."""
    write("".join(f"{_harmless(line)}\n" for text in texts for line in text.split("\n")))


def print_json(content: Any) -> None:
    """Write the one JSON document."""
    write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def note(text: str) -> None:
    """Write a line of progress to standard error."""
    try:
        sys.stderr.write(f"{_harmless(text)}\n")
        sys.stderr.flush()
    except OSError:
        return


def _harmless(text: str) -> str:
    if text.isprintable():
        return text
    # Not at the head: it takes 0.2 s to load, and nearly all lines are printable.
    from builder.console import clean

    return clean(text.expandtabs())


def display_path(path: Path) -> Path:
    """Shorten a path for people: relative if it is below the working directory."""
    try:
        here = Path.cwd()
    except OSError:
        return path
    absolute = here / path
    return absolute.relative_to(here) if absolute.is_relative_to(here) else absolute


def write(text: str) -> None:
    """Write text as it is.

    Raises:
        HostError: it cannot be written (the disk is full).
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except UnicodeEncodeError:
        sys.stdout.write(text.encode("ascii", "backslashreplace").decode())
        sys.stdout.flush()
    except OSError as error:
        silence(sys.stdout.fileno())
        raise HostError(f"cannot write the result: {error.strerror}") from None
