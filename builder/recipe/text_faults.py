"""What editors of other systems leave in text: a byte order mark at its start, line endings of DOS.

Invariant: kickstarts and scripts are looked at on the host; a guest says of both only that something was not found.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

BOM = "\ufeff"
# A line that starts a shell: such a script fails at its first line that ends with a carriage return.
_SHELL = re.compile(rb"#!\s*\S*?/(?:env\s+)?(?:[a-z]*sh)\b")


@dataclass(frozen=True)
class TextFault:
    """A fault in a text file.

    Args:
        what: follows the file's name in a message.
        script: of sed, that repairs it.
    """

    what: str
    why: str
    script: str

    def command(self, path: Path) -> str:
        """Return the command that repairs the file."""
        return f"sed -i '{self.script}' {shlex.quote(str(path))}"


def _bom(why: str) -> TextFault:
    return TextFault("starts with a byte order mark, which editors do not show", why, r"1s/^\xef\xbb\xbf//")


def _dos(why: str) -> TextFault:
    return TextFault("has DOS line endings", why, r"s/\r$//")


def of_kickstart(text: str) -> TextFault | None:
    """Return what is wrong with the text of a kickstart."""
    if text.startswith(BOM):
        return _bom("the installer takes it for a part of the first command")
    return _dos("the installer's scripts would fail") if "\r" in text else None


def of_script(data: bytes) -> TextFault | None:
    """Return what is wrong with a script that the kernel or a shell starts."""
    first, _, rest = data.partition(b"\n")
    if data.startswith(BOM.encode()):
        return _bom("the kernel would not see the #! behind it")
    if b"\0" in data[:4096]:
        return None
    if first.endswith(b"\r") and first.startswith(b"#!"):
        return _dos("the kernel would look for an interpreter whose name ends with a carriage return")
    shell = _SHELL.match(first) or not first.startswith(b"#!")
    return (
        _dos("a shell takes the carriage return for a part of each line's last word")
        if shell and (first.endswith(b"\r") or b"\r\n" in rest or rest.endswith(b"\r"))
        else None
    )
