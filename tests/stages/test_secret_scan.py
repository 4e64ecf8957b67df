"""The search for secrets on a raw disk: what it must find wherever it is, and what it only notes."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.stages.secret_scan import CHUNK, OVERLAP, Fingerprint, scan

pytestmark = pytest.mark.unit

PASSWORD = "correct-horse-7"
CRYPT = "$6$saltsalt$" + "h" * 86
KEY = b"-----BEGIN OPENSSH PRIVATE KEY-----\n" + b"b3BlbnNzaC1rZXktdjEAAAAA" * 4 + b"\n"


def disk(tmp_path: Path, *pieces: tuple[int, bytes], size: int = 3 * CHUNK, filler: bool = True) -> Path:
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.truncate(size)
        if filler:
            file.write(b"x" * size)
        for offset, data in pieces:
            file.seek(offset)
            file.write(data)
    return path


def found(path: Path) -> list[tuple[str, int]]:
    return [(leak.what, leak.offset) for leak in scan(path, password=PASSWORD, crypt=CRYPT).leaks]


def keys(path: Path) -> list[int]:
    return [key.offset for key in scan(path, password=PASSWORD, crypt=CRYPT).keys]


@pytest.mark.parametrize("offset", [0, 4095, CHUNK - 5, CHUNK - OVERLAP - 3, CHUNK - OVERLAP, 2 * CHUNK + 1])
@pytest.mark.parametrize("filler", [True, False], ids=["full", "sparse"])
def test_finds_the_password_anywhere(tmp_path: Path, offset: int, filler: bool) -> None:
    path = disk(tmp_path, (offset, PASSWORD.encode()), filler=filler)
    assert found(path) == [("the plain root password", offset)]


@pytest.mark.parametrize("offset", [10, CHUNK - 40, CHUNK - OVERLAP - 50, CHUNK - OVERLAP + 1, 2 * CHUNK - OVERLAP])
def test_hash_in_shadow_passes(tmp_path: Path, offset: int) -> None:
    path = disk(tmp_path, (offset - 5, f"root:{CRYPT}:19000:0:".encode()))
    assert found(path) == []


@pytest.mark.parametrize("offset", [10, CHUNK - 40, CHUNK - OVERLAP + 1, 2 * CHUNK - 2 * OVERLAP])
def test_hash_in_a_saved_kickstart_is_found(tmp_path: Path, offset: int) -> None:
    path = disk(tmp_path, (offset, f"rootpw --iscrypted {CRYPT}\n".encode()))
    assert [what for what, _ in found(path)] == ["a copy of the root password's hash outside /etc/shadow"]


@pytest.mark.parametrize("offset", [0, 777, CHUNK - 20, CHUNK - OVERLAP, CHUNK + 7])
@pytest.mark.parametrize("around", [b"\0", b"\n", b""], ids=["constant", "bundle", "file"])
def test_a_private_key_is_noted_wherever_it_stands(tmp_path: Path, offset: int, around: bytes) -> None:
    """Its surroundings do not decide whether it is a secret: they are luck."""
    path = disk(tmp_path, (max(0, offset - len(around)), around + KEY + around))
    at = max(offset, len(around))
    assert keys(path) == [at]
    assert found(path) == []


def test_nothing_of_a_private_key_is_noted_but_its_header(tmp_path: Path) -> None:
    (key,) = scan(disk(tmp_path, (4096, KEY)), password=PASSWORD, crypt=CRYPT).keys
    assert key.header == "-----BEGIN OPENSSH PRIVATE KEY-----"


@pytest.mark.parametrize("offset", [0, CHUNK - 100, CHUNK - OVERLAP - 7, CHUNK + 7])
def test_the_key_of_the_run_is_a_secret(tmp_path: Path, offset: int) -> None:
    path = disk(tmp_path, (offset, KEY))
    leaks = scan(path, password=PASSWORD, crypt=CRYPT, run_key=Fingerprint.of(KEY.strip())).leaks
    assert [(leak.what, leak.offset) for leak in leaks] == [("the private key that the run logged in with", offset)]
    assert scan(path, password=PASSWORD, crypt=CRYPT, run_key=Fingerprint.of(KEY[::-1])).leaks == ()


def test_header_constant_of_a_program_is_no_key(tmp_path: Path) -> None:
    constant = b"\0-----BEGIN OPENSSH PRIVATE KEY-----\n\0-----END OPENSSH PRIVATE KEY-----\n\0"
    assert keys(disk(tmp_path, (100, constant))) == []


def test_empty_disk(tmp_path: Path) -> None:
    assert found(disk(tmp_path, filler=False)) == []
