"""The commands `builder pipelines`, `builder recipes`, `builder schema` and `builder kickstart`.

Invariant: they change nothing but the recipe that `recipes new` writes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from builder import console, recipe, releases
from builder.cli.options import Force, Json, Pipeline, Release, Sets, parse_release, parse_set_options
from builder.cli.output import display_path, emit, print_json
from builder.cli.state import State, search_path
from builder.errors import RecipeError
from builder.kickstart import render as kickstart
from builder.pipeline import kickstart_preview, new_recipe


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
    chosen = recipe.load(pipeline, parse_set_options(sets), settings.recipes)
    text = kickstart_preview.preview(chosen, settings)
    emit({"template": chosen.kickstart.template, "text": text}, text, as_json)


def lint(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A rendered kickstart.")],
    release: Release = releases.DEFAULT,
    as_json: Json = False,
) -> None:
    """Check the syntax of a kickstart; errors exit 2."""
    chosen = parse_release(release)
    findings = kickstart.lint(kickstart.load(file), chosen)
    facts = [{"line": finding.line, "severity": finding.severity, "message": finding.message} for finding in findings]
    text = [f"{file}:{finding.line or 0}: {finding.severity}: {finding.message}" for finding in findings]
    emit(facts, text, as_json)
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(RecipeError.exit_code)


def new(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new pipeline and of its image.")],
    release: Release,
    media: Annotated[Path, typer.Option("--media", metavar="FILE", help="The vendor's ISO.")],
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a recipe for an ISO that is at hand, with its sha256.

    The checksum that the vendor implanted in the ISO has to hold, and the packages of the kickstart have to be on it.
    """
    made = new_recipe.write(name, parse_release(release), media, ctx.ensure_object(State).settings(), force=force)
    text = [f"recipe   {made.path}", f"sha256   {made.sha256}", f"use      builder run {name} --media {media}"]
    emit({"name": name, "path": str(made.path), "sha256": made.sha256}, text, as_json)
