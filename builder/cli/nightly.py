"""The one rule: a night ends with a report and an exit code, whatever became of its builds."""

from __future__ import annotations

import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from builder import __version__
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
from builder.cli.output import display_path, print_json, print_lines
from builder.cli.state import State
from builder.errors import HostError, Interrupted, RecipeError
from builder.nightly import ENVIRONMENT
from builder.registry import transfer

if TYPE_CHECKING:
    from builder.nightly.builds import Build
    from builder.nightly.capacity import Room
    from builder.nightly.notify import Notifier
    from builder.nightly.progress import Teller
    from builder.nightly.record import Night
    from builder.nightly.scheduler import Ended
    from builder.settings import Accel, Settings

Pipelines = Annotated[
    list[str] | None,
    typer.Argument(metavar="[PIPELINE]...", help="Names or recipe files; without any: all in ./pipelines."),
]
Jobs = Annotated[
    int | None,
    typer.Option("--jobs", "-j", min=1, metavar="N", help="Builds at a time, as cores, memory and disk allow."),
]
NOTIFY = "--notify"
Notify = Annotated[
    list[str] | None,
    typer.Option(
        NOTIFY,
        metavar="URL|FILE",
        envvar=ENVIRONMENT,
        help="Send a message about failures to an address of apprise, or to those in a file; may be repeated.",
    ),
]
Metrics = Annotated[
    Path | None, typer.Option("--metrics", metavar="FILE", help="Write metrics for Prometheus' node exporter.")
]
TlsFile = Annotated[Path | None, typer.Option(metavar="FILE", help="For the scheduler; else Dask's configuration.")]


RUN = "run"


def nightly(
    ctx: typer.Context,
    pipelines: Pipelines = None,
    media: Media = None,
    jobs: Jobs = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Build on the workers of this Dask scheduler (tls://…).")
    ] = None,
    tls_ca: TlsFile = None,
    tls_cert: TlsFile = None,
    tls_key: TlsFile = None,
    push: Push = None,
    allow_rehearsal: AllowRehearsal = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Start nothing more after a failure.")] = False,
    keep_daily: Annotated[int, typer.Option(min=0, metavar="N", help="Days of which a report is kept.")] = 14,
    keep_weekly: Annotated[int, typer.Option(min=0, metavar="N", help="Weeks of which one is kept.")] = 8,
    keep_monthly: Annotated[int, typer.Option(min=0, metavar="N", help="Months of which one is kept.")] = 12,
    notify: Notify = None,
    metrics: Metrics = None,
    require_kvm: RequireKvm = False,
    accel: Accelerator = "auto",
    connect: Connect = None,
    root_password_file: PasswordFile = None,
    as_json: Json = False,
) -> None:
    """Build what needs it, prove the rest again, write a report."""
    from builder.nightly import builds as matrix
    from builder.nightly import record
    from builder.nightly.notify import aborts_notified
    from builder.nightly.progress import Teller
    from builder.nightly.report import retention, write

    settings = ctx.ensure_object(State).settings(root_password_file=root_password_file)
    teller = Teller(as_json=as_json)
    notifier = _notifier(ctx, notify, metrics, teller)
    reports = settings.artifacts / "reports"
    earlier = record.nights(reports)
    with aborts_notified(notifier, platform.node(), teller.note):
        options = _options(media, accel, require_local_uri(connect), root_password_file, require_kvm=require_kvm)
        pushing = _pushing(push, media, allow_rehearsal=allow_rehearsal)
        builds = matrix.builds(pipelines or (), settings.recipes, rehearsal=media == "rehearsal")
        began, start = datetime.now(UTC), time.monotonic()
        expected = record.usual(earlier)
        if scheduler is None:
            ended, space = _here(builds, settings, options, pushing, jobs, teller, fail_fast, expected)
        else:
            ended, space = _far(
                scheduler, (tls_ca, tls_cert, tls_key), builds, settings, options, pushing, teller, fail_fast, expected
            )
        for result in ended.results:
            result.usual = result.seconds if result.verdict == "published" else expected.get(result.name, 0.0)
        night = _night(ended, began, time.monotonic() - start, space)
        folder = write.write(reports, night)
    night = _published(night, earlier, folder, notifier, metrics, teller)
    retention.prune(reports, retention.Policy(daily=keep_daily, weekly=keep_weekly, monthly=keep_monthly))
    if as_json:
        print_json({**night.model_dump(mode="json"), "report": str(folder)})
    else:
        print_lines(_as_lines(night, folder))
    if night.exit_code:
        raise typer.Exit(night.exit_code)


