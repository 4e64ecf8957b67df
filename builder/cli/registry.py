"""The commands `builder images push` and `builder images pull`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from builder import console
from builder.cli.options import (
    AllowRehearsal,
    ImageSpec,
    Json,
    RegistryPassword,
    RegistryUser,
    Signed,
    registry_login_of_environment,
)
from builder.cli.output import display_path, emit
from builder.cli.state import State
from builder.console import Watcher
from builder.images import Image, load_image
from builder.registry import transfer
from builder.registry.client import Reference
from builder.registry.push_pull import Pulled, Pushed
from builder.registry.transfer import SCHEME

Source = Annotated[str, typer.Argument(metavar="ADDRESS", help="oci://HOST[:PORT]/REPOSITORY[:TAG], or …@sha256:….")]
Target = Annotated[str, typer.Argument(metavar="ADDRESS", help="oci://HOST[:PORT]/REPOSITORY[:TAG]")]


def push(
    ctx: typer.Context,
    image: ImageSpec,
    address: Target,
    user: RegistryUser = None,
    password_file: RegistryPassword = None,
    allow_rehearsal: AllowRehearsal = False,
    as_json: Json = False,
) -> None:
    """Push an image to a registry.

    It gets the tag of its version. The tag given moves to it, else `latest` if it is the latest here.
    """
    where = Reference.parse(address)
    login = transfer.login_from(user, password_file)
    version = load_image(ctx.ensure_object(State).settings().images, image)
    with console.watcher(as_json=as_json) as watcher:
        done = transfer.push(version, where, login, watcher, allow_rehearsal=allow_rehearsal)
    sent = console.size_text(done.sent) if done.sent else "nothing: it was there already"
    text = [
        f"pushed   {SCHEME}{where.name}:{done.tags[-1]}",
        f"image    {version.name}@{version.version}",
        f"tags     {', '.join(done.tags)}",
        f"digest   {done.digest}",
        f"sent     {sent}",
    ]
    emit(_pushed_facts(version, where, done), text, as_json)


def pull(
    ctx: typer.Context,
    address: Source,
    user: RegistryUser = None,
    password_file: RegistryPassword = None,
    signed: Signed = False,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="Refuse it unless the image has this name."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Make it the latest, also where the latest came from somewhere else.")
    ] = False,
    allow_rehearsal: AllowRehearsal = False,
    as_json: Json = False,
) -> None:
    """Pull an image from a registry, and verify it.

    Only `latest` becomes the latest here, and only of a name that came from there before or is new. A pull that was
    interrupted continues where it was.
    """
    login = transfer.login_from(user, password_file)
    settings = ctx.ensure_object(State).settings()
    with console.watcher(as_json=as_json) as watcher:
        done = transfer.pull(
            address,
            settings.images,
            login,
            watcher,
            signed=signed or settings.require_signed,
            allow_rehearsal=allow_rehearsal,
            name=name,
            replace=replace,
        )
    emit(_pulled_facts(done), _pulled_lines(done), as_json)


def sender(base: str, name: str, *, allow_rehearsal: bool) -> Callable[[Image, Watcher], dict[str, Any]]:
    """Check an address of `--push`, and return what pushes an image of this name there and describes that for programs.

    Raises:
        RecipeError: the address is not valid or names a tag, the image will be a rehearsal's, or the password in the
            environment cannot be used.
    """
    where = transfer.destination(base, name, allow_rehearsal=allow_rehearsal)
    login = transfer.login_from(*registry_login_of_environment())

    def send(image: Image, watcher: Watcher) -> dict[str, Any]:
        done = transfer.push(image, where, login, watcher, allow_rehearsal=allow_rehearsal)
        watcher.note(f"pushed: {SCHEME}{where.name}:{done.tags[-1]}")
        return _pushed_facts(image, where, done)

    return send


def _pushed_facts(image: Image, where: Reference, done: Pushed) -> dict[str, Any]:
    """Describe a push for programs."""
    return {
        "name": image.name,
        "version": image.version,
        "repository": f"{SCHEME}{where.name}",
        "tags": list(done.tags),
        "digest": done.digest,
        "sent": done.sent,
    }


def _pulled_facts(done: Pulled) -> dict[str, Any]:
    image, proof = done.image, done.proof
    return {
        "name": image.name,
        "version": image.version,
        "latest": image.latest,
        "held": image.held,
        "origin": image.origin,
        "digest": done.digest,
        "disk": str(image.disk),
        "sha256": image.sha256,
        "pulled": proof is not None,
        "signers": list(proof.signers) if proof else [],
        "passed": list(proof.passed) if proof else [],
        "skipped": list(proof.skipped) if proof else [],
    }


def _pulled_lines(done: Pulled) -> list[str]:
    image, proof = done.image, done.proof
    text = [
        f"image    {image.name}@{image.version}{' is here already' if proof is None else ''}",
        f"latest   {'yes' if image.latest else 'no'}",
        f"digest   {done.digest}",
        f"disk     {display_path(image.disk)}",
    ]
    if image.held and not image.latest:
        text[1] = f"latest   no: it is held (builder images release {image.name})"
    if proof is not None:
        text += [f"  proved: {line}" for line in proof.passed]
        text += [f"  not proved: {line}" for line in proof.skipped]
    return text
