"""The root password of an image; a secret enters a digest only as a MAC, under a key of the store."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets as randomness
import unicodedata
from functools import cached_property
from pathlib import Path

from builder.errors import RecipeError
from builder.store.store import KEY_BYTES, Store
from builder.system import process

# No look-alikes (0 O o, 1 l I, …), and neither y nor z, which change places on a German keyboard: the password has to
# be typed at consoles that know one layout only.
ALPHABET = "abcdefghijkmnpqrstuvwxABCDEFGHJKLMNPQRSTUVWX23456789"
LENGTH = 20
# openssl passwd cuts off what is longer (its pw_maxlen for SHA-512 crypt), with a mere warning.
MAX_BYTES = 256


class StoredSecrets:
    """The secrets of one order (`builder.stage.Secrets`).

    A root password that nobody gave is made once for each order name and kept, for its owner only, in `path`.

    Args:
        name: the order's, as in the catalogue.
        password_file: holds the root password; None for a password made by builder.
        peek: write nothing; what was not made yet is made up for this object alone, so that every digest with a MAC
            in it is a new one.
    """

    def __init__(self, store: Store, name: str, password_file: Path | None = None, *, peek: bool = False) -> None:
        self._store = store
        self._file = f"{name}.password"
        self._given = password_file
        self._peek = peek

    @property
    def path(self) -> Path:
        """The file in which the root password is to be found."""
        return self._given or self._store.secrets / self._file

    @cached_property
    def root_password(self) -> str:
        """The plain root password.

        Raises:
            RecipeError: the password file cannot be read or does not hold one usable line.
        """
        if self._given is not None:
            return read_password(self._given)
        if self._peek and not self._store.has_secret(self._file):
            return _random_password()
        kept = self._store.secret(self._file, lambda: f"{_random_password()}\n".encode())
        return _password(kept, self._store.secrets / self._file)

    @cached_property
    def root_crypt(self) -> str:
        """Its SHA-512 crypt string; the salt comes from the password and the store's key, so that it is stable."""
        password = self.root_password
        mac = hmac.digest(self._key, b"salt\0" + password.encode(), hashlib.sha256)
        salt = base64.b64encode(mac, altchars=b"./")[:16].decode()
        words = ("openssl", "passwd", "-6", "-salt", salt, "-stdin")
        return process.run(words, stdin=f"{password}\n", timeout=60).stdout.strip()

    def mac(self, text: str) -> str:
        """HMAC-SHA256 under the store's key, as 64 hex digits: the only form in which a secret may enter a digest."""
        return hmac.digest(self._key, text.encode(), hashlib.sha256).hex()

    @cached_property
    def _key(self) -> bytes:
        if self._peek and not self._store.has_secret("key"):
            return randomness.token_bytes(KEY_BYTES)
        return self._store.key


def read_password(path: Path) -> str:
    """The one line of a password file.

    Raises:
        RecipeError: it cannot be read, or is empty, longer than a line or than 256 bytes, or has control characters.
    """
    try:
        data = path.read_bytes()
    except OSError as fault:
        raise RecipeError(f"root password file {path} cannot be read: {fault.strerror}") from fault
    return _password(data, path)


def _password(data: bytes, path: Path) -> str:
    hint = "the file holds the password on one line, and nothing else"
    try:
        text = data.decode()
    except UnicodeDecodeError as fault:
        raise RecipeError(f"root password file {path} is not UTF-8 text", hint=hint) from fault
    password = text.removesuffix("\n").removesuffix("\r")
    if not password:
        raise RecipeError(f"root password file {path} is empty", hint=hint)
    if "\n" in password or "\r" in password:
        raise RecipeError(f"root password file {path} has more than one line", hint=hint)
    if any(unicodedata.category(character) == "Cc" for character in password):
        raise RecipeError(f"root password file {path} holds a control character", hint=hint)
    if len(password.encode()) > MAX_BYTES:
        raise RecipeError(f"root password file {path} holds more than {MAX_BYTES} bytes", hint="take a shorter one")
    return password


def _random_password() -> str:
    return "".join(randomness.choice(ALPHABET) for _ in range(LENGTH))
