"""The one rule: an argument or option that several commands take is described once."""

from __future__ import annotations

from typing import Annotated

import typer

from builder.errors import RecipeError

Pipeline = Annotated[str, typer.Argument(metavar="PIPELINE", help="Name of a pipeline, or path of its recipe.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe, e.g. machine.firmware=uefi."),
]
Media = Annotated[
    str | None,
    typer.Option("--media", metavar="FILE|rehearsal", help="Install from this ISO, or from a rehearsal medium."),
]
Fresh = Annotated[
    list[str] | None, typer.Option("--fresh", metavar="STAGE", help="Run this stage anew, and all that follows.")
]


def pairs(given: list[str] | None) -> dict[str, str]:
    """`--set` words as key and value; of two for one key the last counts.

    Raises:
        RecipeError: there is no `=`.
    """
    found = {}
    for word in given or []:
        key, equals, value = word.partition("=")
        if not equals:
            raise RecipeError(f"--set {word}: no value", hint="write --set KEY=VALUE, e.g. --set machine.firmware=uefi")
        found[key] = value
    return found


def local(uri: str | None) -> str | None:
    """A libvirt URI of this host.

    Raises:
        RecipeError: it leads to another host.
    """
    if uri is None:
        return None
    from urllib.parse import urlsplit

    parts = urlsplit(uri)
    if parts.scheme in ("qemu", "qemu+unix") and not parts.netloc and parts.path in ("/system", "/session"):
        return uri
    raise RecipeError(
        f"--connect {uri}: builder works on the hypervisor itself",
        "addresses of this host are qemu:///system and qemu:///session",
        "run builder on that host, or let `builder nightly --scheduler` hand out the work",
    )
