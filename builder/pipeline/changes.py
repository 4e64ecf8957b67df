"""Summarise what differs between two dumps of a stage's inputs, showing no values except names in a list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from builder.stage import canonical

MOST = 4


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return what differs between two dumps of inputs: `vars.hostname changed`, `+packages.tree`, `-vars.proxy`.

    Items of a list of plain values are named one by one, keys of a mapping too; a long list of differences is cut.
    """
    found = list(_compare("", old, new))
    return found if len(found) <= MOST else [*found[: MOST - 1], f"{len(found) - MOST + 1} more changes"]


def _compare(path: str, old: Any, new: Any) -> list[str]:
    # As JSON, as in the digest: to Python, 1 equals True.
    if canonical(old) == canonical(new):
        return []
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        below = []
        for key in sorted(old.keys() | new.keys()):
            name = f"{path}.{key}" if path else str(key)
            if key not in old:
                below.append(f"+{name}")
            elif key not in new:
                below.append(f"-{name}")
            else:
                below += _compare(name, old[key], new[key])
        return below
    if _is_names(old) and _is_names(new):
        added = [f"+{path}.{item}" for item in new if item not in old]
        gone = [f"-{path}.{item}" for item in old if item not in new]
        return added + gone or [f"{path} changed its order"]
    return [f"{path} changed"]


def _is_names(value: Any) -> bool:
    """A list of short words, each of which fits into a line."""
    return isinstance(value, (list, tuple)) and all(isinstance(item, str) and _is_word(item) for item in value)


def _is_word(text: str) -> bool:
    return 0 < len(text) <= 40 and text.isprintable() and " " not in text
