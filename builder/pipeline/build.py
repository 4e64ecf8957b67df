"""Prepare a build from what was asked for, and carry it out, trying again where that may help."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from builder import recipe
from builder.diagnosis.classify import diagnose
from builder.errors import BuilderError, RecipeError
from builder.images import Image, load_image
from builder.kickstart import rehearsed
from builder.pipeline import kickstart_preview
from builder.pipeline.draft import RecipeDraft
from builder.pipeline.execute import Context, Outcome
from builder.pipeline.pipelines import stages_of
from builder.pipeline.plan import plan
from builder.pipeline.resolve import resolve
from builder.recipe import Recipe
from builder.settings import Settings
from builder.stage import Plan, Progress
from builder.stages import publish
from builder.store.store import Store
from builder.system import retry
from builder.vm import connection

# Three tries with 5 and 10 seconds between them: a daemon that restarts, a mirror that hiccups.
TRIES, FIRST_PAUSE = 3, 5.0


@dataclass(frozen=True)
class Build:
    """A build that was planned, what it is run with, and the file of the root password.

    Args:
        warm: the published version gets a warm state.
    """

    plan: Plan
    context: Context
    password_file: Path
    warm: bool = False


def prepare(
    pipeline: str | RecipeDraft,
    changes: Mapping[str, str],
    media: str | None,
    rebuild: Collection[str],
    settings: Settings,
    *,
    peek: bool = False,
) -> Build:
    """Load the recipe, resolve it and plan its build; nothing is started.

    Args:
        pipeline: name of a pipeline, path of its recipe, or a recipe that was made for this run.
        changes: values of the recipe that `--set` replaces, by key.
        media: path of an ISO, `rehearsal`, or None for a medium that the recipe names.
        rebuild: stages to run again.
        peek: write nothing at all.

    Raises:
        BuilderError: the recipe, a template or the medium cannot be used; or images have to be signed on this host, and
            there is no key to sign this one with.
    """
    if settings.require_signed and settings.signing_key is None and not peek:
        raise RecipeError(
            "images have to be signed on this host, and there is no key to sign with",
            "require_signed in settings.toml, or $BUILDER_REQUIRE_SIGNED, demands it",
            "builder keys create",
        )
    chosen, settings = load(pipeline, changes, settings)
    # In the first second: what is wrong here would end the install after a download and a boot.
    text = None if chosen.from_ is not None else kickstart_preview.preview(chosen, settings)
    if text is not None:
        kickstart_preview.require_fit(chosen, text)
    store = Store(settings.store)
    resolved = resolve(chosen, media, store, settings, peek=peek)
    if text is not None and resolved.spec.medium.rehearsal:
        # Before there is a medium: its installer has to carry out the kickstart to its end.
        rehearsed.require(text)
    planned = plan(stages_of(chosen), resolved.spec, store, settings, fresh=frozenset(rebuild))
    context = Context(store, settings, resolved.build, resolved.secrets)
    return Build(planned, context, resolved.secrets.path, chosen.warm)


def load(pipeline: str | RecipeDraft, changes: Mapping[str, str], settings: Settings) -> tuple[Recipe, Settings]:
    """Load a recipe, and return it with the settings that find the files beside it.

    Raises:
        RecipeError: there is no such recipe, or it has faults.
    """
    if isinstance(pipeline, RecipeDraft):
        chosen = recipe.loads(pipeline.text, changes, label=str(pipeline.kickstart), stem=pipeline.name)
        return chosen, replace(settings, templates=(pipeline.kickstart.absolute().parent, *settings.templates))
    chosen = recipe.load(pipeline, changes, settings.recipes)
    if "/" not in pipeline:
        return chosen, settings
    folder = Path(pipeline).absolute().parent
    return chosen, replace(settings, templates=(*settings.templates, folder.parent / "kickstarts", folder))


def retry_transient(attempt: Callable[[], Outcome], progress: Progress, tries: int = TRIES) -> Outcome:
    """Make attempts until one succeeds, as long as what fails is transient; each is a run with a record of its own."""

    def heals(fault: BaseException) -> bool:
        return isinstance(fault, BuilderError) and diagnose(fault).diagnosis.transient

    def report(fault: BaseException, seconds: float) -> None:
        cause = fault.diagnosis.cause if isinstance(fault, BuilderError) else ""
        progress.note(f"{cause}: {fault}; trying again in {seconds:.0f} s")

    return retry.again(attempt, heals=heals, tries=tries, first=FIRST_PAUSE, on_retry=report)


def remove_machines(settings: Settings) -> Callable[[str], None]:
    """Return a function that removes the machines of a dead run, given its id."""

    def remove(run_id: str) -> None:
        with connection.connect(settings.uri) as host:
            host.sweep(run_id)

    return remove


def image_of(outcome: Outcome, settings: Settings) -> Image:
    """Load the very version that a run ended with: `latest` may be another one meanwhile."""
    record = json.loads((outcome.object / publish.FILE).read_text(encoding="utf-8"))
    return load_image(settings.images, f"{record['name']}@{record['version']}")
