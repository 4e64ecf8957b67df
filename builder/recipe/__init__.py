"""The one rule: a recipe says WHAT to build, and is right in every line before anything is touched."""

from builder.recipe.loading import find_all, load
from builder.recipe.models import (
    REHEARSAL,
    Check,
    Disk,
    Kickstart,
    Limits,
    Machine,
    Media,
    Network,
    Publish,
    Recipe,
    Source,
    Verify,
    duration,
    schema,
    size,
)
from builder.recipe.variables import RULES, Rule, Variable, check_variable

__all__ = [
    "REHEARSAL",
    "RULES",
    "Check",
    "Disk",
    "Kickstart",
    "Limits",
    "Machine",
    "Media",
    "Network",
    "Publish",
    "Recipe",
    "Rule",
    "Source",
    "Variable",
    "Verify",
    "check_variable",
    "duration",
    "find_all",
    "load",
    "schema",
    "size",
]
