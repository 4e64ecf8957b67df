"""The one rule: a clone knows the public half of a key; the private half is read only to log in with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from builder.errors import RecipeError
from builder.store.store import Store

SECRET = "clone_ed25519"
PUBLIC = ("ssh-", "ecdsa-", "sk-")


@dataclass(frozen=True)
class Key:
    """A public key line, and the file of the private half where it is known."""

    line: str
    private: Path | None


def given(path: Path) -> Key:
    """The key in a file: a public key, or a private one with or without its public half beside it.

    Raises:
        RecipeError: it cannot be read, or is neither.
    """
    text = _read(path)
    if text.startswith(PUBLIC):
        private = path.with_suffix("") if path.suffix == ".pub" else None
        return Key(_one_line(path, text), private.absolute() if private and private.is_file() else None)
    if "PRIVATE KEY-----" not in text:
        raise RecipeError(f"{path} is no SSH key", hint="give a public key (id_ed25519.pub) or a private one")
    beside = path.with_name(f"{path.name}.pub")
    if beside.is_file():
        return Key(_one_line(beside, _read(beside)), path.absolute())
    from builder.guest import ssh

    return Key(ssh.public_line(ssh.load_key(path)), path.absolute())


def own(store: Store) -> Key:
    """Builder's own key, made once and kept for its owner only."""

    def make() -> bytes:
        from builder.guest import ssh

        return ssh.make_private_key()

    def derive() -> bytes:
        from builder.guest import ssh

        return ssh.public_line(ssh.load_key(store.secrets / SECRET)).encode() + b"\n"

    store.secret(SECRET, make)
    return Key(store.secret(f"{SECRET}.pub", derive).decode().strip(), store.secrets / SECRET)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as fault:
        raise RecipeError(f"key file {path} cannot be read: {fault.strerror}") from fault
    except UnicodeDecodeError as fault:
        raise RecipeError(f"{path} is no SSH key") from fault


def _one_line(path: Path, text: str) -> str:
    lines = text.splitlines()
    if len(lines) != 1:
        raise RecipeError(f"{path} holds {len(lines)} lines, not one public key")
    return lines[0]
