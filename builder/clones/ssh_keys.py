"""SSH keys that the root of clones accepts.

Invariant: a clone gets the public half of a key; the private half is read only to log in with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from builder.errors import RecipeError
from builder.guest import public_key, ssh
from builder.store.store import Store

SECRET = "clone_ed25519"
PUBLIC = ("ssh-", "ecdsa-", "sk-")


@dataclass(frozen=True)
class Key:
    """A public key line, and the file of the private half where it is known."""

    line: str
    private: Path | None


def read_key(path: Path) -> Key:
    """Read the key in a file: a public key, or a private one with or without its public half beside it.

    Raises:
        RecipeError: it cannot be read, or is neither.
    """
    text = _read(path)
    if text.startswith(PUBLIC):
        private = path.with_suffix("") if path.suffix == ".pub" else None
        return Key(_one_line(path, text), private.absolute() if private and private.is_file() else None)
    if "PRIVATE KEY-----" not in text:
        raise RecipeError(f"{path} is not an SSH key", hint="give a public key (id_ed25519.pub) or a private one")
    beside = path.with_name(f"{path.name}.pub")
    if beside.is_file():
        return Key(_one_line(beside, _read(beside)), path.absolute())
    return Key(ssh.public_line(ssh.load_key(path)), path.absolute())


def read_keys(paths: Iterable[Path]) -> tuple[Key, ...]:
    """Read the keys in files; one that is given twice, perhaps with another comment, counts once.

    Raises:
        RecipeError: see `read_key`.
    """
    keys: dict[str, Key] = {}
    for key in map(read_key, paths):
        kind_and_body = " ".join(key.line.split()[:2])
        known = keys.get(kind_and_body)
        if known is None or known.private is None:
            keys[kind_and_body] = key if known is None else Key(known.line, key.private)
    return tuple(keys.values())


def builder_key(store: Store) -> Key:
    """Return builder's own key, which is created once and readable for its owner only."""

    def derive() -> bytes:
        return ssh.public_line(ssh.load_key(store.secrets / SECRET)).encode() + b"\n"

    store.secret(SECRET, ssh.make_private_key)
    return Key(store.secret(f"{SECRET}.pub", derive).decode().strip(), store.secrets / SECRET)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except OSError as error:
        raise RecipeError(f"cannot read key file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not an SSH key") from error


def _one_line(path: Path, text: str) -> str:
    lines = text.split("\n")
    if len(lines) != 1:
        raise RecipeError(f"{path} has {len(lines)} lines instead of one public key")
    try:
        return public_key.normal_line(lines[0])
    except ValueError as error:
        raise RecipeError(
            f"{path} is not a public key that a guest would accept",
            str(error),
            "copy the whole file of the key again, e.g. ~/.ssh/id_ed25519.pub",
        ) from None
