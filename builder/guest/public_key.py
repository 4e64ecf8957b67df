"""Public SSH keys in OpenSSH's one-line form (sshd(8), "AUTHORIZED_KEYS FILE FORMAT").

Invariant: a line that was returned holds a whole key that today's sshd accepts, and is one line.
"""

from __future__ import annotations

import unicodedata

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

TYPES = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)
# sshd refuses shorter ones (RequiredRSASize in sshd_config(5)).
LEAST_RSA_BITS = 1024


def normal_line(text: str) -> str:
    """Return a public key as one line, with one blank between its type, the key and its comment.

    Raises:
        ValueError: it is not a whole public key; the message says what is wrong, after the words "it is" or alike.
    """
    kind, _, rest = text.strip().replace("\t", " ").partition(" ")
    encoded, _, comment = rest.strip().partition(" ")
    comment = comment.strip()
    if any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in text.strip().replace("\t", " ")):
        raise ValueError("there is a line break or a control character in it")
    if kind not in TYPES:
        raise ValueError(f"it starts with {kind[:40]!r}, which is none of {', '.join(TYPES)}")
    try:
        key = load_ssh_public_key(f"{kind} {encoded}".encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        reason = f"what follows {kind} is damaged or cut off, or a key of another type"
        raise ValueError(f"{reason} ({str(error).rstrip('.') or type(error).__name__})") from None
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < LEAST_RSA_BITS:
        raise ValueError(f"an RSA key of {key.key_size} bits is too short for sshd")
    return " ".join(filter(None, (kind, encoded, comment)))
