"""Secrets: made once, stable, checked, and never handed to a program in argv."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from builder.errors import RecipeError
from builder.store.secrets import ALPHABET, LENGTH, StoredSecrets, read_password
from builder.store.store import Store

pytestmark = pytest.mark.unit


def test_a_password_is_made_once_for_each_name(tmp_path: Path) -> None:
    store = Store(tmp_path)
    secrets = StoredSecrets(store, "centos7-minimal")
    password = secrets.root_password
    assert len(password) == LENGTH
    assert set(password) <= set(ALPHABET)
    assert not set("0Oo1lIyzYZ") & set(ALPHABET)
    assert secrets.path.read_text() == f"{password}\n"
    assert secrets.path.stat().st_mode & 0o777 == 0o600
    assert StoredSecrets(Store(tmp_path), "centos7-minimal").root_password == password
    assert StoredSecrets(store, "other").root_password != password


def test_the_crypt_string_is_stable_and_right(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("correct horse\n")
    one = StoredSecrets(Store(tmp_path / "one"), "toy", tmp_path / "password")
    assert one.path == tmp_path / "password"
    assert one.root_crypt == StoredSecrets(Store(tmp_path / "one"), "again", tmp_path / "password").root_crypt
    empty, kind, salt, crypt = one.root_crypt.split("$")
    assert (empty, kind, len(salt), len(crypt)) == ("", "6", 16, 86)
    # Another program's opinion: crypt(3) through perl, which every Debian has.
    code = "print crypt($ARGV[0], $ARGV[1])"
    done = subprocess.run(["perl", "-e", code, "correct horse", f"$6${salt}$"], capture_output=True, check=True)
    assert done.stdout.decode() == one.root_crypt
    # Another store, another salt.
    assert StoredSecrets(Store(tmp_path / "two"), "toy", tmp_path / "password").root_crypt.split("$")[2] != salt


def test_a_mac_depends_on_text_and_store(tmp_path: Path) -> None:
    one = StoredSecrets(Store(tmp_path / "one"), "toy")
    assert len(one.mac("text")) == 64
    assert one.mac("text") == StoredSecrets(Store(tmp_path / "one"), "other").mac("text")
    assert one.mac("text") != one.mac("text2")
    assert one.mac("text") != StoredSecrets(Store(tmp_path / "two"), "toy").mac("text")


def test_peeking_writes_nothing_and_takes_what_is_there(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    peek = StoredSecrets(store, "toy", peek=True)
    assert peek.root_crypt.startswith("$6$")
    assert peek.mac("text") == peek.mac("text")
    assert not store.root.exists()
    real = StoredSecrets(store, "toy")
    assert real.root_crypt != peek.root_crypt
    assert StoredSecrets(store, "toy", peek=True).root_crypt == real.root_crypt


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"two\nlines\n", "has more than one line"),
        (b"two\rlines", "has more than one line"),
        (b"ding\a", "holds a control character"),
        (b"tab\tbed", "holds a control character"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"x" * 257, "holds more than 256 bytes"),
    ],
)
def test_unusable_password_files_are_refused(tmp_path: Path, data: bytes, fault: str) -> None:
    path = tmp_path / "password"
    path.write_bytes(data)
    with pytest.raises(RecipeError) as caught:
        StoredSecrets(Store(tmp_path / "store"), "toy", path).root_password  # noqa: B018
    assert caught.value.brief == f"root password file {path} {fault}"


@pytest.mark.parametrize("data", [b"word", b"word\n", b"word\r\n", " ä ö ".encode(), b"x" * 256])
def test_usable_password_files_are_taken_as_they_are(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "password"
    path.write_bytes(data)
    assert read_password(path) == data.decode().rstrip("\r\n")


def test_a_missing_password_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read: No such file or directory"):
        read_password(tmp_path / "none")
