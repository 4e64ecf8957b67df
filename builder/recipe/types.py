"""Kinds of values in a recipe: sizes, durations, names, URLs, and how each is written.

Invariant: a value that was accepted is safe wherever a recipe uses it: as part of a path, of a URL, of a command line.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

MIB = 1 << 20
GIB = 1 << 30
UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": MIB, "GiB": GIB, "TiB": 1 << 40}
SIZE = r"([0-9]{1,15}) ?(B|KiB|MiB|GiB|TiB)?"
DURATION = r"(?=[0-9])(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,8})s?)?"
# Recipes name directories, images and libvirt domains.
NAME = r"[a-z0-9][a-z0-9._-]{0,62}"
TEMPLATE = r"[A-Za-z0-9][A-Za-z0-9._-]{0,126}"
# Names a file and nothing else: it is part of no command line.
FILE_NAME = r"[^/.\x00-\x20\x7f-][^/\x00-\x1f\x7f]{0,126}"


def size(value: object) -> int:
    """Return the bytes of `2GiB`, `512MiB` or a plain number of bytes.

    Raises:
        ValueError: it is no size; the message shows how to write one.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    found = re.fullmatch(SIZE, value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"{value!r} is no size: write 2GiB, 512MiB or a number of bytes")
    return int(found[1]) * UNITS[found[2] or ""]


def duration(value: object) -> int:
    """Return the seconds of `60m`, `90s`, `1h30m` or a plain number of seconds.

    Raises:
        ValueError: it is no duration; the message shows how to write one.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    found = re.fullmatch(DURATION, value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"{value!r} is no duration: write 60m, 90s, 1h30m or a number of seconds")
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds


def whole_mib(value: int, least: int) -> int:
    """Return the value, a number of bytes.

    Raises:
        ValueError: it is less than `least` MiB, or not a whole number of MiB.
    """
    if value < least * MIB:
        raise ValueError(f"{value} bytes are too few: at least {least}MiB (a number without a unit is bytes)")
    if value % MIB:
        raise ValueError(f"{value} bytes are no whole number of MiB")
    return value


def _text(pattern: str, what: str, clean: Callable[[str], str] = str) -> tuple[BeforeValidator, WithJsonSchema]:
    """A check that a value is text of one pattern; `what` ends the sentence "'x' is no …"."""

    def check(value: object) -> str:
        if isinstance(value, str) and re.fullmatch(pattern, cleaned := clean(value)):
            return cleaned
        quote = "" if isinstance(value, str) else " (put it in quotes)"
        raise ValueError(f"{value!r} is no {what}{quote}")

    schema = {"type": "string", "pattern": f"^{pattern}$", "description": what}
    return BeforeValidator(check), WithJsonSchema(schema)


def _amount(pattern: str, parse: Callable[[object], int], what: str) -> tuple[BeforeValidator, WithJsonSchema]:
    written = [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": f"^{pattern}$"}]
    return BeforeValidator(parse), WithJsonSchema({"anyOf": written, "description": what})


Size = Annotated[int, *_amount(SIZE, size, "size: `2GiB`, `512MiB` or a number of bytes")]
Duration = Annotated[int, *_amount(DURATION, duration, "duration: `60m`, `90s`, `1h30m` or a number of seconds")]
Name = Annotated[str, *_text(NAME, "name: use a-z, 0-9, '.', '_', '-', at most 63, a letter or digit first")]
Sha256 = Annotated[str, *_text(r"[0-9a-f]{64}", "sha256: 64 hex digits", str.lower)]
Fingerprint = Annotated[
    str, *_text(r"[0-9A-F]{40}", "key fingerprint: 40 hex digits", lambda text: text.replace(" ", "").upper())
]
# No user:password@ part: what a URL holds ends up in logs.
_URL = r"https?://(?![^/]*@)[!-~]+"
Url = Annotated[str, *_text(_URL, "http or https URL without a password")]
ChecksumList = Annotated[
    str, *_text(rf"(?:{_URL}|{TEMPLATE})", "list of checksums: a URL, or the name of a file beside the ISO")
]
Template = Annotated[str, *_text(TEMPLATE, "template: the name of a file in kickstarts/, without a folder")]
FileName = Annotated[str, *_text(FILE_NAME, "file name: without a folder, no '.' or '-' first")]
Title = Annotated[str, *_text(r"[^\x00-\x20\x7f][^\x00-\x1f\x7f]{0,99}", "title: one line of at most 100 characters")]
Place = Annotated[
    str,
    *_text(r"(?!(name|variant|matrix)\b)[a-z_]+(\.[a-z0-9_]+)+", "place of a recipe's value, e.g. machine.firmware"),
]
Command = Annotated[str, *_text(r"[^\x00]*\S[^\x00]*", "shell command")]

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,126}"
SourceName = Annotated[
    str,
    *_text(rf"{_PART}(/{_PART})*", "source: a name below the folder `provision`, of letters, digits, '.', '_', '-'"),
]
Playbook = Annotated[str, *_text(rf"{_PART}(/{_PART})+", "playbook: write folder/playbook.yml, below `provision`")]
GuestPath = Annotated[
    str, *_text(r"(/[A-Za-z0-9_@+-][A-Za-z0-9._@+-]*|/\.[A-Za-z0-9_][A-Za-z0-9._-]*)+", "absolute path in the guest")
]
FileMode = Annotated[str, *_text(r"0[0-7]{3}", 'file mode: four octal digits, as in "0644"')]
BaseName = Annotated[str, *_text(rf"{NAME}(@[0-9a-f]{{4,12}})?", "image: NAME or NAME@VERSION")]
NetworkName = Annotated[str, *_text(r"[A-Za-z0-9_.-]{1,15}", "network: 1 to 15 letters, digits, '_', '.', '-'")]
