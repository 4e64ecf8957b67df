"""Private keys on the way from seal, which finds them, to verify, which judges them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from builder.errors import Cause, Source, VerifyError
from builder.settings import BuildOptions, HostOptions, Paths
from builder.stage import Job, Ledger
from builder.stages import install, seal, secret_scan, twins
from builder.stages.key_owners import KeyOwner
from builder.stages.secret_scan import Fingerprint
from builder.store.secrets import StoredSecrets
from builder.store.store import Store
from tests.conftest import Silent

pytestmark = pytest.mark.unit

KEY = b"-----BEGIN OPENSSH PRIVATE KEY-----\n" + b"b3BlbnNzaC1rZXktdjEAAAAA" * 4 + b"\n"
CONSTANT = KeyOwner(76422144, "/usr/lib64/libgnutls.so.28", "gnutls-3.3.29", intact=True)
ALLOWED = KeyOwner(76500000, "/opt/app/dev.pem", allowed=True)
UNOWNED = KeyOwner(4096, "/root/.ssh/id_rsa")
CHANGED = KeyOwner(8192, "/usr/lib64/libssl.so.10", "openssl-libs-1.0.2k")
DELETED = KeyOwner(12288)


class Noting(Silent):
    """Keeps what a stage notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def job(tmp_path: Path) -> Job[Any]:
    """A job of `seal` on a disk of 1 MiB with a private key at byte 512."""
    before = tmp_path / "provisioned"
    before.mkdir()
    (before / install.FILE).write_bytes((bytes(512) + KEY).ljust(1 << 20, b"\0"))
    out, scratch, evidence = (tmp_path / name for name in ("out", "scratch", "evidence"))
    for folder in (out, scratch, evidence):
        folder.mkdir()
    inputs: Any = seal.SealInputs(compression="zlib")
    return Job(
        run_id="test",
        digest="d" * 64,
        inputs=inputs,
        needs={"provision": before},
        digests={},
        out=out,
        scratch=scratch,
        evidence=evidence,
        paths=Paths(tmp_path / "artifacts", (), ()),
        host=HostOptions(),
        build=BuildOptions(),
        secrets=StoredSecrets(Store(tmp_path / ".store"), "toy"),
        progress=Noting(),
        ledger=Ledger(),
    )


def test_a_private_key_is_sealed_with_a_note_of_its_place_alone(job: Job[Any]) -> None:
    seal.run(job)
    (key,) = seal.private_keys(job.out)
    assert (key.offset, key.header) == (512, KEY.decode().partition("\n")[0])
    for file in job.out.iterdir():
        assert KEY.split(b"\n")[1] not in file.read_bytes() or file.name == seal.FILE


def test_the_key_that_a_run_provisioned_with_is_never_sealed(job: Job[Any]) -> None:
    """Whatever file holds it: no package and no recipe excuses it."""
    (job.needs["provision"] / secret_scan.RUN_KEY).write_text(json.dumps(asdict(Fingerprint.of(KEY.strip()))))
    with pytest.raises(VerifyError, match="the installed disk holds the private key that the run logged in with"):
        seal.run(job)
    assert list(job.out.iterdir()) == []


def test_keys_of_packages_and_allowed_files_pass_and_are_noted(job: Job[Any]) -> None:
    owners = [CONSTANT, KeyOwner(76422344, CONSTANT.path, CONSTANT.package, intact=True), ALLOWED]
    twins.require_harmless(job, owners)
    assert job.progress.notes == [  # type: ignore[attr-defined]
        "private keys in the image: 1 in /opt/app/dev.pem (allowed by the recipe)",
        "private keys in the image: 2 in /usr/lib64/libgnutls.so.28 (gnutls-3.3.29)",
    ]
    assert twins.kept_keys(owners)[1] == {"path": CONSTANT.path, "source": "gnutls-3.3.29", "keys": 2}
    assert list(job.evidence.iterdir()) == []


@pytest.mark.parametrize(
    ("owner", "brief", "hint"),
    [
        (UNOWNED, "/root/.ssh/id_rsa", "verify.allow_private_keys"),
        (CHANGED, "/usr/lib64/libssl.so.10", "verify.allow_private_keys"),
        (DELETED, "byte 12288 of the disk, in no file", "fstrim"),
    ],
)
def test_any_other_key_fails_with_its_place_and_all_are_evidence(
    job: Job[Any], owner: KeyOwner, brief: str, hint: str
) -> None:
    with pytest.raises(VerifyError) as caught:
        twins.require_harmless(job, [CONSTANT, owner, ALLOWED])
    fault = caught.value
    assert fault.brief == f"the image holds a private key: {brief}"
    assert fault.details == str(owner)
    assert hint in fault.hint
    assert (fault.exit_code, fault.diagnosis.cause) == (6, Cause.SECRET_IN_IMAGE)
    assert fault.diagnosis.source is Source.PRIVATE_KEYS
    assert (job.evidence / twins.KEYS).read_text().splitlines() == [str(CONSTANT), str(owner), str(ALLOWED)]
