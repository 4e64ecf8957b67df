"""What is packed of a run to be sent elsewhere: all of its evidence, and nothing that lets somebody in."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.errors import PublishError
from builder.pipeline import run_pack
from builder.settings import Settings
from builder.store import runs
from builder.store.secrets import StoredSecrets
from builder.store.store import Store
from tests.command import Ran

pytestmark = pytest.mark.unit
RUN = "20261130-120000-abcd"
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXkt\n-----END OPENSSH PRIVATE KEY-----"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A store with one root password, and a run whose files have it in many forms."""
    given = tmp_path / "password"
    given.write_text("given by hand\n")
    settings = Settings(artifacts=tmp_path / "artifacts", recipes=(), templates=(), root_password_file=given)
    store = Store(settings.store)
    store.prepare()
    orders = [StoredSecrets(store, name) for name in ("web", "web-2")]
    text = "\n".join(
        [
            *(f"login {one.root_password} {one.root_crypt}" for one in orders),
            'rootpw --plaintext "given by hand"',
            "user --name=a --password=hunter22",
            "url --url=https://me:pass@mirror.example/os",
            f"{KEY}\nafter",
        ]
    )
    folder = settings.runs / RUN
    (folder / "deep").mkdir(parents=True)
    runs.save(settings.runs, runs.RunRecord(id=RUN, pipeline="web", started="2026-11-30T12:00:00+00:00"))
    (folder / "console.log").write_bytes(b"\xff\x1b[0m" + text.encode())
    (folder / "deep" / "kickstart.cfg").write_text(text)
    (folder / "screenshot.png").write_bytes(b"\x89PNG\r\n\xff")
    (folder / "link").symlink_to(given)
    return settings


def unpacked(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {name: file.read() for name in tar.getnames() if (file := tar.extractfile(name)) is not None}


def test_all_evidence_is_packed_and_no_secret(settings: Settings, tmp_path: Path) -> None:
    run_id, sizes = run_pack.pack(settings, RUN[:12], tmp_path / "out.tar.gz")
    assert run_id == RUN
    files = unpacked(tmp_path / "out.tar.gz")
    names = ["host.json", "console.log", "deep/kickstart.cfg", "run.json", "screenshot.png"]
    assert list(files) == [f"{RUN}/{name}" for name in names]
    assert sizes == {name: len(files[f"{RUN}/{name}"]) for name in names}
    assert (tmp_path / "out.tar.gz").stat().st_mode & 0o777 == 0o600
    orders = [StoredSecrets(Store(settings.store), name) for name in ("web", "web-2")]
    secrets = [*(secret for one in orders for secret in (one.root_password, one.root_crypt)), "given by hand"]
    for secret in (*secrets, "hunter22", "me:pass", "b3BlbnNzaC1rZXkt"):
        assert all(secret.encode() not in data for data in files.values()), secret
    # What is around them is as it was, bytes that are no text, too.
    assert files[f"{RUN}/screenshot.png"] == b"\x89PNG\r\n\xff"
    assert files[f"{RUN}/console.log"].startswith(b"\xff\x1b[0mlogin ********")
    assert files[f"{RUN}/console.log"].endswith(b"\nafter")
    assert b"mirror.example/os" in files[f"{RUN}/deep/kickstart.cfg"]
    assert json.loads(files[f"{RUN}/host.json"])["cpus"] >= 1


def test_a_run_that_is_not_there(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="there is no run"):
        run_pack.pack(settings, "2025", tmp_path / "out.tar.gz")
    assert not (tmp_path / "out.tar.gz").exists()


def test_the_command_leaves_a_file_that_is_there(
    settings: Settings, tmp_path: Path, builder: Callable[..., Ran]
) -> None:
    words = ("--artifacts", str(settings.artifacts), "runs", "pack", RUN)
    assert builder(*words, "--json").document()["archive"] == f"{RUN}.tar.gz"
    again = builder(*words)
    assert again.returncode == 2
    assert "exists already" in again.stderr
    assert builder(*words, "--force").returncode == 0
