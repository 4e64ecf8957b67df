"""The specification of one build: a recipe with its open choices made, before the first stage looks at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from builder.recipe import Recipe


@dataclass(frozen=True)
class Medium:
    """The install medium that was chosen; where it comes from is a matter of `MediumSource`.

    Args:
        sha256: of the ISO file; None for a rehearsal medium that this host is to build.
        rehearsal: for a medium to build: the digest of what goes into it. For a file that is one: its sha256.
    """

    sha256: str | None
    rehearsal: str | None = None


@dataclass(frozen=True)
class Base:
    """The published image that is built on: `name@version`, and its disk's SHA-256."""

    spec: str
    sha256: str


@dataclass(frozen=True)
class BuildSpec:
    """A recipe with its open choices made.

    Args:
        name: in the catalogue; the recipe's, with `-rehearsal` behind it when the medium is one.
        templates: texts of the kickstart template and all it includes, by name; of an own kickstart without what lets
            somebody in, and of the script that closes it.
        password_mac: HMAC of the root password's crypt string: tells a changed password, tells no password.
        secrets_of: the recipe whose root password the image has: its own, or the one of the image it is built on.
        base: what is built on, instead of an install.
        own_mac: HMAC of an own kickstart and the files beside it.
        provisions: SHA-256 of what the recipe provisions with, by name.
    """

    name: str
    recipe: Recipe
    medium: Medium
    templates: Mapping[str, str]
    password_mac: str
    secrets_of: str = ""
    base: Base | None = None
    own_mac: str = ""
    provisions: Mapping[str, str] = field(default_factory=dict)
