"""Say what a rehearsal does not do with a kickstart, before it starts: from the table that its installer goes by.

Invariant: the installer goes by the same table (`rehearsal/rehearsed.json`). It may stop at more: lines of files that
only it sees (`%include`), and kinds of file systems that it does not make.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, Field

from builder import rehearsal
from builder.errors import Cause, RecipeError, Source
from builder.kickstart import parse
from builder.kickstart.el7_rules import LintFinding


class _Rule(BaseModel):
    """One row: which lines it is about, and what is said of them."""

    names: tuple[str, ...]
    said: str
    words: frozenset[str] = frozenset()
    unless: frozenset[str] = frozenset()

    def meets(self, name: str, words: Sequence[str]) -> bool:
        """Return whether it is about this line."""
        spoken = {*words, *(word.partition("=")[0] for word in words)}
        return name in self.names and not spoken & self.unless and (not self.words or bool(spoken & self.words))


class _Table(BaseModel):
    """The table of commands: carried out, refused, left out."""

    carried_out: frozenset[str] = Field(min_length=1)
    refused: tuple[_Rule, ...]
    left_out: tuple[_Rule, ...]


@functools.cache
def _table() -> _Table:
    return _Table.model_validate(json.loads(Path(rehearsal.__file__).with_name("rehearsed.json").read_text()))


def refused(text: str) -> list[LintFinding]:
    """Return the lines at which the rehearsal's installer would stop although the real one goes on."""
    found = []
    for line, name, words in _lines(text):
        said = next((rule.said for rule in _table().refused if rule.meets(name, words)), None)
        if said is not None:
            found.append(LintFinding(line, "error", f"the rehearsal cannot carry out {name}: {said}"))
    return found


def require(text: str) -> None:
    """Make sure that the rehearsal's installer stops at no line which the real one carries out.

    Raises:
        RecipeError: naming each line.
    """
    found = refused(text)
    if found:
        raise RecipeError(
            f"kickstart: {found[0]}",
            "\n".join(str(one) for one in found) if len(found) > 1 else "",
            "give the vendor's medium: --media FILE.iso",
            cause=Cause.KICKSTART_ERROR,
            source=Source.KICKSTART,
        )


def left_out(text: str) -> list[str]:
    """Return what the kickstart asks for and does not get in a rehearsal."""
    lines, rules = list(_lines(text)), _table().left_out
    met = [rule for _, name, words in lines for rule in rules if rule.meets(name, words)]
    return list(dict.fromkeys(f"{rule.names[0]}: {rule.said}" for rule in met))


def _lines(text: str) -> Iterator[tuple[int, str, Sequence[str]]]:
    """Commands and the heads of sections: line, name, words."""
    for command in parse.read(text).commands:
        yield command.line, command.name, command.words
    for script in parse.scripts(text):
        yield script.line, script.kind, script.words[1:]
