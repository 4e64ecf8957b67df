"""Arguments and options that several commands take, each described once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from builder import releases
from builder.cli.commands import ORDER
from builder.cli.state import PASSWORD_FILE, State
from builder.errors import RecipeError
from builder.settings import Accel
from builder.vm.uri import kind_of

REGISTRY_USER, REGISTRY_PASSWORD_FILE = "BUILDER_REGISTRY_USER", "BUILDER_REGISTRY_PASSWORD_FILE"


def _want_json(ctx: typer.Context, value: bool) -> bool:
    ctx.ensure_object(State).as_json = value
    return value


Json = Annotated[bool, typer.Option("--json", callback=_want_json, help="Print one JSON document.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that exists.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")]

# What is built.
Pipeline = Annotated[str, typer.Argument(metavar="PIPELINE", help="Name of a pipeline, or path of its recipe.")]
MaybePipeline = Annotated[
    str | None,
    typer.Argument(metavar="[PIPELINE]", help="Name of a pipeline, or path of its recipe; not with --kickstart."),
]
OwnFile = Annotated[
    Path | None, typer.Option("--kickstart", metavar="FILE", help="Build from this kickstart of your own; no recipe.")
]
ImageName = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="With --kickstart: name of the image; default: the file's.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe, e.g. machine.firmware=uefi."),
]
Media = Annotated[
    str | None,
    typer.Option("--media", metavar="FILE|rehearsal", help="Install from this ISO, or from a rehearsal medium."),
]
Rebuild = Annotated[
    list[str] | None, typer.Option("--rebuild", metavar="STAGE", help="Run this stage again, and all that follow.")
]
Release = Annotated[str, typer.Option("--release", metavar="NAME", help="The release: el7, el8, el9, el10 or fedora.")]
PasswordFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", envvar=PASSWORD_FILE, help="Read the root password from this file; without one it is generated."
    ),
]

# How machines run.
Connect = Annotated[
    str | None, typer.Option("--connect", metavar="URI", help="Use this libvirt: qemu:///session or qemu:///system.")
]
Accelerator = Annotated[
    Accel, typer.Option("--accel", help="Choose how machines run; auto uses KVM where it can be trusted.")
]
RequireKvm = Annotated[bool, typer.Option("--require-kvm", help="Exit 9 rather than run without KVM.")]

# Images and registries.
ImageSpec = Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="An image: the latest version, or this one.")]
Signed = Annotated[bool, typer.Option("--signed", help="Accept only what a trusted key has signed.")]
AllowRehearsal = Annotated[
    bool, typer.Option("--allow-rehearsal", help="Accept an image from a rehearsal medium; it stays marked.")
]
Push = Annotated[
    str | None,
    typer.Option(
        "--push", metavar="ADDRESS", help="Then push the image to the repository of its name below this address."
    ),
]
RegistryUser = Annotated[
    str | None,
    typer.Option("--user", metavar="NAME", envvar=REGISTRY_USER, help="Log in as; default: what `docker login` left."),
]
RegistryPassword = Annotated[
    str | None,
    typer.Option(
        "--password-file",
        metavar="FILE",
        envvar=REGISTRY_PASSWORD_FILE,
        help="Read that user's password from this file; - is standard input.",
    ),
]


def parse_set_options(given: list[str] | None) -> dict[str, str]:
    """Parse `--set KEY=VALUE` words; of two for one key the last counts.

    Raises:
        RecipeError: a word has no `=`.
    """
    values = {}
    for word in given or []:
        key, equals, value = word.partition("=")
        if not equals:
            raise RecipeError(f"--set {word}: no value", hint="write --set KEY=VALUE, e.g. --set machine.firmware=uefi")
        values[key] = value
    return values


def in_order(ctx: typer.Context, given: Mapping[str, Sequence[str] | None]) -> list[tuple[str, str]]:
    """Return the values of options that may be given several times, each with its option, as they stood.

    Args:
        given: values by option.
    """
    values = {option: iter(several or ()) for option, several in given.items()}
    return [(option, next(values[option])) for option in ctx.meta[ORDER] if option in values]


def parse_release(name: str) -> releases.Release:
    """Find the release that `--release` names.

    Raises:
        RecipeError: there is none of this name.
    """
    if name not in releases.RELEASES:
        raise RecipeError(f"--release {name}: no such release", hint=f"write one of {', '.join(releases.RELEASES)}")
    return releases.RELEASES[name]


def registry_login_of_environment() -> tuple[str | None, str | None]:
    """Read user and password file from the environment, for commands without options for them."""
    return os.environ.get(REGISTRY_USER), os.environ.get(REGISTRY_PASSWORD_FILE)


def require_local_uri(uri: str | None) -> str | None:
    """Check that a libvirt URI leads to this host, and return it.

    Raises:
        RecipeError: it leads to another host.
    """
    if uri is None:
        return None
    if kind_of(uri):
        return uri
    raise RecipeError(
        f"--connect {uri}: builder works on the hypervisor itself",
        "addresses of this host are qemu:///system and qemu:///session",
        "run builder on that host, or let `builder nightly --scheduler` hand out the work",
    )
