"""Push and pull against Debian's docker-registry, read back with skopeo."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from builder import images
from builder.errors import PublishError, VerifyError
from builder.registry import artifact
from builder.registry.client import INDEX_TYPE
from tests.registry.conftest import SIZE, Make, Registry, Wire, pulled, pushed, refuse


def skopeo(*words: str | Path) -> bytes:
    return subprocess.run(["skopeo", *words], check=True, capture_output=True).stdout


def files(path: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in path.iterdir()}


def test_what_is_pushed_is_what_skopeo_finds(make: Make, registry: Registry, tmp_path: Path, small_pieces: int) -> None:
    image = make()
    done = pushed(image, registry.address())
    assert done.tags == (image.version, "latest")
    target = f"docker://{registry.host}/golden/toy"
    raw = skopeo("inspect", "--raw", "--tls-verify=false", f"{target}:latest")
    assert done.digest == f"sha256:{hashlib.sha256(raw).hexdigest()}"
    assert raw == skopeo("inspect", "--raw", "--tls-verify=false", f"{target}:{image.version}")
    manifest = json.loads(raw)
    assert manifest["artifactType"] == artifact.ARTIFACT
    assert manifest["annotations"]["org.opencontainers.image.version"] == image.version
    assert manifest["annotations"]["org.opencontainers.image.created"] == image.manifest["created"]

    # A copy as an OCI layout: skopeo checks every digest on the way.
    skopeo("copy", "--src-tls-verify=false", f"{target}:latest", f"oci:{tmp_path / 'layout'}:toy")
    there = tmp_path / "layout/blobs/sha256"
    (entry,) = json.loads((tmp_path / "layout/index.json").read_bytes())["manifests"]
    assert entry["digest"] == done.digest

    def blob(layer: dict[str, str]) -> bytes:
        return (there / layer["digest"].partition(":")[2]).read_bytes()

    assert blob(manifest["config"]) == (image.path / images.MANIFEST).read_bytes()
    pieces = [layer for layer in manifest["layers"] if layer["mediaType"] == artifact.DISK]
    assert [layer["size"] for layer in pieces] == [small_pieces] * (SIZE // small_pieces)
    assert b"".join(map(blob, pieces)) == image.disk.read_bytes()
    others = {layer["annotations"][artifact.TITLE]: blob(layer) for layer in manifest["layers"] if layer not in pieces}
    assert others == {
        name: content for name, content in files(image.path).items() if name not in (images.MANIFEST, image.disk.name)
    }


def test_bill_and_provenance_are_referrers_also_where_the_registry_keeps_no_list(
    make: Make, registry: Registry
) -> None:
    image = make()
    done = pushed(image, registry.address())
    listed = registry.get(f"manifests/{done.digest.replace(':', '-')}").json()
    assert listed["mediaType"] == INDEX_TYPE
    found = {}
    for entry in listed["manifests"]:
        manifest = registry.get(f"manifests/{entry['digest']}").json()
        assert manifest["subject"]["digest"] == done.digest
        assert manifest["artifactType"] == entry["artifactType"]
        (layer,) = manifest["layers"]
        found[entry["artifactType"]] = registry.get(f"blobs/{layer['digest']}").content
    assert found == {artifact.TYPES[name]: (image.path / name).read_bytes() for name in artifact.REFERRERS}
    # Not twice in the list when it is pushed again.
    pushed(image, registry.address())
    assert registry.get(f"manifests/{done.digest.replace(':', '-')}").json() == listed


def test_a_registry_with_referrers_gets_no_tag_in_their_place(make: Make, registry: Registry, wire: Wire) -> None:
    def new(answer: Any) -> None:
        if answer.request.method == "PUT" and "/manifests/" in answer.url:
            answer.headers["OCI-Subject"] = "sha256:any"

    wire.answers = new
    done = pushed(make(), wire.address())
    assert registry.get(f"manifests/{done.digest.replace(':', '-')}").status_code == 404


def test_pulled_into_an_empty_store_it_is_the_same_and_proved(
    make: Make, registry: Registry, tmp_path: Path, small_pieces: int
) -> None:
    image = make()
    digest = pushed(image, registry.address()).digest
    catalogue = tmp_path / "other/images"
    done = pulled(catalogue, registry.address())
    assert (done.digest, done.image.version, done.image.latest) == (digest, image.version, True)
    assert files(done.image.path) == files(image.path)
    assert all(path.stat().st_mode & 0o222 == 0 for path in done.image.path.iterdir())
    assert not list((catalogue / ".pulling").iterdir())
    assert [proof.good for proof in images.verifications(done.image.path)] == [True]
    assert "toy.qcow2: sha256 as published" in done.proof.passed
    assert images.verify_version(done.image.path).good
    again = pulled(catalogue, registry.address(f"@{digest}"))
    assert (again.image, again.proof) == (done.image, None)


def test_latest_moves_only_to_what_is_the_latest_here(make: Make, registry: Registry, tmp_path: Path) -> None:
    old, new = make(b"old"), make(b"new")
    catalogue = tmp_path / "artifacts/images"
    assert pushed(images.load_image(catalogue, "toy"), registry.address()).tags == (new.version, "latest")
    old = images.load_image(catalogue, f"toy@{old.version}")
    assert pushed(old, registry.address()).tags == (old.version,)
    assert pushed(old, registry.address(":stable")).tags == (old.version, "stable")
    other = tmp_path / "other"
    assert pulled(other, registry.address()).image.version == new.version
    # An older version joins the catalogue; the latest stays what it is.
    assert not pulled(other, registry.address(":stable")).image.latest
    assert images.load_image(other, "toy").version == new.version
    assert pulled(tmp_path / "third", registry.address(":stable")).image.latest


def test_latest_does_not_go_back_by_itself(make: Make, registry: Registry) -> None:
    """Two hosts that build the same: the one that built earlier has no news, and pushes what it has."""
    old, new = make(b"old"), make(b"new", host="another")
    old = replace(old, facts=old.facts.model_copy(update={"created": old.facts.created - timedelta(days=1)}))
    assert pushed(new, registry.address()).tags == (new.version, "latest")
    assert pushed(old, registry.address()).tags == (old.version,)
    assert pushed(old, registry.address(":latest")).tags == (old.version, "latest")
    assert pushed(new, registry.address()).tags == (new.version, "latest")


def test_a_second_push_sends_nothing_and_rot_is_not_passed_on(make: Make, registry: Registry, wire: Wire) -> None:
    image = make()
    assert pushed(image, wire.address()).sent > SIZE
    moved = wire.moved
    assert pushed(image, wire.address()).sent == 0
    assert wire.moved - moved < 100 << 10
    image.disk.chmod(0o644)
    with image.disk.open("r+b") as file:
        file.seek(SIZE // 2)
        file.write(b"rot")
    with pytest.raises(PublishError, match="is not what was published"):
        pushed(image, registry.address())


def test_a_rehearsal_goes_nowhere_unasked_and_stays_one(make: Make, registry: Registry, tmp_path: Path) -> None:
    image = make(name="toy-rehearsal", rehearsal=True)
    with pytest.raises(PublishError, match="is a rehearsal's image and was not pushed") as caught:
        pushed(image, registry.address())
    assert caught.value.hint.endswith("--allow-rehearsal")
    assert registry.blobs() == 0
    pushed(image, registry.address(), allow_rehearsal=True)
    with pytest.raises(PublishError, match="is a rehearsal's image and was not pulled"):
        pulled(tmp_path / "other", registry.address())
    assert images.list_images(tmp_path / "other") == []
    done = pulled(tmp_path / "other", registry.address(), allow_rehearsal=True)
    assert (done.image.name, done.image.manifest["rehearsal"]) == ("toy-rehearsal", True)
    with pytest.raises(PublishError, match="there is no image toy"):
        images.load_image(tmp_path / "other", "toy")


def test_only_what_a_trusted_key_has_signed(make: Make, registry: Registry, tmp_path: Path) -> None:
    pushed(make(), registry.address())
    with pytest.raises(VerifyError) as caught:
        pulled(tmp_path / "other", registry.address(), signed=True)
    assert "no key that you trust" in caught.value.details
    assert images.list_images(tmp_path / "other") == []
    assert not list((tmp_path / "other/.pulling").iterdir())


def test_what_does_not_prove_itself_does_not_enter(make: Make, registry: Registry, tmp_path: Path) -> None:
    """Every digest is right, but the provenance is of something else."""
    pushed(make(attested={"toy.qcow2": "0" * 64}), registry.address())
    with pytest.raises(VerifyError) as caught:
        pulled(tmp_path / "other", registry.address())
    assert caught.value.exit_code == 6
    assert f"{images.PROVENANCE}: it is not about this toy.qcow2" in caught.value.details
    assert images.list_images(tmp_path / "other") == []
    assert not list((tmp_path / "other/.pulling").iterdir())


def test_latest_is_not_taken_from_who_moved_it_meanwhile(make: Make, registry: Registry, wire: Wire) -> None:
    ours, theirs = make(b"ours"), make(b"theirs", host="another")
    seen: list[Any] = []

    def somebody(_handler: Any, method: str, path: str) -> bool:
        if method == "PUT" and "/blobs/" in path and not seen:
            seen.append(pushed(theirs, registry.address(":latest")))
        return False

    wire.act = somebody
    with pytest.raises(PublishError, match="latest was moved by somebody else meanwhile") as caught:
        pushed(ours, wire.address(":latest"))
    assert seen[0].digest in caught.value.details
    assert registry.get("manifests/latest").headers["Docker-Content-Digest"] == seen[0].digest
    # Nothing is lost: the version is there, and can become the latest when asked again.
    assert registry.get(f"manifests/{ours.version}").status_code == 200
    assert pushed(ours, registry.address(":latest")).sent == 0


def test_a_registry_that_knows_conditions_is_asked_for_them(make: Make, registry: Registry, wire: Wire) -> None:
    first, second = make(b"first"), make(b"second")
    conditions = []

    def strict(handler: Any, method: str, path: str) -> bool:
        if method != "PUT" or not path.endswith("/manifests/stable"):
            return False
        wanted, none = handler.headers.get("If-Match"), handler.headers.get("If-None-Match")
        conditions.append((wanted, none))
        there = registry.get("manifests/stable").headers.get("Docker-Content-Digest")
        return refuse(handler, 412) if (none and there) or (wanted and wanted != f'"{there}"') else False

    wire.act = strict
    digest = pushed(first, wire.address(":stable")).digest
    pushed(second, wire.address(":stable"))
    assert conditions == [(None, "*"), (f'"{digest}"', None)]


def test_the_tag_of_a_version_never_moves(make: Make, registry: Registry) -> None:
    image = make()
    pushed(make(b"other"), registry.address(f":{image.version}"))
    with pytest.raises(PublishError, match="is another image already"):
        pushed(image, registry.address())
