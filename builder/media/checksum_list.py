"""Lists of checksums as vendors publish them, in GNU and in BSD form."""

from __future__ import annotations

import re
from dataclasses import dataclass

from builder.errors import MediumError

_GNU = re.compile(r"(?P<sha256>[0-9a-fA-F]{64})[ \t]+\*?(?P<name>\S+)")
_BSD = re.compile(r"SHA256 \((?P<name>[^()]+)\) = (?P<sha256>[0-9a-fA-F]{64})")
# A comment above the line in BSD form: Rocky Linux, AlmaLinux and Fedora write it.
_SIZE = re.compile(r"# (?P<name>[^:]+): (?P<size>[0-9]{1,15}) bytes")


@dataclass(frozen=True)
class Listed:
    """Entry of one file in a checksum list; `size` in bytes, None where it has none."""

    sha256: str
    size: int | None = None

    def __str__(self) -> str:
        return f"sha256 {self.sha256}{'' if self.size is None else f', {self.size} bytes'}"


def parse(text: str) -> dict[str, Listed]:
    """The files of a list by name, sha256 as 64 small hex digits; other lines are passed over.

    Raises:
        MediumError: it names no file.
    """
    # Names are shown to people: one that a terminal would act on is none.
    lines = [line for whole in text.splitlines() if (line := whole.strip()).replace("\t", " ").isprintable()]
    sizes = {hit["name"]: int(hit["size"]) for line in lines if (hit := _SIZE.fullmatch(line))}
    found = {
        hit["name"]: Listed(hit["sha256"].lower(), sizes.get(hit["name"]))
        for line in lines
        if (hit := _GNU.fullmatch(line) or _BSD.fullmatch(line))
    }
    if not found:
        raise MediumError("the list holds no sha256 checksums")
    return found
