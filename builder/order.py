"""The one rule: an order is everything a run depends on, resolved before the first stage looks at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from builder.recipe import Recipe


@dataclass(frozen=True)
class Medium:
    """The install medium that was chosen; where it comes from is a matter of `Settings`.

    Args:
        sha256: of the ISO file; None for a rehearsal medium that this host is to build.
        rehearsal: for a medium to build: the digest of what goes into it. For a file that is one: its sha256.
    """

    sha256: str | None
    rehearsal: str | None = None


@dataclass(frozen=True)
class Order:
    """A recipe with its open choices made.

    Args:
        name: in the catalogue; the recipe's, with `-rehearsal` behind it when the medium is one.
        templates: texts of the kickstart template and all it includes, by name.
        password_mac: HMAC of the root password's crypt string: tells a changed password, tells no password.
    """

    name: str
    recipe: Recipe
    medium: Medium
    templates: Mapping[str, str]
    password_mac: str
