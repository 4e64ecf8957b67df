"""Recipes say WHAT to build: load them, and check every line before anything is changed."""

from builder.recipe.kickstart_section import KickstartSection
from builder.recipe.loading import fault, find_all, load, loads, text_of
from builder.recipe.media import IsoSource, Media
from builder.recipe.models import (
    REHEARSAL,
    Budget,
    Check,
    DiskSection,
    File,
    Install,
    Limits,
    MachineSection,
    Network,
    Provision,
    Publish,
    Recipe,
    Verify,
    schema,
)
from builder.recipe.types import duration, size
from builder.recipe.variables import RULES, Rule, Variable, check_variable

__all__ = [
    "REHEARSAL",
    "RULES",
    "Budget",
    "Check",
    "DiskSection",
    "File",
    "Install",
    "IsoSource",
    "KickstartSection",
    "Limits",
    "MachineSection",
    "Media",
    "Network",
    "Provision",
    "Publish",
    "Recipe",
    "Rule",
    "Variable",
    "Verify",
    "check_variable",
    "duration",
    "fault",
    "find_all",
    "load",
    "loads",
    "schema",
    "size",
    "text_of",
]
