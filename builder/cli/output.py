"""The one rule: standard output holds a command's result and nothing else; a reader that left early is no fault."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from typing import Any

from builder.errors import HostError


def lines(texts: Iterable[str]) -> None:
    """Write lines of text."""
    write("".join(f"{text}\n" for text in texts))


def document(content: Any) -> None:
    """Write the one JSON document."""
    write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write(text: str) -> None:
    """Write text as it is.

    Raises:
        HostError: it cannot be written (the disk is full).
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        mute(sys.stdout.fileno())
    except UnicodeEncodeError:
        sys.stdout.write(text.encode("ascii", "backslashreplace").decode())
        sys.stdout.flush()
    except OSError as error:
        mute(sys.stdout.fileno())
        raise HostError(f"cannot write the result: {error.strerror}") from None


def mute(handle: int) -> None:
    """Send what is still to be written there to nowhere, so that Python's own flush at the end cannot fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, handle)
    os.close(nowhere)