def install_timer(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[-- WORD...]", help="Pipelines and options of each night.")
    ] = None,
    at: Annotated[str, typer.Option("--at", metavar="TIME", help="As systemd.time(7) has it.")] = "02:00",
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FOLDER", help="Default: where systemd looks for units.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a systemd timer that starts `builder nightly` here."""
    from builder.host.config import NotifySettings
    from builder.nightly import timer
    from builder.nightly.notify import prepare
    from builder.nightly.worker import BUILDER

    artifacts = ctx.ensure_object(State).settings().artifacts
    target = (to or timer.folder()).absolute()
    options = list(words or [])
    if not any(word.partition("=")[0] == NOTIFY for word in options):
        # systemd starts nights without the environment of this shell.
        options += [f"{NOTIFY}={value}" for value in os.environ.get(ENVIRONMENT, "").split()]
    # Units can be read by every user of the host: addresses go into a file that cannot.
    options, addresses = timer.without_addresses(options, NOTIFY)
    prepare(addresses, NotifySettings())
    options += [NOTIFY, str(target / timer.ADDRESSES)] if addresses else []
    command = [*BUILDER, "--artifacts", str(artifacts), "nightly", RUN, *options]
    written = timer.install(timer.units(command, Path.cwd(), at), target, addresses)
    # A user's units run while the user is logged in, unless told to linger (loginctl(1)).
    user, linger = ("", "") if os.geteuid() == 0 else ("--user ", " && loginctl enable-linger")
    then = f"systemctl {user}daemon-reload && systemctl {user}enable --now {timer.TIMER}{linger}"
    if as_json:
        print_json({"units": [str(path) for path in written], "then": then})
    else:
        print_lines([*(f"written  {path}" for path in written), f"then     {then}"])


def _notifier(ctx: typer.Context, given: list[str] | None, metrics: Path | None, teller: Teller) -> Notifier:
    """Who gets messages; addresses and the place for metrics are checked before the night begins."""
    from builder.host import config
    from builder.nightly.notify import prepare

    # Builds, and what they run, have no business with the addresses.
    os.environ.pop(ENVIRONMENT, None)
    source = ctx.get_parameter_source("notify")
    visible = source is not None and source.name == "COMMANDLINE"
    notifier = prepare(given, config.load_notify(), visible=visible)
    warnings = list(notifier.warnings)
    if metrics is not None:
        from builder.nightly.metrics import check

        warnings += check(metrics)
    for warning in warnings:
        teller.note(warning)
    return notifier


def _published(
    night: Night, earlier: list[Night], folder: Path, notifier: Notifier, metrics: Path | None, teller: Teller
) -> Night:
    """Make a night known by messages and metrics; what of that fails is noted, and does not make the night fail."""
    from builder.nightly.notify import notify

    night = notify(night.model_copy(update={"date": folder.name}), earlier, folder, notifier, teller.note)
    if metrics is not None:
        from builder.nightly.metrics import write

        try:
            write(metrics, night, earlier, folder.parents[1] / "images")
        except HostError as fault:
            teller.note(f"the metrics were not written: {fault.brief}")
    return night


def _here(
    builds: tuple[Build, ...],
    settings: Settings,
    options: tuple[str, ...],
    pushing: tuple[str, ...],
    jobs: int | None,
    teller: Teller,
    fail_fast: bool,
    expected: dict[str, float],
) -> tuple[Ended, Room]:
    """The night on this host."""
    from builder.nightly import worker
    from builder.nightly.capacity import room
    from builder.nightly.scheduler import Threads, spread

    space = room([build.recipe for build in builds if build.recipe], jobs, settings.artifacts)
    orders = worker.Orders(settings.artifacts, options, time.monotonic(), worker.BUILDER, pushing)
    teller.note(f"{len(builds)} build{'' if len(builds) == 1 else 's'}, {space.jobs} at a time (limit: {space.why})")
    crew = Threads(orders, space.jobs, teller.event, fail_fast=fail_fast)
    return spread(builds, crew, teller.done, fail_fast=fail_fast, expected=expected), space


def _far(
    address: str,
    tls: tuple[Path | None, Path | None, Path | None],
    builds: tuple[Build, ...],
    settings: Settings,
    options: tuple[str, ...],
    pushing: tuple[str, ...],
    teller: Teller,
    fail_fast: bool,
    expected: dict[str, float],
) -> tuple[Ended, Room]:
    """The night on a farm."""
    from builder.nightly.capacity import Room
    from builder.nightly.scheduler import spread

    try:
        from builder.nightly.farm import client
    except ModuleNotFoundError as fault:
        raise HostError(f"a farm needs {fault.name}", hint="pip install 'builder[farm]'") from fault
    lease = float(os.environ.get("BUILDER_FARM_LEASE", client.LEASE))
    given = (address, client.Tls(*tls), builds, options, teller.event, settings.artifacts)
    with client.joined(*given, push=pushing, lease=lease) as crew:
        space = Room(crew.slots, f"{crew.workers} workers of the farm")
        teller.note(f"{len(builds)} builds on {crew.workers} workers, {crew.slots} at a time")
        return spread(builds, crew, teller.done, fail_fast=fail_fast, expected=expected), space


def _pushing(address: str | None, media: str | None, *, allow_rehearsal: bool) -> tuple[str, ...]:
    """Where images go, and the words for it; what cannot be is refused before the night begins."""
    if address and media == "rehearsal" and not allow_rehearsal:
        raise RecipeError("rehearsals are not pushed", hint="if that is what you want: --allow-rehearsal")
    if address is None:
        return ()
    transfer.destination(address, "any", allow_rehearsal=True)
    return (address, *(["--allow-rehearsal"] if allow_rehearsal else []))


def _options(
    media: str | None, accel: Accel, uri: str | None, password: Path | None, *, require_kvm: bool
) -> tuple[str, ...]:
    """The same words for each `builder run`."""
    if require_kvm and accel == "tcg":
        raise RecipeError("--require-kvm and --accel tcg exclude each other", hint="leave out one of them")
    given = {
        "--media": media,
        "--accel": accel,
        "--connect": uri,
        "--root-password-file": str(password) if password else None,
    }
    words = [word for option, value in given.items() if value is not None for word in (option, value)]
    return (*words, *(["--require-kvm"] if require_kvm else []))


def _night(ended: Ended, began: datetime, seconds: float, space: Room) -> Night:
    from builder.nightly.record import Night, exit_code

    return Night(
        date=f"{began:%Y-%m-%d}",
        started=began.isoformat(timespec="seconds"),
        ended=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
        host=platform.node(),
        builder=__version__,
        jobs=space.jobs,
        jobs_why=space.why,
        exit_code=Interrupted.exit_code if ended.interrupt else exit_code(ended.results),
        results=list(ended.results),
    )


def _as_lines(night: Night, folder: Path) -> list[str]:
    from builder import console
    from builder.nightly.report.markdown import headline

    width = max(len(result.name) for result in night.results)
    told = {result.name: console.clean(result.fault.brief if result.fault else result.why) for result in night.results}
    rows = [f"{result.name:<{width}}  {result.verdict:<11}  {told[result.name]}".rstrip() for result in night.results]
    # What is cut off stands above, where the build ended, and in the report.
    rows = [row if len(row) < 80 else f"{row[:77]} …" for row in rows]
    return [
        *rows,
        "",
        headline(night),
        f"took     {console.time_text(night.seconds)}",
        f"report   {display_path(folder)}/index.html",
    ]
