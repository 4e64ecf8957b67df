"""The command `builder run`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from builder import console
from builder.cli.options import (
    Accelerator,
    AllowRehearsal,
    Connect,
    ImageName,
    Json,
    MaybePipeline,
    Media,
    OwnFile,
    PasswordFile,
    Push,
    Rebuild,
    RequireKvm,
    Sets,
    parse_set_options,
    require_local_uri,
)
from builder.cli.output import display_path, emit
from builder.cli.plan import build_target
from builder.cli.state import State
from builder.console import Watcher
from builder.errors import RecipeError
from builder.images import Image
from builder.pipeline import build
from builder.pipeline.build import Build
from builder.pipeline.execute import Outcome, execute
from builder.pipeline.warm_up import warm_up
from builder.provenance import keys
from builder.settings import Settings
from builder.store.durations import Durations
from builder.vm import connection, daemon

KeepFailed = Annotated[
    bool, typer.Option("--keep-failed", help="Keep the machine and the files of a stage that failed.")
]
KeepIntermediates = Annotated[
    bool, typer.Option("--keep-intermediates", help="Keep the remastered ISO and the raw disk.")
]
RetryTransient = Annotated[
    bool,
    typer.Option("--retry-transient", help="Try again after what may pass: mirrors, libvirt, memory of the host."),
]


def run(
    ctx: typer.Context,
    pipeline: MaybePipeline = None,
    media: Media = None,
    kickstart: OwnFile = None,
    name: ImageName = None,
    sets: Sets = None,
    rebuild: Rebuild = None,
    keep_failed: KeepFailed = False,
    keep_intermediates: KeepIntermediates = False,
    retry_transient: RetryTransient = False,
    require_kvm: RequireKvm = False,
    accel: Accelerator = "auto",
    connect: Connect = None,
    root_password_file: PasswordFile = None,
    push: Push = None,
    allow_rehearsal: AllowRehearsal = False,
    as_json: Json = False,
) -> None:
    """Build the golden image of a pipeline, verify it and publish it."""
    state = ctx.ensure_object(State)
    if require_kvm and accel == "tcg":
        raise RecipeError("--require-kvm and --accel tcg exclude each other", hint="leave out one of them")
    settings = state.settings(
        connect=require_local_uri(connect),
        accel=accel,
        require_kvm=require_kvm,
        keep_failed=keep_failed,
        keep_intermediates=keep_intermediates,
        root_password_file=root_password_file,
        signing_key=keys.chosen(),
    )
    daemon.require_short_paths(settings.uri)
    with console.watcher(as_json=as_json) as watcher:
        state.watcher = watcher
        if state.moved:
            watcher.note(state.moved)
        wanted = build_target(pipeline, kickstart, name, media, settings)
        planned = build.prepare(wanted, parse_set_options(sets), media, rebuild or (), settings)
        send = None
        if push:
            # Not at the head: what talks to registries takes a quarter of a second to load.
            from builder.cli.registry import sender

            send = sender(push, planned.plan.name, allow_rehearsal=allow_rehearsal)
        tries = build.TRIES if retry_transient else 1
        outcome = build.retry_transient(lambda: _attempt(planned, watcher), watcher, tries)
        image = build.image_of(outcome, settings)
        if planned.warm:
            warm_up(image, settings, watcher)
        sent = send(image, watcher) if send else None
    times = console.times(watcher, watcher.elapsed)
    facts = {**_facts(outcome, image, times), "pushed": sent}
    emit(facts, _lines(outcome, image, planned.password_file, times), as_json)


def _attempt(planned: Build, watcher: Watcher) -> Outcome:
    """Run the plan once."""
    context = planned.context
    watcher.failure = None
    if not planned.plan.idle:
        accel = _look_at_host(context.settings, watcher)
        watcher.expected = Durations(context.store.root, planned.plan.name).expected(accel)
    clean = build.remove_machines(context.settings)
    return execute(planned.plan, context, watcher, argv=sys.argv, clean=clean)


def _look_at_host(settings: Settings, watched: Watcher) -> str:
    """Say first how machines will run, and return it; a host that cannot run them is found out before hours of work."""
    with connection.connect(settings.uri) as host:
        accel = host.choose_accel(settings.accel, settings.require_kvm)
        host.require_passage(settings.store)
        probing = host.probing_seconds()
    if probing is not None:
        watched.note(
            "QEMU's user cannot open /dev/kvm, so libvirt starts QEMU for each look-up, several times before each "
            f"machine: {probing:.1f} s each time; builder host check says how to fix it"
        )
    watched.note(f"machines run with {accel.name.upper()} on {settings.uri}: {accel.why}")
    return accel.name


def _facts(outcome: Outcome, image: Image, times: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": outcome.plan.name,
        "run": outcome.run_id,
        "folder": str(outcome.folder),
        "built": list(outcome.built),
        "image": {
            "version": image.version,
            "disk": str(image.disk),
            "size": image.disk.stat().st_size,
            "sha256": image.sha256,
        },
        "stages": console.plan_rows(outcome.plan),
        "times": times,
    }


def _lines(outcome: Outcome, image: Image, password: Path, times: dict[str, Any]) -> list[str]:
    head = [] if outcome.built else ["up to date"]
    return [
        *head,
        f"image    {display_path(image.disk)}",
        f"version  {image.version}",
        f"size     {console.size_text(image.disk.stat().st_size)}",
        f"sha256   {image.sha256}",
        f"root     the password is in {display_path(password)}",
        f"record   {display_path(outcome.folder)}",
        *console.times_lines(times),
    ]
