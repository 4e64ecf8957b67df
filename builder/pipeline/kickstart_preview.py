"""Render or adapt a kickstart without its secrets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from builder.diagnosis import evidence
from builder.kickstart import adapt, demands, last_act, lint, machine_fit, render
from builder.kickstart.adapt import Adapted
from builder.kickstart.el7_rules import LintFinding
from builder.kickstart.preflight import Room
from builder.pipeline import own_kickstart
from builder.recipe import Recipe
from builder.releases import DEFAULT, RELEASES, Release
from builder.settings import Settings
from builder.stages import kickstart as stage
from builder.vm.machine_spec import SYSTEM_DISK_SERIAL


def preview(recipe: Recipe, settings: Settings) -> str:
    """Render the kickstart of a recipe with stars for what lets somebody in and zeros for the build's token.

    Raises:
        RecipeError: a template or file is missing or cannot be rendered, or its variables are not those of the recipe.
    """
    chosen = recipe.kickstart
    if chosen.file is None:
        texts = render.collect(chosen.entry, settings.templates)
    else:
        texts = own_kickstart.load(chosen, (*settings.templates, *settings.recipes))[1]
    given = stage.KickstartInputs(
        template=chosen.entry,
        templates=texts,
        vars=dict(chosen.vars),
        disk_serial=SYSTEM_DISK_SERIAL,
        password_mac="",
        own=chosen.file is not None,
        adapt=chosen.file is not None and chosen.adapt,
        files=chosen.files,
        networked=recipe.install.network != "none",
    )
    return stage.render(given, root_crypt=evidence.MASK, token=stage.NO_TOKEN)


def require_fit(recipe: Recipe, text: str) -> None:
    """Make sure that a recipe's kickstart asks nothing of the machine that it cannot have; needs no medium.

    Raises:
        RecipeError: it does.
    """
    own = recipe.kickstart.file is not None
    # Of one that is not adapted `unmet` lists everything together.
    if recipe.kickstart.adapt or not own:
        networked = recipe.install.network != "none"
        room = Room(recipe.machine.memory, recipe.disk.size, recipe.machine.firmware, networked, recipe.facts)
        machine_fit.require(text, room, SYSTEM_DISK_SERIAL)


def adapt_text(text: str, search: Sequence[Path], files: tuple[str, ...], *, networked: bool) -> Adapted:
    """Adapt a kickstart as a run would, with stars for the password's hash and zeros for the build's token.

    Args:
        search: folders with builder's parts of kickstarts.
        files: names of the files that come along.
    """
    closing = last_act.maker(last_act.collect(search), stage.NO_TOKEN)
    terms = adapt.Terms(evidence.MASK, SYSTEM_DISK_SERIAL, stage.NO_TOKEN, closing, files=files, networked=networked)
    return adapt.adapt(text, terms)


def unmet(
    made: Adapted, files: tuple[str, ...], *, networked: bool, release: Release = RELEASES[DEFAULT]
) -> list[LintFinding]:
    """Return what a run would still refuse in an adapted kickstart."""
    found = [
        *lint.errors(lint.lint(made.text, release, beside=files)),
        *demands.unmet(made.text, SYSTEM_DISK_SERIAL, stage.NO_TOKEN, files),
        *([] if networked else demands.remote(made.text)),
    ]
    return sorted(dict.fromkeys(found), key=lambda finding: finding.line or 0)
