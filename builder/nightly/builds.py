"""The builds of a nightly run: one for each pipeline, or for each combination of its `matrix`.

Invariant: all of them are known, named and checked before the first one starts. A faulty recipe is the failure of
its own build only.
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

# Strings that YAML reads as themselves without quotes.
_PLAIN = re.compile(r"(?!(?i:true|false|null|yes|no|on|off)$)[A-Za-z][A-Za-z_./+-]*")


@dataclass(frozen=True)
class ImageBuild:
    """One image to build.

    Args:
        name: name of the image in the catalogue.
        pipeline: name of the recipe, or path of its file.
        sets: keys and values for `--set`.
        recipe: the recipe as it will be built; None when it is faulty.
        fault: why it is faulty.
        rehearsal: build from a rehearsal medium.
    """

    name: str
    pipeline: str
    sets: tuple[tuple[str, str], ...] = ()
    recipe: Recipe | None = None
    fault: RecipeError | None = None
    rehearsal: bool = False


def find_builds(
    pipelines: Sequence[str], search: tuple[Path, ...], *, rehearsal: bool = False
) -> tuple[ImageBuild, ...]:
    """Return all builds of the pipelines, in order.

    Args:
        pipelines: names or recipe files; without any, all in the first folder that has recipes, so that packaged
            recipes are not built beside one's own. Of those, recipes that name no medium's sha256 are left out.
        rehearsal: build from rehearsal media; such images have their own names in the catalogue.

    Raises:
        RecipeError: a named pipeline does not exist, there is none at all, or two builds have the same name.
    """
    known = recipe.find_all(search)
    own = next((names for folder in search if (names := recipe.find_all((folder,)))), {})
    builds: list[ImageBuild] = []
    for pipeline in pipelines or own:
        exists = pipeline in known or Path(pipeline).is_file()
        try:
            builds += _combinations(pipeline, search)
        except RecipeError as fault:
            if not exists:
                raise
            builds.append(ImageBuild(Path(pipeline).stem, pipeline, fault=fault))
    if not pipelines:
        builds = [build for build in builds if build.recipe is None or build.recipe.has_medium]
    if rehearsal:
        builds = [replace(build, name=build.name + REHEARSAL, rehearsal=True) for build in builds]
    image_names = [build.name for build in builds]
    duplicate = next((name for name in sorted(image_names) if image_names.count(name) > 1), None)
    if duplicate is not None:
        sources = ", ".join(dict.fromkeys(build.pipeline for build in builds if build.name == duplicate))
        raise RecipeError(f"two builds are named {duplicate}", f"both come from {sources}")
    if not builds:
        raise RecipeError("there is no pipeline to build", "\n".join(f"searched: {folder}" for folder in search))
    return tuple(builds)


def _combinations(pipeline: str, search: tuple[Path, ...]) -> list[ImageBuild]:
    """Return the recipe itself, or each combination of its matrix's values.

    A combination is named after those of its values that differ from the recipe's own: the plain one keeps its name.
    """
    base = recipe.load(pipeline, {}, search)
    own = base.model_dump(mode="json")
    builds = []
    for values in itertools.product(*base.matrix.values()):
        chosen = dict(zip(base.matrix, values, strict=True))
        changed = {key: value for key, value in chosen.items() if _value(own, key) != value}
        sets = {key: _yaml(value) for key, value in changed.items()}
        if changed:
            parts = ([base.variant] if base.variant else []) + [_name_part(value) for value in changed.values()]
            sets["variant"] = _yaml("-".join(parts))
        name = f"{base.name}-{'-'.join(parts)}" if changed else base.image
        try:
            loaded = recipe.load(pipeline, sets, search)
        except RecipeError as fault:
            builds.append(ImageBuild(name, pipeline, tuple(sets.items()), fault=fault))
        else:
            builds.append(ImageBuild(loaded.image, pipeline, tuple(sets.items()), loaded))
    return builds


def _value(data: object, key: str) -> object:
    for part in key.split("."):
        data = data.get(part) if isinstance(data, dict) else None
    return data


def _yaml(value: bool | int | str) -> str:
    """Write a value so that `--set` reads it back."""
    return value if isinstance(value, str) and _PLAIN.fullmatch(value) else json.dumps(value, ensure_ascii=False)


def _name_part(value: bool | int | str) -> str:
    """Write a value as part of a name."""
    return re.sub(r"[^a-z0-9._]+", "-", str(value).lower()).strip("-._") or "x"
