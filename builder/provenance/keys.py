"""Signing keys: those that are trusted, and the one that signs.

Invariant: private keys stay in the user's own configuration, readable by their owner only.
`~/.config/builder/signing/` (and, public halves only, `/etc/xdg/builder/signing/`): `<name>.key`, a private key, and
`<name>.pub`, a public one, both PEM. Every public key there is trusted. `default.key` signs, unless
$BUILDER_SIGNING_KEY names another file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from builder.errors import HostError, RecipeError
from builder.settings import host_config, user_config

KEY, PUBLIC = ".key", ".pub"
DEFAULT = "default"
CHOSEN = "BUILDER_SIGNING_KEY"


@dataclass(frozen=True)
class TrustedKey:
    """A trusted key.

    Args:
        path: of its public half.
        private: of its private half, where this user has it.
    """

    name: str
    path: Path
    private: Path | None


def folder() -> Path:
    """Return the user's own folder of keys."""
    return user_config() / "signing"


def chosen() -> Path | None:
    """Return the private key that signs; None where there is none.

    Raises:
        RecipeError: the key that $BUILDER_SIGNING_KEY names does not exist.
    """
    given = os.environ.get(CHOSEN)
    if given:
        if not Path(given).is_file():
            raise RecipeError(f"the signing key {given} does not exist", f"${CHOSEN} names it", "builder keys create")
        return Path(given)
    own = folder() / f"{DEFAULT}{KEY}"
    return own if own.is_file() else None


def known() -> list[TrustedKey]:
    """Return all trusted keys, by name; the user's own first where two have one name."""
    found: dict[str, TrustedKey] = {}
    for place in (folder(), host_config() / "signing"):
        for path in _public_keys(place):
            private = path.with_suffix(KEY)
            found.setdefault(path.stem, TrustedKey(path.stem, path, private if private.is_file() else None))
    return [found[name] for name in sorted(found)]


def find(name: str) -> TrustedKey:
    """Find a trusted key by its name.

    Raises:
        RecipeError: there is none.
    """
    keys = {key.name: key for key in known()}
    if name not in keys:
        raise RecipeError(f"there is no key named {name}", f"known: {', '.join(keys) or 'none'}", "builder keys create")
    return keys[name]


def trusted() -> dict[str, bytes]:
    """Return the public keys themselves, by name.

    Raises:
        HostError: one cannot be read.
    """
    found = {}
    for one in known():
        try:
            found[one.name] = one.path.read_bytes()
        except OSError as fault:
            raise HostError(f"the key {one.path} cannot be read: {fault.strerror}", hint="remove that file") from fault
    return found


def keep(name: str, public: bytes, private: bytes | None = None) -> Path:
    """Write a key, and trust it from now on; nothing that stands there is ever overwritten.

    Returns:
        The file of the public half.

    Raises:
        RecipeError: there is a key of that name, or it is no name.
        HostError: it cannot be written.
    """
    if not name or not all(one.isalnum() or one in "-_." for one in name) or name.startswith("."):
        raise RecipeError(f"a key cannot be named {name!r}", hint="letters, digits, dots, dashes and underscores")
    place = folder()
    path = place / f"{name}{PUBLIC}"
    parts = [(path.with_suffix(KEY), private, 0o600)] if private is not None else []
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file, content, mode in [*parts, (path, public, 0o644)]:
            assert content is not None
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            with os.fdopen(handle, "wb") as out:
                out.write(content)
                out.flush()
                os.fsync(out.fileno())
    except FileExistsError as fault:
        raise RecipeError(f"there is a key named {name} already", str(fault.filename), "builder keys list") from fault
    except OSError as fault:
        raise HostError(f"the key cannot be kept in {place}: {fault.strerror}") from fault
    return path


def _public_keys(place: Path) -> Iterator[Path]:
    try:
        yield from sorted(place.glob(f"*{PUBLIC}"))
    except OSError:
        return
