"""Makes a recipe for somebody's own kickstart: for one run, or as a file to keep."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builder import recipe
from builder.errors import RecipeError
from builder.kickstart import parse, preflight
from builder.pipeline.resolve import ASKED, existing_medium
from builder.recipe import IsoSource
from builder.recipe.types import GIB, MIB, NAME, TEMPLATE
from builder.settings import Settings
from builder.store.store import Store

# Its media are taken where none is named.
SHIPPED = "centos7-minimal"
SMALLEST = 8 * GIB
# What a file system and its journal take besides.
SPARE = 1 * GIB


@dataclass(frozen=True)
class RecipeDraft:
    """A recipe as text, and the kickstart that it is for.

    Args:
        files: names of files beside the kickstart that it includes.
    """

    name: str
    text: str
    kickstart: Path
    files: tuple[str, ...]


def draft(
    kickstart: Path, name: str | None, media: str | None, settings: Settings, *, called: str | None = None
) -> RecipeDraft:
    """Write a recipe for a kickstart.

    Args:
        name: of the image; by default that of the kickstart.
        media: path of an ISO, `rehearsal`, or None for CentOS 7 Minimal.
        called: name that the recipe uses for the kickstart, where it is copied; by default its own.

    Raises:
        RecipeError: the kickstart cannot be read, or the name cannot be used.
        MediumError: the medium cannot be read.
    """
    text = parse.load(kickstart)
    chosen = name or re.sub(r"[^a-z0-9._-]+", "-", _stem(kickstart).lower()).strip("-._")
    if not re.fullmatch(NAME, chosen):
        hint = "use --name with a-z, 0-9, '.', '_', '-', at most 63, a letter or digit first"
        raise RecipeError(f"{chosen!r} cannot be the name of an image", hint=hint)
    # Where it really is: the files beside it are looked for there.
    kickstart = kickstart.resolve()
    given = parse.read(text.replace("\r", ""))
    files = included(given, kickstart)
    disk = max(SMALLEST, -(-(preflight.least_disk(given) * MIB + SPARE) // GIB) * GIB)
    lines = [f"name: {chosen}", "", "media:", "  sources:"]
    for source in _sources(media, settings):
        lines.append(f"    - sha256: {source.sha256}")
        lines += ["      urls:"] if source.urls else []
        lines += [f"        - {url}" for url in source.urls]
    lines += ["", "kickstart:", f"  file: {json.dumps(called or kickstart.name)}"]
    lines += [f"  files: {json.dumps(list(files))}"] if files else []
    lines += ["", f"disk: {{size: {disk // GIB}GiB}}"]
    return RecipeDraft(chosen, "\n".join(lines) + "\n", kickstart, files)


def write(made: RecipeDraft, recipes: Path, kickstarts: Path, called: str, *, force: bool) -> list[Path]:
    """Write the recipe and copy its kickstart, and return the new files.

    Args:
        called: name of the copy of the kickstart.
        force: replace what is there.

    Raises:
        RecipeError: one of the files is there already.
    """
    target = recipes / f"{made.name}.yaml"
    sources = {kickstarts / called: made.kickstart}
    sources |= {kickstarts / name: made.kickstart.absolute().parent / name for name in made.files}
    copies = {copy: source for copy, source in sources.items() if not (copy.exists() and copy.samefile(source))}
    there = [path for path in (target, *copies) if path.exists()]
    if there and not force:
        raise RecipeError(f"{there[0]} exists", hint="give another name, or --force to replace it")
    for folder in (recipes, kickstarts):
        folder.mkdir(parents=True, exist_ok=True)
    for copy, source in copies.items():
        content = source.read_bytes()
        copy.unlink(missing_ok=True)
        # It may hold passwords: nobody gets to read it who could not read the original.
        copy.touch(mode=source.stat().st_mode & 0o777)
        copy.write_bytes(content)
    target.write_text(f"# Made by `builder recipes new`.\n{made.text}", encoding="utf-8")
    return [target, *copies]


def _stem(kickstart: Path) -> str:
    return kickstart.name.removesuffix(".j2").rpartition(".")[0] or kickstart.name


def included(given: parse.Kickstart, kickstart: Path) -> tuple[str, ...]:
    """Return the names of the files beside a kickstart that it includes."""
    names = [Path(command.words[0]).name for command in given.all("%include", "%ksappend") if command.words]
    there = [name for name in names if (kickstart.absolute().parent / name).is_file()]
    return tuple(dict.fromkeys(name for name in there if re.fullmatch(TEMPLATE, name)))


def _sources(media: str | None, settings: Settings) -> Sequence[IsoSource]:
    """The ISO that was given, with its mirrors where they are known; else the media of the shipped recipe."""
    shipped = recipe.load(SHIPPED, {}, settings.recipes).media.sources
    if media in (None, ASKED):
        return shipped
    sha256 = Store(settings.store).sha256_of(existing_medium(Path(media or ""), settings))
    return [source for source in shipped if source.sha256 == sha256] or [IsoSource(sha256=sha256)]
