"""The one rule: `plan` shows what `run` would do, for both ask the same question in the same words."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from builder.cli import registry
from builder.cli.choices import Fresh, Media, Pipeline, Sets, local, pairs
from builder.cli.output import document, lines, write
from builder.cli.registry import AllowRehearsal, Push
from builder.cli.state import PASSWORD_FILE, Json, State, short
from builder.errors import BuilderError, RecipeError
from builder.settings import Accel, Settings

if TYPE_CHECKING:
    from builder.console import Watcher
    from builder.images import Image
    from builder.pipeline.execute import Context, Outcome
    from builder.stage import Plan

Connect = Annotated[str | None, typer.Option("--connect", metavar="URI", help="qemu:///session or qemu:///system.")]
Accelerator = Annotated[Accel, typer.Option("--accel", help="KVM where it can be trusted, or one of the two.")]
RequireKvm = Annotated[bool, typer.Option("--require-kvm", help="End with exit 9 rather than run without KVM.")]
PasswordFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", envvar=PASSWORD_FILE, help="Holds the root password; without it one is made."),
]
KeepFailed = Annotated[bool, typer.Option("--keep-failed", help="Leave machine and files of a failed stage.")]
RetryTransient = Annotated[
    bool,
    typer.Option("--retry-transient", help="Try again what may heal by itself: mirrors, libvirt, memory of the host."),
]
# Three tries with 5 and 10 seconds between them: a daemon that restarts, a mirror that hiccups.
TRIES, FIRST_PAUSE = 3, 5.0
KeepIntermediates = Annotated[
    bool, typer.Option("--keep-intermediates", help="Keep the remastered ISO and the raw disk.")
]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("run")(run)
    app.command("plan")(plan)


def run(
    ctx: typer.Context,
    pipeline: Pipeline,
    media: Media = None,
    sets: Sets = None,
    fresh: Fresh = None,
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
    """Build the golden image of a pipeline, prove it and publish it."""
    from builder import console
    from builder.provenance import keys

    state = ctx.ensure_object(State)
    if require_kvm and accel == "tcg":
        raise RecipeError("--require-kvm and --accel tcg exclude each other", hint="leave out one of them")
    settings = state.settings(
        connect=local(connect),
        accel=accel,
        require_kvm=require_kvm,
        keep_failed=keep_failed,
        keep_intermediates=keep_intermediates,
        root_password_file=root_password_file,
        signing_key=keys.chosen(),
    )
    with console.watcher(as_json=as_json) as watched:
        if state.moved:
            watched.note(state.moved)
        decided, context, password = _ask(pipeline, media, sets, fresh, settings)
        where = registry.target(push, decided.name, allow_rehearsal=allow_rehearsal)
        login = registry.login_of_environment() if where else None
        from builder.pipeline.execute import execute
        from builder.store.durations import Durations

        def attempt() -> Outcome:
            watched.failure = None
            try:
                if not decided.idle:
                    accel = _look_at_host(settings, watched)
                    watched.expected = Durations(context.store.root, decided.name).expected(accel)
                return execute(decided, context, watched, argv=sys.argv, clean=_cleaner(settings))
            finally:
                if watched.run_id:
                    state.evidence = settings.runs / watched.run_id
                state.stage = watched.failure[0] if watched.failure else None

        outcome = _healing(attempt, watched, TRIES if retry_transient else 1)
        image = _published(settings, outcome)
        pushed = registry.send(image, where, watched, login, allow_rehearsal=allow_rehearsal) if where else None
    took = console.times(watched, watched.elapsed)
    if as_json:
        sent = registry.pushed_facts(image, where, pushed) if where and pushed else None
        document({**_as_document(outcome, image, took), "pushed": sent})
    else:
        if where and pushed:
            watched.note(f"pushed: {registry.SCHEME}{where.name}:{pushed.tags[-1]}")
        lines(_as_lines(outcome, image, password, took))


def plan(
    ctx: typer.Context,
    pipeline: Pipeline,
    media: Media = None,
    sets: Sets = None,
    fresh: Fresh = None,
    root_password_file: PasswordFile = None,
    as_json: Json = False,
) -> None:
    """Show what a run would do, and why; nothing is changed."""
    from builder import console

    settings = ctx.ensure_object(State).settings(root_password_file=root_password_file)
    decided, *_ = _ask(pipeline, media, sets, fresh, settings, peek=True)
    if as_json:
        document({"name": decided.name, "idle": decided.idle, "stages": console.plan_rows(decided)})
        return
    rows = [[row["stage"], row["action"], row["reason"]] for row in console.plan_rows(decided)]
    write(console.table(["STAGE", "ACTION", "WHY"], rows))


def _ask(
    pipeline: str,
    media: str | None,
    sets: list[str] | None,
    fresh: list[str] | None,
    settings: Settings,
    *,
    peek: bool = False,
) -> tuple[Plan, Context, Path]:
    """Make a plan from the words of the command line; the path is the root password's. Nothing is started."""
    from builder import recipe

    chosen = recipe.load(pipeline, pairs(sets), settings.recipes)
    # Only now: a fault of the recipe is reported without waiting for the libraries that a run needs.
    from builder.pipeline.execute import Context
    from builder.pipeline.pipelines import stages_of
    from builder.pipeline.plan import plan as decide
    from builder.pipeline.resolve import resolve
    from builder.store.store import Store

    store = Store(settings.store)
    resolved = resolve(chosen, media, store, settings, peek=peek)
    decided = decide(stages_of(chosen), resolved.spec, store, settings, fresh=frozenset(fresh or ()))
    return decided, Context(store, settings, resolved.build, resolved.secrets), resolved.secrets.path


