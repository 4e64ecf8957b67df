# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""Look up what this installer does with a command of a kickstart, in the table that builder reads before it starts it.

The table is `rehearsed.json`: what is carried out, what is refused, and what is accepted and left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Rule:
    """One row of the table.

    Args:
        names: of commands, or of sections with their %.
        words: it is about a line with one of these, whole or up to the `=`; any line when there are none.
        unless: and with none of these.
        said: what is not done, and instead of what.
    """

    names: tuple[str, ...]
    said: str
    words: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()

    def meets(self, name: str, words: Sequence[str]) -> bool:
        """Is it about this line?"""
        spoken = {*words, *(word.partition("=")[0] for word in words)}
        return name in self.names and not spoken & set(self.unless) and (not self.words or bool(spoken & {*self.words}))


def _rules(rows: list[dict[str, Any]]) -> tuple[Rule, ...]:
    made = []
    for row in rows:
        words, unless = tuple(row.get("words", ())), tuple(row.get("unless", ()))
        made.append(Rule(tuple(row["names"]), row["said"], words, unless))
    return tuple(made)


_TABLE = json.loads((Path(__file__).parents[1] / "rehearsed.json").read_text())
CARRIED_OUT = frozenset(_TABLE["carried_out"])
REFUSED = _rules(_TABLE["refused"])
LEFT_OUT = _rules(_TABLE["left_out"])


def refused(name: str, words: Sequence[str]) -> str | None:
    """Return why the line is refused, None when it is not."""
    found = next((rule.said for rule in REFUSED if rule.meets(name, words)), None)
    return found or (None if name in CARRIED_OUT else "it does not know how")


def left_out(name: str, words: Sequence[str]) -> list[str]:
    """List what the line asks for and does not get, for the log."""
    return [f"{rule.names[0]}: {rule.said}" for rule in LEFT_OUT if rule.meets(name, words)]
