"""The result of one check of the host: what was found, why it matters, how to fix it; `fail` means no build can run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

State = Literal["ok", "info", "warn", "fail"]


@dataclass(frozen=True)
class HostFinding:
    """One finding about the host.

    Args:
        name: what was looked at.
        state: `ok`, `info` (neither good nor bad), `warn` (works, but worse than it could), `fail` (no build runs).
        found: what there is.
        why: why it matters; shown only for what is not ok.
        fix: the command that fixes it, if one does.
    """

    name: str
    state: State
    found: str
    why: str = ""
    fix: str = ""

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return asdict(self)


def read(path: Path | str) -> str:
    """The text of a file of /proc, /sys or /etc; empty when it cannot be read (a chroot may have none of them)."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
