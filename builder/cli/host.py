"""The one rule: the host is changed by `prepare` and `restore` only, and never without saying what will be done."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from builder.cli.output import document, lines
from builder.cli.state import Json, State

if TYPE_CHECKING:
    from builder.host.row import Row

host = typer.Typer(help="This host: look at it, prepare it, put it back.", rich_markup_mode=None, no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    host.command("check")(check)
    app.add_typer(host, name="host")


def check(ctx: typer.Context, as_json: Json = False) -> None:
    """Look whether a build can run here; exit 3 if not."""
    from builder import config
    from builder.host import check as checking

    settings = ctx.ensure_object(State).settings()
    recorded = config.load().store is not None
    rows = checking.check(settings.artifacts, settings.media, recorded, settings.uri)
    failed = [row for row in rows if row.state == "fail"]
    if as_json:
        document({"ready": not failed, "rows": [row.as_dict() for row in rows]})
    else:
        lines([*checking.lines(rows), "", _verdict(rows, len(failed))])
    if failed:
        raise typer.Exit(3)


def _verdict(rows: list[Row], failed: int) -> str:
    if failed:
        return f"a build cannot run here: {', '.join(row.name for row in rows if row.state == 'fail')}"
    warned = sum(row.state == "warn" for row in rows)
    return f"a build can run here{f', with {warned} warning' + 's' * (warned > 1) if warned else ''}"
