"""Render a pipeline's kickstart without its secrets."""

from __future__ import annotations

from builder.kickstart import machine_fit, render
from builder.kickstart.preflight import Room
from builder.recipe import Recipe
from builder.settings import Settings
from builder.stages import kickstart as stage
from builder.vm.domain_xml import SYSTEM_DISK_SERIAL


def preview(recipe: Recipe, settings: Settings) -> str:
    """Render the kickstart of a recipe with stars for the root password's hash and zeros for the build's token.

    Raises:
        RecipeError: a template is missing or cannot be rendered, or its variables are not those of the recipe.
    """
    chosen = recipe.kickstart
    texts = render.collect(chosen.template, settings.templates)
    render.check_variables(texts, chosen.vars)
    given = stage.KickstartInputs(
        template=chosen.template,
        templates=texts,
        vars=dict(chosen.vars),
        disk_serial=SYSTEM_DISK_SERIAL,
        password_mac="",
    )
    return stage.render(given, root_crypt="********", token="0" * 64)


def require_fit(recipe: Recipe, settings: Settings) -> None:
    """Make sure that the kickstart asks nothing of the machine that it cannot have; needs no medium.

    Raises:
        RecipeError: it does, or it cannot be rendered.
    """
    if recipe.from_ is None:
        room = Room(recipe.machine.memory, recipe.disk.size, recipe.machine.firmware, recipe.facts)
        machine_fit.require(preview(recipe, settings), room, SYSTEM_DISK_SERIAL)