def _healing(attempt: Callable[[], Outcome], watched: Watcher, tries: int) -> Outcome:
    """Runs until one succeeds, while what fails may heal by itself; each run has a record of its own."""
    from builder.diagnosis.classify import diagnose
    from builder.system import retry

    def heals(fault: BaseException) -> bool:
        return isinstance(fault, BuilderError) and diagnose(fault).diagnosis.transient

    def told(fault: BaseException, seconds: float) -> None:
        cause = fault.diagnosis.cause if isinstance(fault, BuilderError) else ""
        watched.note(f"{cause}: {fault}; trying again in {seconds:.0f} s")

    return retry.again(attempt, heals=heals, tries=tries, first=FIRST_PAUSE, told=told)


def _look_at_host(settings: Settings, watched: Watcher) -> str:
    """Say first how machines will run, and return it; a host that cannot run them is found out before hours of work."""
    from builder.vm import connection

    with connection.connect(settings.uri) as host:
        accel = host.choose_accel(settings.accel, settings.require_kvm)
        probing = host.probing_seconds()
    if probing is not None:
        watched.note(
            "QEMU's user cannot open /dev/kvm, so libvirt starts QEMU for each look-up, several times before each "
            f"machine: {probing:.1f} s each time; builder host check says how to mend it"
        )
    watched.note(f"machines run with {accel.name.upper()} on {settings.uri}: {accel.why}")
    return accel.name


def _cleaner(settings: Settings) -> Callable[[str], None]:
    """What removes the machines of a dead run."""

    def clean(run_id: str) -> None:
        from builder.vm import connection

        with connection.connect(settings.uri) as host:
            host.sweep(run_id)

    return clean


def _published(settings: Settings, outcome: Outcome) -> Image:
    """The very version that the run ended with: `latest` may be another one meanwhile."""
    from builder.images import load_image
    from builder.stages import publish

    record = json.loads((outcome.object / publish.FILE).read_text(encoding="utf-8"))
    return load_image(settings.images, f"{record['name']}@{record['version']}")


def _as_document(outcome: Outcome, image: Image, took: dict[str, Any]) -> dict[str, Any]:
    from builder import console

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
        "times": took,
    }


def _as_lines(outcome: Outcome, image: Image, password: Path, took: dict[str, Any]) -> list[str]:
    from builder import console

    head = [] if outcome.built else ["nothing had to be done"]
    return [
        *head,
        f"image    {short(image.disk)}",
        f"version  {image.version}",
        f"size     {console.size_text(image.disk.stat().st_size)}",
        f"sha256   {image.sha256}",
        f"root     the password is in {short(password)}",
        f"record   {short(outcome.folder)}",
        *console.times_lines(took),
    ]
