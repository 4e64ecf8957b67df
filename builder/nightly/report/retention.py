"""Remove old reports of nightly runs."""

from __future__ import annotations

from pathlib import Path

from builder.nightly.record import load_runs
from builder.store.objects import remove


def prune(reports: Path, keep: int) -> list[str]:
    """Remove all reports but the newest ones; returns the names of those that were removed.

    Args:
        keep: how many stay; at least one does. Folders without a readable record stay, too.
    """
    removed = [run.date for run in load_runs(reports)[: -max(1, keep)]]
    for name in removed:
        remove(reports / name)
    return removed
