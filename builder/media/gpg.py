"""Verify signed text, clear-signed or with its signature apart; only what the expected key has signed counts.

gpg works in a throw-away home that holds the given key and no other; the user's own keyring is neither read nor
changed. Source of the facts: GnuPG, doc/DETAILS ("Format of the --status-fd output").
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from builder.errors import MediumError
from builder.system import process

# Bytes of a signed list; those of vendors have some KiB. Seconds of processor time for one look of gpg's.
_LARGEST = 4 << 20
_SECONDS = 20


def signed_text(data: bytes, fingerprint: str, key: Path, signature: bytes | None = None) -> str:
    """The text that a key has signed.

    Args:
        data: a clear-signed file, or what `signature` signs.
        fingerprint: of the signing key or of its primary key, 40 hex digits; spaces are ignored.
        key: file with the public key.
        signature: where it is detached.

    Raises:
        MediumError: not signed, signed by another key, or changed after signing.
        HostError: gpg is not installed.
    """
    wanted = re.sub(r"\s", "", fingerprint).upper()
    if not re.fullmatch(r"[0-9A-F]{40}", wanted):
        raise MediumError(f"{fingerprint!r} is not a key fingerprint of 40 hex digits")
    with tempfile.TemporaryDirectory(prefix="builder-gpg-") as home:
        gpg = _gpg(home)
        process.run([*gpg, "--quiet", "--import", key], error=MediumError)
        signed, status = Path(home) / "signed", Path(home) / "status"
        limit: list[str | Path] = ["--max-output", str(_LARGEST), "--output", signed]
        argv: list[str | Path] = [*gpg, "--status-file", status, *limit, "--decrypt"]
        if signature is not None:
            apart = Path(home) / "signature"
            apart.write_bytes(signature)
            argv = [*gpg, "--status-file", status, "--verify", apart, "-"]
        done = process.run(argv, stdin=data, check=False)
        output = status.read_text(errors="replace") if status.exists() else ""
        fault = _fault(output, wanted)
        if fault or done.status != 0 or (signature is None and not signed.exists()):
            raise MediumError(
                f"the signature on the checksums does not hold: {fault or 'gpg refused it'}",
                details=f"expected key {wanted}\n{done.error_text}",
                output=done.error_text,
                hint="get the checksum file and the key from the vendor again; do not use the medium until they fit",
            )
        return (data if signature is not None else signed.read_bytes()).decode("utf-8", "replace")


def fingerprints(key: Path) -> frozenset[str]:
    """Fingerprints of the primary keys in a file, 40 hex digits each; empty where it holds no public key.

    Raises:
        HostError: gpg is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="builder-gpg-") as home:
        done = process.run([*_gpg(home), "--with-colons", "--show-keys", key], check=False)
    found = set()
    primary = False
    for fields in (line.split(":") for line in done.stdout.splitlines()):
        if fields[0] == "fpr" and primary and len(fields) > 9:
            found.add(fields[9].upper())
        primary = fields[0] == "pub"
    return frozenset(found)


def public_half(key: Path) -> bytes:
    """Return the public keys in a file, armoured; empty where it holds no key.

    What else is in the file is left out: private keys, and text around the keys.

    Raises:
        HostError: gpg is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="builder-gpg-") as home:
        # No agent takes the private half; the public one is imported all the same.
        process.run([*_gpg(home), "--quiet", "--import", key], check=False)
        return process.run([*_gpg(home), "--quiet", "--armor", "--export"], check=False).stdout.encode()


def _gpg(home: str) -> list[str | Path]:
    # A message and a key may be compressed: some KiB can unpack to GiB, which gpg alone would write and hold.
    limits = [f"--fsize={2 * _LARGEST}", f"--data={512 << 20}", f"--cpu={_SECONDS}"]
    return [
        "prlimit",
        *limits,
        "--",
        "gpg",
        "--homedir",
        home,
        "--batch",
        "--no-tty",
        "--no-autostart",
        "--trust-model",
        "always",
    ]


def _fault(status: str, wanted: str) -> str:
    """Return what is wrong, by gpg's status lines; empty when exactly one good signature of the wanted key is there."""
    lines = [line.split()[1:] for line in status.splitlines() if line.startswith("[GNUPG:] ")]
    words = [line[0] for line in lines if line]
    for word, meaning in (
        ("BADSIG", "the text was changed after signing"),
        ("ERRSIG", "signed by a key that was not given"),
        ("EXPSIG", "the signature has expired"),
        ("EXPKEYSIG", "the key has expired"),
        ("REVKEYSIG", "the key was revoked"),
    ):
        if word in words:
            return meaning
    valid = [line for line in lines if line[:1] == ["VALIDSIG"]]
    if words.count("GOODSIG") != 1 or len(valid) != 1:
        return "it is not signed"
    # The first word is the fingerprint of the key that signed, the last that of the primary key it belongs to.
    if wanted not in (valid[0][1], valid[0][-1]):
        return f"signed by another key, {valid[0][-1]}"
    return ""
