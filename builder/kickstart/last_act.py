"""The closing script of an adapted kickstart, made of the parts that the shipped templates use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from builder.kickstart import render

TEMPLATE = "snippets/last-act.ks.j2"


def collect(search: Sequence[Path]) -> dict[str, str]:
    """Return the texts of the script and its parts, by name.

    Raises:
        RecipeError: one of them is in no folder.
    """
    return render.collect(TEMPLATE, search)


def maker(texts: Mapping[str, str], token: str) -> Callable[[Sequence[str]], str]:
    """Return what makes the script of the names of its parts; `token` is what it reports when it came to its end."""

    def make(parts: Sequence[str]) -> str:
        return render.render(texts, TEMPLATE, {"parts": list(parts), "token": token})

    return make
