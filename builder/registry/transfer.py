"""Push and pull images by address, with the login that the caller was given.

Invariant: a password comes from a file or from standard input, never from the command line.
"""

from __future__ import annotations

import sys
from pathlib import Path

from builder.errors import RecipeError
from builder.images import Image
from builder.registry import push_pull
from builder.registry.auth import RegistryLogin
from builder.registry.client import Reference, Repository
from builder.registry.push_pull import Pulled, Pushed
from builder.stage import Progress

SCHEME = "oci://"


def push(
    image: Image, address: Reference, login: RegistryLogin | None, progress: Progress, *, allow_rehearsal: bool
) -> Pushed:
    """Push an image of the catalogue; see `push_pull.push`."""
    with Repository(address, login) as repository:
        return push_pull.push(image, repository, progress, allow_rehearsal=allow_rehearsal)


def pull(
    address: str,
    catalogue: Path,
    login: RegistryLogin | None,
    progress: Progress,
    *,
    signed: bool = False,
    allow_rehearsal: bool,
    name: str | None = None,
    replace: bool = False,
) -> Pulled:
    """Pull an image into the catalogue, unless it is there; see `push_pull.pull`."""
    with Repository(Reference.parse(address), login) as repository:
        return push_pull.pull(
            repository,
            catalogue,
            progress,
            signed=signed,
            allow_rehearsal=allow_rehearsal,
            name=name,
            replace=replace,
        )


def destination(base: str, name: str, *, allow_rehearsal: bool) -> Reference:
    """Return the repository for images of this name below an address, as `--push` gives it.

    Raises:
        RecipeError: the address is not valid or names a tag, or the image will be a rehearsal's.
    """
    address = Reference.parse(base)
    if address.tag or address.digest:
        raise RecipeError(f"--push {base}: no tag can be given", "each image gets the tag of its version, and latest")
    if name.endswith("-rehearsal") and not allow_rehearsal:
        raise RecipeError(
            f"{name} is not pushed: it is a rehearsal", hint="if that is what you want: --allow-rehearsal"
        )
    return address.below(name)


def login_from(user: str | None, password_file: str | None) -> RegistryLogin | None:
    """Read the password of a user; None without either.

    Args:
        password_file: path, or `-` for standard input.

    Raises:
        RecipeError: one is given without the other, or the file cannot be read or holds no password.
    """
    if user is None and password_file is None:
        return None
    if user is None or password_file is None:
        raise RecipeError("--user and --password-file belong together", hint="`docker login` needs neither")
    try:
        text = sys.stdin.read() if password_file == "-" else Path(password_file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise RecipeError(f"the password file {password_file} cannot be read: {fault}") from None
    password = text.removesuffix("\n").removesuffix("\r")
    if not password or "\n" in password:
        raise RecipeError(f"the password file {password_file} holds no password", "it has to be one line")
    return RegistryLogin(user, password)
