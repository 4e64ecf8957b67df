"""Undo all that `host prepare` did, an interrupted change of the network included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from builder.host import undo
from builder.host.journal import Journal
from builder.host.network import apply

PENDING = "put the network back, whose change was interrupted"


@dataclass(frozen=True)
class Left:
    """Changes that could not be undone.

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
    journal = Journal()
    entries = [entry for entry in reversed(journal.entries()) if packages or entry["kind"] != "packages"]
    return [*([PENDING] if apply.pending() else []), *map(undo.title, entries), *journal.unreadable()]


def restore_pending(note: Callable[[str], None]) -> list[str]:
    """Put back an interrupted change of the network; needs nothing of the journal.

    Args:
        note: called with a line of text before it is done.

    Returns:
        What was done, a line each.

    Raises:
        HostError: it cannot be put back.
    """
    if not apply.pending():
        return []
    with Journal().locked():
        note(PENDING)
        apply.roll_back_pending()
    return [PENDING]


def restore(note: Callable[[str], None], *, packages: bool) -> Left:
    """Undo everything that is in the journal, the last change first.

    Args:
        note: called with a line of text before each step.
        packages: also remove the packages that were installed.
    """
    journal = Journal()
    with journal.locked():
        left = undo.restore(journal, packages, note)
    names = [name for entry in left if entry["kind"] == "packages" for name in entry.get("names", ())]
    return Left(tuple(names), tuple(undo.title(entry) for entry in left if entry["kind"] != "packages"))
