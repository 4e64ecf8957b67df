"""Provenance of an image: signed, verified offline, and each kind of tampering reported on a line of its own."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from builder import images
from builder.provenance import dsse, sbom, sbom_check, statement
from tests.command import Ran
from tests.fakes.qcow2 import qcow2

pytestmark = pytest.mark.unit

Builder = Callable[..., Ran]
SEALED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def published(builder: Builder, tmp_path: Path) -> Callable[..., Path]:
    """A toy image in the catalogue; signed with the user's key where there is one."""

    def make(text: bytes = b"disk") -> Path:
        disk = tmp_path / "disk"
        disk.write_bytes(qcow2(text))
        sha256 = hashlib.sha256(disk.read_bytes()).hexdigest()
        bill = tmp_path / "bill"
        bill.write_bytes(sbom.render("toy", sha256[:12], sha256, SEALED, ["bash 5.2-1"]))
        key = tmp_path / "home/.config/builder/signing/default.key"

        def attest(subjects: Mapping[str, str]) -> bytes:
            told = {
                "_type": statement.STATEMENT,
                "predicateType": statement.PREDICATE,
                "subject": [{"name": name, "digest": {"sha256": one}} for name, one in subjects.items()],
            }
            return dsse.close(json.dumps(told).encode(), key if key.exists() else None)

        sources = {"toy.qcow2": disk, images.SBOM: bill}
        return images.publish(tmp_path / "artifacts/images", "toy", sources, {}, attest=attest).path

    return make


def verified(builder: Builder, *, code: int = 0) -> dict[str, Any]:
    done = builder("images", "verify", "toy", "--json")
    assert done.returncode == code, done.stderr
    (proof,) = done.document()
    found: dict[str, Any] = proof
    return found


