"""The one rule: a night's builds are known, named and checked before the first one starts.

A fault of one recipe is that build's failure, and keeps none of the others from being built.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from builder import recipe
from builder.errors import RecipeError
from builder.recipe import REHEARSAL, Recipe

# Words that YAML takes for themselves, without quotes.
_PLAIN = re.compile(r"(?!(?i:true|false|null|yes|no|on|off)$)[A-Za-z][A-Za-z_./+-]*")


@dataclass(frozen=True)
class Build:
    """One image to build in a night.

    Args:
        name: in the catalogue.
        pipeline: name of the recipe, or path of its file.
        sets: what `--set` gets, place and value.
        recipe: as it will be built; None when it has faults.
        fault: these faults.
        rehearsal: a rehearsal medium was asked for.
    """

    name: str
    pipeline: str
    sets: tuple[tuple[str, str], ...] = ()
    recipe: Recipe | None = None
    fault: RecipeError | None = None
    rehearsal: bool = False


def builds(pipelines: Sequence[str], search: tuple[Path, ...], *, rehearsal: bool = False) -> tuple[Build, ...]:
    """All builds of the pipelines, in order.

    If none is given: of all in the first folder that has any. Who keeps recipes does not want the packaged ones built.

    Args:
        rehearsal: of their rehearsals, which have names of their own in the catalogue.

    Raises:
        RecipeError: a pipeline that is named does not exist, there is none at all, or two builds have one name.
    """
    known = recipe.find_all(search)
    own = next((names for folder in search if (names := recipe.find_all((folder,)))), {})
    found: list[Build] = []
    for pipeline in pipelines or own:
        there = pipeline in known or Path(pipeline).is_file()
        try:
            found += _combinations(pipeline, search)
        except RecipeError as fault:
            if not there:
                raise
            found.append(Build(Path(pipeline).stem, pipeline, fault=fault))
    if rehearsal:
        found = [replace(build, name=build.name + REHEARSAL, rehearsal=True) for build in found]
    called = [build.name for build in found]
    twice = sorted({name for name in called if called.count(name) > 1})
    if twice:
        who = ", ".join(dict.fromkeys(build.pipeline for build in found if build.name == twice[0]))
        raise RecipeError(f"two builds of this night are named {twice[0]}", f"both come from {who}")
    if not found:
        raise RecipeError("there is no pipeline to build", "\n".join(f"searched: {folder}" for folder in search))
    return tuple(found)


def _combinations(pipeline: str, search: tuple[Path, ...]) -> list[Build]:
    """The recipe itself, or each combination of its matrix's values.

    A combination is named by those of its values that are not the recipe's own, so that the plain one keeps its name.
    """
    base = recipe.load(pipeline, {}, search)
    own = base.model_dump(mode="json")
    found = []
    for values in itertools.product(*base.matrix.values()):
        chosen = dict(zip(base.matrix, values, strict=True))
        other = {place: value for place, value in chosen.items() if _value(own, place) != value}
        sets = {place: _yaml(value) for place, value in other.items()}
        if other:
            words = ([base.variant] if base.variant else []) + [_word(value) for value in other.values()]
            sets["variant"] = _yaml("-".join(words))
        name = f"{base.name}-{'-'.join(words)}" if other else base.image
        try:
            made = recipe.load(pipeline, sets, search)
        except RecipeError as fault:
            found.append(Build(name, pipeline, tuple(sets.items()), fault=fault))
        else:
            found.append(Build(made.image, pipeline, tuple(sets.items()), made))
    return found


def _value(data: object, place: str) -> object:
    for part in place.split("."):
        data = data.get(part) if isinstance(data, dict) else None
    return data


def _yaml(value: bool | int | str) -> str:
    """A value as `--set` reads it back."""
    return value if isinstance(value, str) and _PLAIN.fullmatch(value) else json.dumps(value, ensure_ascii=False)


def _word(value: bool | int | str) -> str:
    """A value as part of a name."""
    return re.sub(r"[^a-z0-9._]+", "-", str(value).lower()).strip("-._") or "x"
