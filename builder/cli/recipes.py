"""The one rule: looking at recipes and kickstarts changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from builder.cli.options import Json, Pipeline, Sets, parse_set_options
from builder.cli.output import display_path, print_json, print_lines, write
from builder.cli.state import State, search_path
from builder.errors import RecipeError


def pipelines(as_json: Json = False) -> None:
    """List the pipelines that can be built."""
    from builder import console, recipe

    rows: list[dict[str, str | None]] = []
    for name, path in recipe.find_all(search_path("pipelines")).items():
        fault = None
        try:
            recipe.load(str(path), {}, ())
        except RecipeError as error:
            fault = error.brief
        rows.append({"name": name, "path": str(path), "fault": fault})
    if as_json:
        print_json(rows)
    elif rows:
        cells = [[str(row["name"]), row["fault"] or "", str(display_path(Path(str(row["path"]))))] for row in rows]
        write(console.table(["NAME", "FAULT", "FILE"], cells))
    else:
        print_lines(["no pipelines"])


def schema(as_json: Json = False) -> None:  # noqa: ARG001 (a schema is JSON anyway)
    """Print the JSON schema of a recipe, for editors."""
    from builder import recipe

    print_json(recipe.schema())


def render(ctx: typer.Context, pipeline: Pipeline, sets: Sets = None, as_json: Json = False) -> None:
    """Print a pipeline's kickstart, without its secrets."""
    from builder import recipe
    from builder.kickstart import render as adapter
    from builder.stages import kickstart as answers

    settings = ctx.ensure_object(State).settings()
    chosen = recipe.load(pipeline, parse_set_options(sets), settings.recipes).kickstart
    texts = adapter.collect(chosen.template, settings.templates)
    adapter.check_variables(texts, chosen.vars)
    given = answers.AnswersInputs(
        template=chosen.template,
        templates=texts,
        vars=dict(chosen.vars),
        disk_serial=answers.DISK_SERIAL,
        password_mac="",
    )
    # The hash is a secret, and the token is a digest that only a plan has.
    text = answers.render(given, root_crypt="********", token="0" * 64)
    if as_json:
        print_json({"template": chosen.template, "text": text})
    else:
        write(text)


def lint(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A rendered kickstart.")], as_json: Json = False
) -> None:
    """Check the syntax of a kickstart; errors exit 2."""
    from builder.kickstart import render as adapter

    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise RecipeError(f"cannot read {file}", str(reason)) from None
    findings = adapter.lint(text)
    if as_json:
        print_json([{"line": found.line, "severity": found.severity, "message": found.message} for found in findings])
    else:
        print_lines(f"{file}:{found.line or 0}: {found.severity}: {found.message}" for found in findings)
    if any(found.severity == "error" for found in findings):
        raise typer.Exit(RecipeError.exit_code)
