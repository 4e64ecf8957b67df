"""Public keys as people copy them: whole ones with odd comments, and some that let nobody in."""

from __future__ import annotations

import base64
import struct
import subprocess
from pathlib import Path

import pytest

from builder.clones.ssh_keys import read_key
from builder.errors import RecipeError
from builder.guest.seed import Identity, files

WHOLE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKvvmWzS3gvGsl2u4Lbmap6ZxYEkB/qYhVeLr2Oz4SlG"
BODY = WHOLE.split()[1]


def keygen(folder: Path, *words: str) -> Path:
    """A fresh key of ssh-keygen's; the path of its public half."""
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-f", folder / "key", *words], check=True)
    return folder / "key.pub"


def accepted(path: Path) -> bool:
    """What OpenSSH says of a line."""
    return subprocess.run(["ssh-keygen", "-l", "-f", path], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    "words",
    [("-t", "ed25519"), ("-t", "rsa", "-b", "2048"), *(("-t", "ecdsa", "-b", bits) for bits in ("256", "384", "521"))],
)
def test_each_type_of_key_and_each_piece_of_it(tmp_path: Path, words: tuple[str, ...]) -> None:
    path = keygen(tmp_path, *words, "-C", "Jürgen,  Büro \N{ROCKET} #1")
    line = read_key(path).line
    kind, body, comment = line.split(" ", 2)
    assert (path.read_text().split()[:2], "Büro" in comment) == ([kind, body], True)
    assert f"ssh-key={line}\n" in files(Identity("i", "web", (line,)))["builder.conf"].decode()
    for length in (1, 8, 24, len(body) // 2, len(body) - 4, len(body) - 1):
        path.write_text(f"{kind} {body[:length]} comment\n")
        with pytest.raises(RecipeError, match=r"key.pub is not a public key"):
            read_key(path)


@pytest.mark.parametrize(
    "text",
    [f"{WHOLE}\n", WHOLE, WHOLE.replace(" ", "  "), WHOLE.replace(" ", " \t "), f"  {WHOLE} ü\r\n", f"\ufeff{WHOLE}"],
)
def test_white_space_is_free(tmp_path: Path, text: str) -> None:
    path = tmp_path / "key.pub"
    path.write_bytes(text.encode())
    assert read_key(path).line.split()[:2] == WHOLE.split()
    assert read_key(path).line.count("  ") == 0


@pytest.mark.parametrize(
    "line",
    [
        "ssh-rsa " + BODY,
        "ssh-dss " + BODY,
        "ssh-ed25519",
        "ssh-ed25519 root@laptop",
        "ssh-ed25519-cert-v01@openssh.com " + BODY,
        WHOLE + "\nssh-key=other",
        WHOLE + " a\x1b[31mb",
        WHOLE + " a\u2028b",
        WHOLE + " a\x85b",
        # Bytes behind the key.
        "ssh-ed25519 " + base64.b64encode(base64.b64decode(BODY) + struct.pack(">I", 1) + b"x").decode(),
        # A length that points behind the end.
        "ssh-ed25519 " + base64.b64encode(base64.b64decode(BODY)[:15] + b"\x7f\xff\xff\xff" + b"x" * 32).decode(),
    ],
)
def test_what_lets_nobody_in_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "key.pub"
    path.write_text(line + "\n")
    with pytest.raises(RecipeError):
        read_key(path)
    with pytest.raises(RecipeError):
        Identity("i", "web", (line,))


def test_a_short_rsa_key_is_refused(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = RSAPublicNumbers(65537, (1 << 1000) + 1).public_key()
    path = tmp_path / "key.pub"
    path.write_bytes(key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    with pytest.raises(RecipeError, match=r"key.pub") as refused:
        read_key(path)
    assert refused.value.details


def test_what_is_written_openssh_reads(tmp_path: Path) -> None:
    path = tmp_path / "key.pub"
    path.write_text(WHOLE.replace(" ", "  ") + "   zwei  Wörter\n")
    line = read_key(path).line
    path.write_text(line + "\n")
    assert (line, accepted(path)) == (f"{WHOLE} zwei  Wörter", True)
