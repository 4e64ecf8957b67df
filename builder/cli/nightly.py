"""The commands `builder nightly`.

Invariant: what a nightly run does is in `builder.nightly.run`; here its options are parsed and its record is printed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from builder import console
from builder.cli.commands import parse
from builder.cli.options import (
    Accelerator,
    AllowRehearsal,
    Connect,
    Json,
    Media,
    PasswordFile,
    Push,
    RequireKvm,
    require_local_uri,
)
from builder.cli.output import display_path, emit
from builder.cli.state import State
from builder.errors import RecipeError
from builder.host import config
from builder.nightly import ENVIRONMENT, metrics, notify, timer
from builder.nightly.builds import find_builds
from builder.nightly.farm import LEASE, Tls
from builder.nightly.farm.executor import FarmExecutor
from builder.nightly.local import LocalExecutor
from builder.nightly.notify import Notifier
from builder.nightly.progress import ProgressReporter
from builder.nightly.record import NightlyRun
from builder.nightly.report import markdown, write
from builder.nightly.run import KEEP, NightlyPlan
from builder.nightly.run import run as run_nightly
from builder.nightly.scheduler import BuildExecutor
from builder.registry import transfer

FARM_LEASE = "BUILDER_FARM_LEASE"
Pipelines = Annotated[
    list[str] | None,
    typer.Argument(metavar="[PIPELINE]...", help="Names or recipe files (default: all in ./pipelines)."),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        "-j",
        min=1,
        metavar="N",
        help="Run at most N builds at a time; cores, memory and disk may allow fewer.",
    ),
]
NotifyTo = Annotated[
    list[str] | None,
    typer.Option(
        timer.NOTIFY,
        metavar="URL|FILE",
        envvar=ENVIRONMENT,
        help="Send messages about failures to this apprise address, or to those in a file; may be repeated.",
    ),
]
Metrics = Annotated[
    Path | None, typer.Option("--metrics", metavar="FILE", help="Write metrics for Prometheus' node exporter.")
]
Keep = Annotated[int, typer.Option("--keep", min=1, metavar="N", help="Keep the newest N reports.")]


def run(
    ctx: typer.Context,
    pipelines: Pipelines = None,
    media: Media = None,
    jobs: Jobs = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Build on the workers of this Dask scheduler (tls://…).")
    ] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Trust this authority for the scheduler (default: Dask's configuration)."),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Identify builder to the scheduler by this certificate.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Use this private key of the certificate.")
    ] = None,
    push: Push = None,
    allow_rehearsal: AllowRehearsal = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Start nothing more after a failure.")] = False,
    keep: Keep = KEEP,
    notify_to: NotifyTo = None,
    metrics_file: Metrics = None,
    require_kvm: RequireKvm = False,
    accel: Accelerator = "auto",
    connect: Connect = None,
    root_password_file: PasswordFile = None,
    as_json: Json = False,
) -> None:
    """Build what changed, verify the rest again, write a report."""
    reporter = ProgressReporter(as_json=as_json)
    if push is not None:
        transfer.destination(push, "any", allow_rehearsal=True)
    settings = ctx.ensure_object(State).settings(root_password_file=root_password_file)
    plan = NightlyPlan(
        artifacts=settings.artifacts,
        recipes=settings.recipes,
        pipelines=pipelines or (),
        media=media,
        accel=accel,
        connect=require_local_uri(connect),
        root_password_file=root_password_file,
        require_kvm=require_kvm,
        push=push,
        allow_rehearsal=allow_rehearsal,
        fail_fast=fail_fast,
        keep=keep,
        notifier=_notifier(ctx, notify_to, metrics_file, reporter),
        metrics=metrics_file,
    )
    executor: BuildExecutor = LocalExecutor(jobs)
    if scheduler is not None:
        executor = FarmExecutor(scheduler, Tls(tls_ca, tls_cert, tls_key), _lease())
    nightly = run_nightly(plan, executor, reporter)
    folder = plan.reports / nightly.date
    emit({**nightly.model_dump(mode="json"), "report": str(folder)}, _lines(nightly, folder), as_json)
    if nightly.exit_code:
        raise typer.Exit(nightly.exit_code)


def _lease() -> float:
    """Read from the environment after how many seconds of silence a worker counts as lost."""
    text = os.environ.get(FARM_LEASE, str(LEASE))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise RecipeError(f"{FARM_LEASE}={text}: not a number of seconds", hint=f"e.g. {FARM_LEASE}={LEASE:g}")
    return seconds


def install_timer(
    ctx: typer.Context,
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[-- WORD...]", help="Pipelines and options of each run.")
    ] = None,
    at: Annotated[
        str, typer.Option("--at", metavar="TIME", help="Start at this time, as systemd.time(7) has it.")
    ] = "02:00",
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FOLDER", help="Write here (default: where systemd looks for units).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a systemd timer that starts `builder nightly` here."""
    settings = ctx.ensure_object(State).settings()
    given = parse("nightly", "run", options or [])
    find_builds(given["pipelines"] or (), settings.recipes, rehearsal=given["media"] == "rehearsal")
    if given["push"] is not None:
        transfer.destination(given["push"], "any", allow_rehearsal=True)
    require_local_uri(given["connect"])
    installed = timer.install(settings.artifacts, options or [], at, to)
    emit(
        {"units": [str(path) for path in installed.files], "then": installed.enable},
        [*(f"written  {path}" for path in installed.files), f"then     {installed.enable}"],
        as_json,
    )


def _notifier(
    ctx: typer.Context, addresses: list[str] | None, metrics_file: Path | None, reporter: ProgressReporter
) -> Notifier:
    """Check the addresses for messages and the file for metrics before the run begins."""
    # Builds, and the scripts that they run, must not see the addresses.
    os.environ.pop(ENVIRONMENT, None)
    source = ctx.get_parameter_source("notify_to")
    visible = source is not None and source.name == "COMMANDLINE"
    notifier = notify.prepare(addresses, config.load_notify(), visible=visible)
    for warning in (*notifier.warnings, *(metrics.check(metrics_file) if metrics_file else ())):
        reporter.note(warning)
    return notifier


def _lines(nightly: NightlyRun, folder: Path) -> list[str]:
    width = max(len(result.name) for result in nightly.results)
    rows = []
    for result in nightly.results:
        why = console.clean(result.fault.brief if result.fault else result.why)
        row = f"{result.name:<{width}}  {result.verdict:<11}  {why}".rstrip()
        # The whole text is above, where the build ended, and in the report.
        rows.append(row if len(row) < 80 else f"{row[:77]} …")
    return [
        *rows,
        "",
        markdown.headline(nightly),
        f"took     {console.time_text(nightly.seconds)}",
        f"report   {display_path(folder)}/{write.PAGE}",
    ]
