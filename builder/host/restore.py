"""Undo all that `host prepare` did, an interrupted change of the network included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from builder.host import undo
from builder.host.journal import Journal
from builder.host.network import apply


@dataclass(frozen=True)
class Left:
    """What was not undone.

    Args:
        packages: names of packages that stay, because their removal was not asked for.
        failed: what could not be undone, a line each.
    """

    packages: tuple[str, ...]
    failed: tuple[str, ...]


def titles(*, packages: bool) -> list[str]:
    """List what there is to undo, a line each, in the order in which it will be done.

    Args:
        packages: also remove the packages that were installed.
    """
    entries = [entry for entry in reversed(Journal().entries()) if packages or entry["kind"] != "packages"]
    pending = ["put the network back, whose change was interrupted"] if apply.pending() else []
    return [*pending, *map(undo.title, entries)]


def restore(note: Callable[[str], None], *, packages: bool) -> Left:
    """Undo everything, the last change first.

    Args:
        note: called with a line of text before each step.
        packages: also remove the packages that were installed.
    """
    journal = Journal()
    with journal.locked():
        if apply.pending():
            apply.put_back_pending()
        left = undo.restore(journal, packages, note)
    names = [name for entry in left for name in entry.get("names", ())]
    return Left(tuple(names), tuple(undo.title(entry) for entry in left if entry["kind"] != "packages"))
