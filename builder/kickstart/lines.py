"""Edits of one line of a kickstart that leave the rest of the line as it was written."""

from __future__ import annotations

import re

_VALUE = r"""(?:=|\s+)(?:"[^"]*"|'[^']*'|[^\s"']+)"""


def without_option(line: str, name: str) -> str:
    """Return the line without `--name=value` or `--name value`, however often it is there."""
    code, comment = _apart(line)
    return re.sub(rf"\s+--{name}{_VALUE}", "", code) + comment


def with_option(line: str, name: str, value: str | None, *, instead: str = "") -> str:
    """Return the line with this value for the option, which is added if it is not there.

    Args:
        value: None to put the word `instead` in the option's place.
    """
    code, comment = _apart(line)
    word = instead if value is None else f"--{name}={value}"
    if re.search(rf"\s--{name}{_VALUE}", code):
        return re.sub(rf"--{name}{_VALUE}", lambda _: word, code, count=1) + comment
    kept = code.rstrip()
    return f"{kept} {word}{code[len(kept) :]}{comment}"


def _apart(line: str) -> tuple[str, str]:
    """The line, and the comment at its end with the space before it."""
    found = re.match(r"""((?:"[^"]*"|'[^']*'|[^\s#"']|\s+(?!#)|(?<=\S)#)*)(\s*#.*)?$""", line)
    return (found[1], found[2] or "") if found else (line, "")
