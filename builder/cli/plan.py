"""The command `builder plan`, and what it shares with `builder run`.

Invariant: `plan` shows what `run` would do, for both plan in the same way.
"""

from __future__ import annotations

from pathlib import Path

import typer

from builder import console
from builder.cli.options import (
    ImageName,
    Json,
    MaybePipeline,
    Media,
    OwnFile,
    PasswordFile,
    Rebuild,
    Sets,
    parse_set_options,
)
from builder.cli.output import emit
from builder.cli.state import State
from builder.errors import RecipeError
from builder.pipeline import build
from builder.pipeline.draft import RecipeDraft, draft
from builder.settings import Settings


def plan(
    ctx: typer.Context,
    pipeline: MaybePipeline = None,
    media: Media = None,
    kickstart: OwnFile = None,
    name: ImageName = None,
    sets: Sets = None,
    rebuild: Rebuild = None,
    root_password_file: PasswordFile = None,
    as_json: Json = False,
) -> None:
    """Show what a run would do, and why; change nothing."""
    settings = ctx.ensure_object(State).settings(root_password_file=root_password_file)
    wanted = build_target(pipeline, kickstart, name, media, settings)
    planned = build.prepare(wanted, parse_set_options(sets), media, rebuild or (), settings, peek=True).plan
    stages = console.plan_rows(planned)
    rows = [[row["stage"], row["action"], row["reason"]] for row in stages]
    emit(
        {"name": planned.name, "idle": planned.idle, "stages": stages},
        console.table(["STAGE", "ACTION", "WHY"], rows),
        as_json,
    )


def build_target(
    pipeline: str | None, kickstart: Path | None, name: str | None, media: str | None, settings: Settings
) -> str | RecipeDraft:
    """Return what is to be built: a pipeline, or a kickstart of one's own.

    Raises:
        RecipeError: neither, or both.
    """
    if kickstart is not None and pipeline is not None:
        raise RecipeError(
            f"{pipeline} and --kickstart exclude each other: a pipeline has its kickstart",
            hint=f"name the image with --name {pipeline}, or leave out --kickstart",
        )
    if kickstart is not None:
        return draft(kickstart, name, media, settings)
    if pipeline is None:
        raise RecipeError(
            "Missing argument: PIPELINE, or --kickstart FILE", hint="`builder pipelines` lists what can be built"
        )
    if name is not None:
        raise RecipeError("--name goes with --kickstart: an image of a pipeline has the pipeline's name")
    return pipeline