def change(path: Path, text: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(text)
    path.chmod(0o444)


def test_a_signed_image_is_proved(builder: Builder, published: Callable[..., Path]) -> None:
    assert builder("keys", "create").returncode == 0
    published()
    proof = verified(builder)
    assert (proof["good"], proof["skipped"], proof["signers"]) == (True, [], ["default"])
    told = builder("images", "verify", "toy", "--signed").stdout.splitlines()
    assert told[0].endswith(": good, signed by default")
    assert told[1:] == [
        f"  passed: {line}"
        for line in (
            f"{images.SBOM}: sha256 as published",
            "toy.qcow2: sha256 as published",
            f"{images.MANIFEST}: sha256 as published",
            f"{images.SBOM}: CycloneDX, of this disk",
            f"{images.PROVENANCE}: of these very files",
            f"{images.PROVENANCE}: signed by default",
        )
    ]


def test_what_cannot_be_proved_is_said(builder: Builder, published: Callable[..., Path], tmp_path: Path) -> None:
    published()
    proof = verified(builder)
    assert proof["good"]
    assert [line.split(" (")[0] for line in proof["skipped"]] == [f"{images.PROVENANCE}: nobody signed it"]
    refused = builder("images", "verify", "toy", "--signed")
    assert (refused.returncode, "no key that you trust vouches for it" in refused.stderr) == (6, True)

    # Signed, by somebody who is a stranger until his key is trusted.
    builder("keys", "create")
    signing = tmp_path / "home/.config/builder/signing"
    published(b"another disk")
    (signing / "default.pub").rename(tmp_path / "friend.pub")
    (signing / "default.key").unlink()
    (line,) = verified(builder)["skipped"]
    assert "whom you do not trust" in line
    assert builder("keys", "trust", "friend.pub").returncode == 0
    assert verified(builder)["signers"] == ["friend"]


def test_each_file_that_was_tampered_with_has_its_line(builder: Builder, published: Callable[..., Path]) -> None:
    builder("keys", "create")
    path = published()
    for name in ("toy.qcow2", images.MANIFEST, images.SBOM, images.PROVENANCE):
        before = (path / name).read_bytes()
        broken = before.replace(b"disk", b"disc") if name == "toy.qcow2" else before[:-2] + b" " + before[-1:]
        change(path / name, broken)
        faults = verified(builder, code=6)["faults"]
        assert {line.partition(":")[0] for line in faults} == {name}
        change(path / name, before)
        assert verified(builder)["good"]


def test_a_forger_who_mends_all_sums_is_found_by_the_signature(
    builder: Builder, published: Callable[..., Path]
) -> None:
    builder("keys", "create")
    path = published()

    def mend() -> None:
        names = [one.name for one in path.iterdir() if one.name != images.SUMS]
        sums = [f"{hashlib.sha256((path / name).read_bytes()).hexdigest()}  {name}\n" for name in sorted(names)]
        change(path / images.SUMS, "".join(sums).encode())

    manifest = (path / images.MANIFEST).read_bytes()
    change(path / images.MANIFEST, manifest.replace(b'"created": "202', b'"created": "201'))
    mend()
    assert verified(builder, code=6)["faults"] == [f"{images.PROVENANCE}: it is not about this manifest.json"]

    # The statement forged too: its signature gives it away.
    envelope = json.loads((path / images.PROVENANCE).read_bytes())
    payload = json.loads(base64.b64decode(envelope["payload"]))
    for one in payload["subject"]:
        one["digest"]["sha256"] = hashlib.sha256((path / one["name"]).read_bytes()).hexdigest()
    envelope["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    change(path / images.PROVENANCE, json.dumps(envelope).encode())
    mend()
    assert verified(builder, code=6)["faults"] == [f"{images.PROVENANCE}: the signature of default is wrong"]


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"payload": "e30=", "payloadType": "x", "signatures": []}'])
def test_no_envelope_at_all(builder: Builder, published: Callable[..., Path], text: bytes) -> None:
    change(published() / images.PROVENANCE, text)
    assert f"{images.PROVENANCE}: it is not a signed statement of provenance" in verified(builder, code=6)["faults"]


def test_a_removed_statement_is_missed(builder: Builder, published: Callable[..., Path]) -> None:
    path = published()
    (path / images.PROVENANCE).unlink()
    assert verified(builder, code=6)["faults"] == [f"{images.PROVENANCE}: No such file or directory"]


def test_the_bill_is_what_its_schema_wants_and_the_same_each_time() -> None:
    packages = ["bash 5.2-1", "glibc 2.17-317.el7", "gpg-pubkey f4a80eb5-53a7ff4b"]
    text = sbom.render("toy", "0" * 12, "0" * 64, SEALED, packages, "rocky-9.8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text.decode()) is None
    assert text == sbom.render("toy", "0" * 12, "0" * 64, SEALED, packages[::-1], "rocky-9.8")
    purls = [part["purl"] for part in json.loads(text)["components"]]
    assert purls[0] == "pkg:rpm/rocky/bash@5.2-1?distro=rocky-9.8"
    assert sbom_check.fault(text, "0" * 64) is None
    assert sbom_check.fault(text, "1" * 64) == "it is not of this disk"
    assert sbom_check.fault(b"{}", "0" * 64) == "it is not CycloneDX 1.6"


def test_keys(builder: Builder, tmp_path: Path) -> None:
    assert builder("keys", "list").stdout == "no keys\n"
    made = builder("keys", "create", "--json").document()
    private = Path(made["public"]).with_suffix(".key")
    assert private.stat().st_mode & 0o777 == 0o600
    again = builder("keys", "create")
    assert (again.returncode, "there is a key named default already" in again.stderr) == (2, True)
    assert builder("keys", "export").stdout == Path(made["public"]).read_text()
    assert builder("keys", "list").stdout.split()[-3:] == ["default", made["id"][:12], "yes"]
    assert builder("keys", "create", "../x").returncode == 2
    (tmp_path / "rsa.pub").write_text("no key")
    assert "is no public key" in builder("keys", "trust", "rsa.pub").stderr
    gone = builder("images", "list", BUILDER_SIGNING_KEY="/nowhere")
    assert gone.returncode == 0
