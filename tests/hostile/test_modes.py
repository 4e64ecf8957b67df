"""Modes of files and folders under any umask: QEMU's user reaches what it needs, and nobody else may write."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from builder.store.secrets import StoredSecrets
from builder.store.store import Store
from builder.system import host_facts
from builder.vm import connection
from tests.command import Ran, builder
from tests.registry.conftest import Make, Registry, make, pushed, registry

__all__ = ["builder", "make", "registry"]

Builder = Callable[..., Ran]


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that other users may pass."""
    folder = Path(tempfile.mkdtemp(prefix="builder-test-", dir="/var/tmp"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_a_pull_under_any_umask(mask: int, builder: Builder, make: Make, registry: Registry, place: Path) -> None:
    image = make()
    pushed(image, registry.address())
    with umask(mask):
        done = builder("--artifacts", str(place / "a"), "images", "pull", registry.address())
        assert os.umask(mask) == mask
    assert done.returncode == 0, done.stderr
    paths = [place / "a", *(place / "a").rglob("*")]
    assert [path for path in paths if not path.is_symlink() and path.stat().st_mode & 0o022] == []
    version = place / "a/images/toy" / image.version
    for folder in (version, *list(version.parents)[:3]):
        assert folder.stat().st_mode & 0o005 == 0o005, folder
    assert stat.S_IMODE((version / "toy.qcow2").stat().st_mode) == 0o444
    with connection.connect("qemu:///system") as host:
        if host.qemu_user:
            host_facts.require_reach(*host.qemu_user, [version / "toy.qcow2"], [])


@pytest.mark.skipif(os.geteuid() != 0, reason="QEMU runs as the same user otherwise")
def test_what_qemus_user_cannot_reach_is_asked_before_the_first_stage(builder: Builder, place: Path) -> None:
    with connection.connect("qemu:///system") as host:
        if not host.qemu_user or host.qemu_user[0] == 0:
            pytest.skip("QEMU runs as root")
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    done = builder("--artifacts", str(closed / "a"), "run", "centos7-minimal")
    assert done.returncode == 3, done.stderr
    lines = done.stderr.splitlines()
    assert "cannot reach" in next(line for line in lines if line.startswith("error: "))
    assert any(line.strip().startswith(f"{closed} does not let it through") for line in lines)
    assert any(f"chmod o+x {closed}," in line for line in lines)
    assert not (closed / "a/runs").exists()


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_secrets_are_for_their_owner_whatever_the_umask(mask: int, builder: Builder, tmp_path: Path) -> None:
    with umask(mask):
        assert builder("keys", "create").returncode == 0
        assert StoredSecrets(Store(tmp_path / "artifacts/.store"), "toy").root_password
    keys = tmp_path / "home/.config/builder/signing"
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    assert stat.S_IMODE((keys / "default.key").stat().st_mode) == 0o600
    secrets = tmp_path / "artifacts/.store/secrets"
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    assert stat.S_IMODE((secrets / "toy.password").stat().st_mode) == 0o600
