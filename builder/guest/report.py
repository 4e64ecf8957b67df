"""The lines that a guest reports on its second serial port (ttyS1), and the only parser for them.

    BUILDER INSTALLED <digest>                    the installer came to the end of the kickstart with this digest
    BUILDER HOSTKEY <SHA256:fingerprint> <type>   an SSH host key was made; sshd is not running yet
    BUILDER ADDRESS <IPv4 address>                the guest's own static address
    BUILDER READY <instance id>                   identity is in place (`none` without a seed)
    BUILDER WARNING <text>                        something in the seed was refused, or root was not grown

They are written by `%post` of the kickstart and by `kickstarts/snippets/first-boot.sh`. A port delivers what a guest
prints, so other lines are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PREFIX = "BUILDER "
_HOST_KEY = re.compile(r"(SHA256:[A-Za-z0-9+/]{43}) \S+")


@dataclass(frozen=True)
class GuestReport:
    """What a guest has reported so far, oldest first.

    Args:
        installed: digests of the kickstarts that an installer finished.
        host_keys: fingerprints (`SHA256:…`).
        addresses: the last one counts.
        ready: ids of the instances whose identity is in place.
        text: everything that came, also what is not a report.
    """

    installed: tuple[str, ...]
    host_keys: tuple[str, ...]
    addresses: tuple[str, ...]
    ready: tuple[str, ...]
    warnings: tuple[str, ...]
    text: str


def read_report(path: Path) -> GuestReport:
    """Read what a guest has reported; nothing when the file is not there yet."""
    try:
        return parse_report(path.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        return parse_report("")


def parse_report(text: str) -> GuestReport:
    """Parse the text of a ttyS1; a last line that has not come whole yet is left out."""
    words: dict[str, list[str]] = {}
    for word, value in _reports(text):
        words.setdefault(word, []).append(value)
    return GuestReport(
        installed=tuple(words.get("INSTALLED", ())),
        host_keys=tuple(match[1] for value in words.get("HOSTKEY", ()) if (match := _HOST_KEY.fullmatch(value))),
        addresses=tuple(words.get("ADDRESS", ())),
        ready=tuple(words.get("READY", ())),
        warnings=tuple(words.get("WARNING", ())),
        text=text,
    )


def _reports(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines(keepends=True):
        if line.startswith(PREFIX) and line.endswith(("\n", "\r")):
            word, _, value = line.removeprefix(PREFIX).strip().partition(" ")
            yield word, value.strip()
