"""The product: which stages make an image, in which order.

Invariant: a pipeline is one literal tuple of stages; which one a recipe gets is decided by the recipe alone.
"""

from __future__ import annotations

from typing import Any

from builder.recipe import Recipe
from builder.stage import Stage
from builder.stages import fetch, install, kickstart, provision, publish, remaster, seal, verify

# The kickstart first: it costs a second, and a fault in it is found before a gigabyte is fetched.
STAGES: tuple[Stage[Any], ...] = (
    kickstart.STAGE,
    fetch.STAGE,
    remaster.STAGE,
    install.STAGE,
    seal.STAGE,
    verify.STAGE,
    publish.STAGE,
)

# With a `provision` section in the recipe, what was installed is booted before it is sealed.
PROVISIONED: tuple[Stage[Any], ...] = (
    kickstart.STAGE,
    fetch.STAGE,
    remaster.STAGE,
    install.STAGE,
    provision.STAGE,
    seal.PROVISIONED,
    verify.STAGE,
    publish.STAGE,
)

# With `from`, a published image takes the place of the install.
ON_BASE: tuple[Stage[Any], ...] = (provision.ON_BASE, seal.PROVISIONED, verify.STAGE, publish.STAGE)


def stages_of(recipe: Recipe) -> tuple[Stage[Any], ...]:
    """Return the pipeline of a recipe."""
    if recipe.from_ is not None:
        return ON_BASE
    return PROVISIONED if recipe.provision.wanted else STAGES
