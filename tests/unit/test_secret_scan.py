"""The search for secrets on a raw disk: what it must find wherever it stands, and what it must let pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.stages.secret_scan import CHUNK, OVERLAP, scan

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
    return [(leak.what, leak.offset) for leak in scan(path, password=PASSWORD, crypt=CRYPT)]


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


@pytest.mark.parametrize("offset", [0, CHUNK - 20, CHUNK + 7])
def test_finds_a_private_key(tmp_path: Path, offset: int) -> None:
    assert found(disk(tmp_path, (offset, KEY))) == [("a private key", offset)]


def test_self_test_key_in_a_library_passes(tmp_path: Path) -> None:
    assert found(disk(tmp_path, (777, b"\0" + KEY + b"\0"))) == []


@pytest.mark.parametrize("before", [b"\0", b"\n"], ids=["file at a sector's start", "in a bundle"])
def test_key_file_is_found_whatever_stands_before_it(tmp_path: Path, before: bytes) -> None:
    offset = 4096 if before == b"\0" else 4099
    path = disk(tmp_path, (offset - 1, before + KEY + b"\0"), filler=False)
    assert found(path) == [("a private key", offset)]


def test_header_constant_of_a_program_is_no_key(tmp_path: Path) -> None:
    constant = b"\0-----BEGIN OPENSSH PRIVATE KEY-----\n\0-----END OPENSSH PRIVATE KEY-----\n\0"
    assert found(disk(tmp_path, (100, constant))) == []


def test_empty_disk(tmp_path: Path) -> None:
    assert found(disk(tmp_path, filler=False)) == []
