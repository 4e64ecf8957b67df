"""DSSE envelopes around statements: signed, opened, and verified.

Invariant: a statement counts only where a key that its reader trusts has signed these very bytes.

Envelopes are DSSE 1.0 (github.com/secure-systems-lab/dsse, envelope.md), keys Ed25519, both by securesystemslib.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from pydantic_core import from_json
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import FormatError, VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined]  # its __init__ is untyped

from builder.errors import RecipeError

# in-toto attestation framework, spec/v1/envelope.md
PAYLOAD_TYPE = "application/vnd.in-toto+json"


@dataclass(frozen=True)
class Opened:
    """The contents of an envelope.

    Args:
        payload: what was signed.
        signers: ids of the keys that it says signed it; proved of none of them.
        proved: those of the trusted keys whose signature is right.
        wrong: those of the trusted keys whose signature is not right.
    """

    payload: bytes
    signers: tuple[str, ...]
    proved: tuple[str, ...]
    wrong: tuple[str, ...]


def create() -> tuple[bytes, bytes]:
    """A new private key and its public half, both as PEM."""
    private = CryptoSigner.generate_ed25519().private_bytes
    return private, public_of(private, "a new key")


def key_id(public: bytes, name: str) -> str:
    """The id of a public key, as envelopes name it: a digest of the key.

    Raises:
        RecipeError: this is no Ed25519 public key.
    """
    return str(_public(public, name).keyid)


def public_of(private: bytes, name: str) -> bytes:
    """The public half of a private key, as PEM.

    Raises:
        RecipeError: this is no private key that can be used without a passphrase.
    """
    try:
        key = load_pem_private_key(private, None)
    except (ValueError, TypeError) as fault:
        raise RecipeError(f"{name} is no private key in PEM, without a passphrase") from fault
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def close(payload: bytes, key: Path | None) -> bytes:
    """An envelope around a payload, on one line.

    Args:
        key: the private key that signs; None leaves it unsigned, which whoever opens it is told.

    Raises:
        RecipeError: the key cannot be read.
    """
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    if key is not None:
        try:
            private = key.read_bytes()
        except OSError as fault:
            raise RecipeError(f"the signing key {key} cannot be read: {fault.strerror}") from fault
        public = _public(public_of(private, str(key)), str(key))
        envelope.sign(CryptoSigner(load_pem_private_key(private, None), public))
    return json.dumps(envelope.to_dict(), separators=(",", ":")).encode() + b"\n"


def open_(text: bytes, trusted: Sequence[bytes]) -> Opened:
    """Return what is in an envelope, and which of the trusted keys (PEM) vouch for it.

    Raises:
        ValueError: it is no envelope.
    """
    try:
        # pydantic's reader: Python's own fails on deep nesting with an error that is not a ValueError.
        envelope = Envelope.from_dict(from_json(text, allow_inf_nan=False))
    except (KeyError, TypeError, AttributeError, FormatError, binascii.Error) as fault:
        raise ValueError("it is no DSSE envelope") from fault
    if envelope.payload_type != PAYLOAD_TYPE:
        raise ValueError(f"its payload is {envelope.payload_type!r}, not an in-toto statement")
    proved, wrong = [], []
    for key in (_public(pem, "a trusted key") for pem in trusted):
        if key.keyid not in envelope.signatures:
            continue
        try:
            envelope.verify([key], 1)
            proved.append(key.keyid)
        except VerificationError:
            wrong.append(key.keyid)
    return Opened(envelope.payload, tuple(envelope.signatures), tuple(proved), tuple(wrong))


def _public(pem: bytes, name: str) -> SSlibKey:
    try:
        key = load_pem_public_key(pem)
    except ValueError as fault:
        raise RecipeError(f"{name} is no public key in PEM") from fault
    if not isinstance(key, Ed25519PublicKey):
        raise RecipeError(f"{name} is no Ed25519 key", hint="make one: builder keys create")
    return SSlibKey.from_crypto(key)
