"""The commands `builder pipelines`, `builder recipes`, `builder schema` and `builder kickstart render|adapt`.

Invariant: they change nothing but files that `recipes new` is asked to write.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from builder import console, recipe, releases
from builder.cli.options import Force, Json, Media, Pipeline, Release, Sets, parse_release, parse_set_options
from builder.cli.output import display_path, emit, note, print_json
from builder.cli.state import State, search_path
from builder.errors import RecipeError
from builder.kickstart import parse
from builder.pipeline import build, kickstart_preview, new_recipe
from builder.pipeline import draft as drafting
from builder.pipeline.resolve import existing_medium
from builder.settings import Settings
from builder.stages.kickstart import not_adapted


def pipelines(as_json: Json = False) -> None:
    """List the pipelines that can be built."""
    facts = [
        {"name": name, "path": str(path), "fault": recipe.fault(path)}
        for name, path in recipe.find_all(search_path("pipelines")).items()
    ]
    rows = [[str(row["name"]), row["fault"] or "", str(display_path(Path(str(row["path"]))))] for row in facts]
    emit(facts, console.table(["NAME", "FAULT", "FILE"], rows) if rows else "no pipelines\n", as_json)


def schema(as_json: Json = False) -> None:  # noqa: ARG001 (a schema is JSON anyway)
    """Print the JSON schema of a recipe, for editors."""
    print_json(recipe.schema())


def render(ctx: typer.Context, pipeline: Pipeline, sets: Sets = None, as_json: Json = False) -> None:
    """Print a pipeline's kickstart, without its secrets."""
    settings = ctx.ensure_object(State).settings()
    chosen, settings = build.load(pipeline, parse_set_options(sets), settings)
    text = kickstart_preview.preview(chosen, settings)
    emit({"template": chosen.kickstart.entry, "text": text}, text, as_json)


def adapt(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A kickstart of your own.")],
    networked: Annotated[bool, typer.Option("--network", help="As for a recipe with install.network.")] = False,
    release: Release = releases.DEFAULT,
    as_json: Json = False,
) -> None:
    """Print a kickstart of your own as builder would adapt it.

    The changes go to standard error, each with its line and reason.
    """
    chosen = parse_release(release)
    settings = ctx.ensure_object(State).settings()
    if file.name.endswith(".j2"):
        raise RecipeError(f"{file} is a template", hint="builder kickstart render PIPELINE shows what becomes of it")
    text = parse.load(file)
    files = drafting.included(parse.read(text.replace("\r", "")), file)
    made = kickstart_preview.adapt_text(text, settings.templates, files, networked=networked)
    if made.refused:
        raise not_adapted(str(file), made)
    unmet = kickstart_preview.unmet(made, files, networked=networked, release=chosen)
    facts = {
        "text": made.text,
        "changes": [asdict(change) for change in made.changes],
        "unmet": [{"line": finding.line, "message": finding.message} for finding in unmet],
    }
    if not as_json:
        for change in made.changes:
            was = f"{change.was!r} becomes " if change.was else "added "
            note(f"{file}:{change.line}: {was}{change.now!r}: {change.reason}")
        for finding in unmet:
            note(f"{file}:{finding.line or 0}: a run would be refused: {finding.message}")
    emit(facts, made.text, as_json)


def new(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the recipe and of its image.")],
    file: Annotated[
        Path | None, typer.Option("--kickstart", metavar="FILE", help="A kickstart of your own; it is copied.")
    ] = None,
    release: Annotated[
        str | None, typer.Option("--release", metavar="NAME", help="The ISO's release: el7, el8, el9, el10 or fedora.")
    ] = None,
    like: Annotated[
        str | None, typer.Option("--like", metavar="RECIPE", help="A recipe of which all but the medium is taken.")
    ] = None,
    media: Media = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a recipe for an ISO, or for a kickstart of your own.

    It goes into ./pipelines, the copy of the kickstart into ./kickstarts. With --release (a minimal installation) or
    --like (one as in that recipe) and --media it names the ISO's sha256: the checksum that the vendor implanted has to
    hold, and the packages of the kickstart have to be on it.
    """
    settings = ctx.ensure_object(State).settings()
    if sum(option is not None for option in (file, release, like)) != 1:
        hint = "write --release NAME --media FILE, --like RECIPE --media FILE, or --kickstart FILE"
        raise RecipeError("recipes new takes one of --release, --like and --kickstart", hint=hint)
    if file is None:
        _new_for_iso(name, release, like, media, settings, force, as_json)
        return
    called = f"{name}.ks.j2" if file.name.endswith(".j2") else f"{name}.ks"
    made = drafting.draft(file, name, media, settings, called=called)
    folders = search_path("pipelines")[0], search_path("kickstarts")[0]
    # What is wrong with it is better known before anything is written.
    recipe.loads(made.text, {}, label=f"{made.name}.yaml", stem=made.name)
    written = drafting.write(made, *folders, called, force=force)
    text = [f"wrote {display_path(path)}" for path in written]
    text.append(f"next: builder run {made.name}" + (f" --media {media}" if media else ""))
    emit({"name": made.name, "files": [str(path) for path in written]}, text, as_json)


def _new_for_iso(
    name: str, release: str | None, like: str | None, media: str | None, settings: Settings, force: bool, as_json: bool
) -> None:
    chosen = recipe.load(like, {}, settings.recipes).facts if like is not None else parse_release(release or "")
    if media is None:
        option = f"--like {like}" if like is not None else f"--release {chosen.name}"
        raise RecipeError(f"{option} needs the vendor's ISO", hint="add --media FILE")
    made = new_recipe.write(name, chosen, existing_medium(Path(media), settings), settings, like=like, force=force)
    text = [f"recipe   {made.path}", f"sha256   {made.sha256}", f"use      builder run {name} --media {media}"]
    emit({"name": name, "path": str(made.path), "sha256": made.sha256}, text, as_json)
