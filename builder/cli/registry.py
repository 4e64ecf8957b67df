"""The one rule: a password comes from a file or from standard input, and what moved is told with its digest."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from builder.cli.output import document, lines
from builder.cli.state import Json, State, short
from builder.errors import RecipeError

if TYPE_CHECKING:
    from builder.images import Image
    from builder.registry.auth import Login
    from builder.registry.client import Address
    from builder.registry.push_pull import Pulled, Pushed
    from builder.stage import Progress

SCHEME = "oci://"
USER, PASSWORD_FILE = "BUILDER_REGISTRY_USER", "BUILDER_REGISTRY_PASSWORD_FILE"
Source = Annotated[str, typer.Argument(metavar="ADDRESS", help="oci://HOST[:PORT]/REPOSITORY[:TAG], or …@sha256:….")]
Target = Annotated[str, typer.Argument(metavar="ADDRESS", help="oci://HOST[:PORT]/REPOSITORY[:TAG]")]
User = Annotated[
    str | None,
    typer.Option("--user", metavar="NAME", envvar=USER, help="Else as `docker login` left it."),
]
Password = Annotated[
    str | None,
    typer.Option(
        "--password-file",
        metavar="FILE",
        envvar=PASSWORD_FILE,
        help="Of that user; - is standard input.",
    ),
]
AllowRehearsal = Annotated[
    bool, typer.Option("--allow-rehearsal", help="Also an image from a rehearsal medium; it stays marked.")
]
Push = Annotated[
    str | None,
    typer.Option("--push", metavar="ADDRESS", help="Then push it to the repository of its name below this one."),
]


def push(
    ctx: typer.Context,
    image: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="The latest version, or this one.")],
    address: Target,
    user: User = None,
    password_file: Password = None,
    allow_rehearsal: AllowRehearsal = False,
    as_json: Json = False,
) -> None:
    """Send an image to a registry.

    It gets the tag of its version. The tag given moves to it, else `latest` if it is the latest here.
    """
    from builder import console, images
    from builder.registry.client import Address

    where = Address.parse(address)
    login = login_from(user, password_file)
    found = images.load_image(ctx.ensure_object(State).settings().images, image)
    with console.watcher(as_json=as_json) as watched:
        done = send(found, where, watched, login, allow_rehearsal=allow_rehearsal)
    if as_json:
        document(pushed_facts(found, where, done))
    else:
        lines(pushed_lines(found, where, done))


def pull(
    ctx: typer.Context,
    address: Source,
    user: User = None,
    password_file: Password = None,
    signed: Annotated[bool, typer.Option("--signed", help="Only what a trusted key has signed is good.")] = False,
    allow_rehearsal: AllowRehearsal = False,
    as_json: Json = False,
) -> None:
    """Take an image from a registry, and prove it.

    Only `latest` becomes the latest here. A pull that was cut off goes on where it was.
    """
    from builder import console

    login = login_from(user, password_file)
    catalogue = ctx.ensure_object(State).settings().images
    with console.watcher(as_json=as_json) as watched:
        done = take(address, catalogue, watched, login, signed=signed, allow_rehearsal=allow_rehearsal)
    if as_json:
        document(_pulled_facts(done))
        return
    image, proof = done.image, done.proof
    head = f"{image.name}@{image.version}{' is here already' if proof is None else ''}"
    mark = "yes" if image.latest else f"no: it is held (builder images release {image.name})" if image.held else "no"
    lines([f"image    {head}", f"latest   {mark}", f"digest   {done.digest}", f"disk     {short(image.disk)}"])
    if proof is not None:
        lines(f"  proved: {line}" for line in proof.passed)
        lines(f"  not proved: {line}" for line in proof.skipped)


def send(
    image: Image, where: Address, progress: Progress, login: Login | None = None, *, allow_rehearsal: bool
) -> Pushed:
    """Push an image that is in the catalogue."""
    from builder.registry import push_pull
    from builder.registry.client import Repository

    with Repository(where, login) as repository:
        return push_pull.push(image, repository, progress, allow_rehearsal=allow_rehearsal)


def take(
    address: str,
    catalogue: Path,
    progress: Progress,
    login: Login | None = None,
    *,
    signed: bool = False,
    allow_rehearsal: bool,
) -> Pulled:
    """Pull an image into the catalogue, unless it is there."""
    from builder.registry import push_pull
    from builder.registry.client import Address, Repository

    with Repository(Address.parse(address), login) as repository:
        return push_pull.pull(repository, catalogue, progress, signed=signed, allow_rehearsal=allow_rehearsal)


def login_from(user: str | None, password_file: str | None) -> Login | None:
    """User and password as the options have them; None without any.

    Raises:
        RecipeError: one without the other, or the file cannot be read or holds no password.
    """
    if user is None and password_file is None:
        return None
    if user is None or password_file is None:
        raise RecipeError("--user and --password-file belong together", hint="`docker login` needs neither")
    from builder.registry.auth import Login

    try:
        text = sys.stdin.read() if password_file == "-" else Path(password_file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise RecipeError(f"the password file {password_file} cannot be read: {fault}") from None
    password = text.removesuffix("\n").removesuffix("\r")
    if not password or "\n" in password:
        raise RecipeError(f"the password file {password_file} holds no password", "it has to be one line")
    return Login(user, password)


def login_of_environment() -> Login | None:
    """The same for commands that have other options enough: they take it from the environment alone."""
    return login_from(os.environ.get(USER), os.environ.get(PASSWORD_FILE))


def target(address: str | None, name: str, *, allow_rehearsal: bool) -> Address | None:
    """Where an image of this name goes that was built with `--push ADDRESS`; None without one.

    Raises:
        RecipeError: it is no such address, it names a tag, or the image will be a rehearsal's.
    """
    if address is None:
        return None
    from builder.registry.client import Address

    base = Address.parse(address)
    if base.tag or base.digest:
        raise RecipeError(
            f"--push {address}: no tag can be given", "each image gets the tag of its version, and latest"
        )
    if name.endswith("-rehearsal") and not allow_rehearsal:
        raise RecipeError(
            f"{name} is not pushed: it is a rehearsal", hint="if that is what you want: --allow-rehearsal"
        )
    return base.below(name)


def pushed_facts(image: Image, where: Address, done: Pushed) -> dict[str, Any]:
    """A push for programs."""
    return {
        "name": image.name,
        "version": image.version,
        "repository": f"{SCHEME}{where.name}",
        "tags": list(done.tags),
        "digest": done.digest,
        "sent": done.sent,
    }


def pushed_lines(image: Image, where: Address, done: Pushed) -> list[str]:
    """The same for people."""
    from builder import console

    return [
        f"pushed   {SCHEME}{where.name}:{done.tags[-1]}",
        f"image    {image.name}@{image.version}",
        f"tags     {', '.join(done.tags)}",
        f"digest   {done.digest}",
        f"sent     {console.size_text(done.sent) if done.sent else 'nothing: it was there already'}",
    ]


def _pulled_facts(done: Pulled) -> dict[str, Any]:
    image, proof = done.image, done.proof
    return {
        "name": image.name,
        "version": image.version,
        "latest": image.latest,
        "held": image.held,
        "digest": done.digest,
        "disk": str(image.disk),
        "sha256": image.sha256,
        "pulled": proof is not None,
        "signers": list(proof.signers) if proof else [],
        "passed": list(proof.passed) if proof else [],
        "skipped": list(proof.skipped) if proof else [],
    }
