"""The base of every section of a recipe, and the error that names several faults of one."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict

# Places relative to a section, and what is wrong there.
Fault = tuple[tuple[tuple[str | int, ...], ...], str]


class SectionError(ValueError):
    """Several faults of one section: places relative to it, and what is wrong there.

    The first place is where the fault is reported, unless a later one was given by `--set`.
    """

    def __init__(self, items: Iterable[Fault]) -> None:
        self.items = tuple(items)
        super().__init__("; ".join(text for _, text in self.items))


class Section(BaseModel):
    """Base of every part of a recipe: frozen, nothing unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid")
