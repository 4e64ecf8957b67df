"""The commands `builder runs` and `builder gc`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from builder import console, images
from builder.cli.options import DryRun, Force, Json
from builder.cli.output import display_path, emit, note
from builder.cli.state import State
from builder.clones import warm
from builder.errors import BuilderError, RecipeError
from builder.pipeline import run_pack
from builder.registry import staging
from builder.settings import Settings
from builder.store import gc as store_gc
from builder.store.runs import RunRecord, list_runs, load_run, unreadable
from builder.store.store import Store
from builder.system.plain_file import entries_below

DAY = 86400.0


def list_(ctx: typer.Context, as_json: Json = False) -> None:
    """List the runs on record, the newest first."""
    folder = ctx.ensure_object(State).settings().runs
    records = list_runs(folder)
    for path in unreadable(folder):
        note(f"not listed: {display_path(path)} cannot be read")
    rows = [[record.id, record.outcome, record.pipeline, _brief(record)] for record in records]
    text = console.table(["RUN", "OUTCOME", "PIPELINE", "WHY"], rows) if rows else ["no runs"]
    emit([record.model_dump(mode="json") for record in records], text, as_json)


def show(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="Id of a run, or the beginning of one.")],
    as_json: Json = False,
) -> None:
    """Show one run: stages, verdict, evidence."""
    folder = ctx.ensure_object(State).settings().runs
    record = load_run(folder, run)
    files = {path: facts.st_size for path, facts in sorted(entries_below(folder / record.id))}
    text = [
        f"run      {record.id}",
        f"image    {record.pipeline}",
        f"outcome  {record.outcome}",
        f"started  {_moment(record.started)}",
        f"ended    {_moment(record.ended) if record.ended else '-'}",
        f"command  {' '.join(record.argv)}",
        "",
    ]
    steps = [[step.stage, step.action, console.time_text(step.seconds), step.reason] for step in record.steps]
    if steps:
        text.append(console.table(["STAGE", "ACTION", "TOOK", "WHY"], steps, right=(2,)))
    if record.verdict:
        text += [*_verdict_lines(record.verdict), ""]
    evidence = [[console.size_text(size), str(display_path(path))] for path, size in files.items()]
    text.append(console.table(["SIZE", "EVIDENCE"], evidence, right=(0,)).removesuffix("\n"))
    emit({**record.model_dump(mode="json"), "evidence": [str(path) for path in files]}, text, as_json)


def pack(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="Id of a run, or the beginning of one.")],
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="Write it here (default: RUN.tar.gz).")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Pack a run's record and evidence to be sent, without secrets."""
    settings = ctx.ensure_object(State).settings()
    target = output or Path(f"{load_run(settings.runs, run).id}.tar.gz")
    if target.is_dir() or (target.exists() and not force):
        raise RecipeError(f"--output {target} exists already", hint="give another name, or --force")
    run_id, files = run_pack.pack(settings, run, target)
    rows = [[console.size_text(size), name] for name, size in files.items()]
    text = [console.table(["SIZE", "FILE"], rows, right=(0,)).removesuffix("\n"), f"packed   {display_path(target)}"]
    note("passwords and keys are masked; names, addresses and what programs printed are not: look before you send it")
    emit({"run": run_id, "archive": str(target), "files": files}, text, as_json)


def gc(
    ctx: typer.Context,
    older_than: Annotated[
        float, typer.Option("--older-than", metavar="DAYS", min=0, help="Remove what was not used for this long.")
    ] = 30,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Remove old results, downloads and pulls; never an image."""
    settings = ctx.ensure_object(State).settings()
    age = older_than * DAY
    freed = staging.delete_stale(settings.images, age, dry_run=dry_run)
    freed += images.delete_torn(settings.images, age, dry_run=dry_run)
    freed += store_gc.delete_torn(_written_to(settings), age, dry_run=dry_run)
    freed += store_gc.delete_torn([settings.artifacts / "reports"], age, pattern=".new-*", dry_run=dry_run)
    store = Store(settings.store)
    freed += store_gc.gc(store, age, useless=warm.orphans(store), dry_run=dry_run)
    text = f"{console.size_text(freed)} {'would be freed' if dry_run else 'freed'}"
    emit({"dry_run": dry_run, "bytes": freed}, [text], as_json)


def _written_to(settings: Settings) -> list[Path]:
    """Folders in which a killed process may have left an incomplete file, besides those of store and catalogue."""
    parents = (settings.vms, settings.runs, settings.artifacts / "reports")
    return [settings.artifacts / ".cache", *parents, *(path for parent in parents for path in parent.glob("*/"))]


def _brief(record: RunRecord) -> str:
    return str(record.verdict.get("brief", "")) if record.verdict else ""


def _verdict_lines(verdict: dict[str, Any]) -> list[str]:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    error = BuilderError(*(str(verdict.get(name, "")) for name in ("brief", "details", "hint")))
    return console.error_lines(error, colour=False, width=width)


def _moment(text: str) -> str:
    return text.replace("T", " ").replace("+00:00", " UTC")
