"""The one rule: what runs left behind is shown or removed here; a published image is never touched."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from builder.cli.output import document, lines, write
from builder.cli.state import Json, State, short

if TYPE_CHECKING:
    from builder.store.runs import RunRecord
    from builder.store.store import Store

DAY = 86400.0

runs = typer.Typer(help="Runs, their records and evidence.", rich_markup_mode=None, no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    runs.command("list")(list_)
    runs.command("show")(show)
    app.add_typer(runs, name="runs")
    app.command("gc")(gc)


def list_(ctx: typer.Context, as_json: Json = False) -> None:
    """List the runs on record, the newest first."""
    from builder import console
    from builder.store.runs import list_runs

    found = list_runs(ctx.ensure_object(State).settings().runs)
    if as_json:
        document([record.model_dump(mode="json") for record in found])
    elif not found:
        lines(["no runs"])
    else:
        rows = [[record.id, record.outcome, record.pipeline, _brief(record)] for record in found]
        write(console.table(["RUN", "OUTCOME", "PIPELINE", "WHY"], rows))


def show(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="Id of a run, or the beginning of one.")],
    as_json: Json = False,
) -> None:
    """Show one run: stages, verdict, evidence."""
    from builder import console
    from builder.store.runs import load_run

    folder = ctx.ensure_object(State).settings().runs
    record = load_run(folder, run)
    files = sorted(path for path in (folder / record.id).rglob("*") if path.is_file())
    if as_json:
        document({**record.model_dump(mode="json"), "evidence": [str(path) for path in files]})
        return
    lines(
        [
            f"run      {record.id}",
            f"image    {record.pipeline}",
            f"outcome  {record.outcome}",
            f"started  {_moment(record.started)}",
            f"ended    {_moment(record.ended) if record.ended else '-'}",
            f"command  {' '.join(record.argv)}",
            "",
        ]
    )
    rows = [[step.stage, step.action, console.time_text(step.seconds), step.reason] for step in record.steps]
    if rows:
        write(console.table(["STAGE", "ACTION", "TOOK", "WHY"], rows, right=(2,)) + "\n")
    if record.verdict:
        lines([*_verdict_lines(record.verdict), ""])
    rows = [[console.size_text(path.stat().st_size), str(short(path))] for path in files]
    write(console.table(["SIZE", "EVIDENCE"], rows, right=(0,)))


def gc(
    ctx: typer.Context,
    older_than: Annotated[
        float, typer.Option("--older-than", metavar="DAYS", min=0, help="Remove what was not used for so long.")
    ] = 30,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    as_json: Json = False,
) -> None:
    """Remove old intermediate results and torn pulls; never an image."""
    from builder import console
    from builder.registry import staging
    from builder.store import gc as cleaning
    from builder.store.store import Store

    settings = ctx.ensure_object(State).settings()
    store = Store(settings.store)
    freed = staging.forget(settings.images, older_than * DAY, dry_run=dry_run)
    if store.root.is_dir():
        freed += _would_free(store, older_than * DAY) if dry_run else cleaning.gc(store, (), older_than * DAY)
    if as_json:
        document({"dry_run": dry_run, "bytes": freed})
    else:
        lines([f"{console.size_text(freed)} {'would be freed' if dry_run else 'freed'}"])


def _would_free(store: Store, older_than: float) -> int:
    """Bytes of the finished objects that `gc` would remove; a file with names elsewhere gives nothing back."""
    from builder.store.runs import claimed

    limit = time.time() - older_than
    spared = claimed(store)
    old = [path for path in store.objects.iterdir() if path.name not in spared and path.stat().st_mtime < limit]
    files = [path.lstat() for folder in old for path in folder.rglob("*")]
    return sum(facts.st_blocks * 512 for facts in files if facts.st_nlink == 1)


def _brief(record: RunRecord) -> str:
    return str(record.verdict["brief"]) if record.verdict else ""


def _verdict_lines(verdict: dict[str, Any]) -> list[str]:
    from builder import console
    from builder.errors import BuilderError

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    error = BuilderError(str(verdict["brief"]), str(verdict["details"]), str(verdict["hint"]))
    return console.error_lines(error, colour=False, width=width)


def _moment(text: str) -> str:
    return text.replace("T", " ").replace("+00:00", " UTC")
