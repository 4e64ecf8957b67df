"""Versions after they were published: rolled back, released, pruned, verified, compared."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from builder import images
from builder.errors import PublishError
from builder.images import holds, references
from builder.images.catalogue import latest_of
from builder.system.digests import sha256_file
from tests.fakes.qcow2 import qcow2
from tests.pipeline import processes

pytestmark = pytest.mark.unit


def publish(folder: Path, text: str, manifest: dict[str, Any] | None = None, name: str = "toy") -> images.Image:
    source = folder / f"source-{text}"
    source.write_bytes(qcow2(text.encode()))
    when = {"created": f"2026-01-0{text[-1]}T00:00:00+00:00"} if text[-1].isdigit() else {}
    image = images.publish(folder / "images", name, {f"{name}.qcow2": source}, manifest or {})
    if when:
        # Versions of one second have no order: give each its own day.
        told = json.loads((image.path / images.MANIFEST).read_bytes()) | when
        (image.path / images.MANIFEST).chmod(0o644)
        (image.path / images.MANIFEST).write_text(json.dumps(told))
    return images.load_image(folder / "images", f"{name}@{image.version}")


@pytest.fixture
def three(tmp_path: Path) -> list[images.Image]:
    """Three versions, the oldest first."""
    return [publish(tmp_path, f"v{number}") for number in (1, 2, 3)]


def latest(folder: Path) -> images.Image:
    return images.load_image(folder / "images", "toy")


def use(folder: Path, image: images.Image, name: str = "web") -> Path:
    disk = folder / "vms" / name / "disk.qcow2"
    disk.parent.mkdir(parents=True)
    disk.touch()
    with images.using(image):
        images.enter(image, images.User(f"id-{name}", "clone", name, str(disk), "2026-01-01T00:00:00+00:00"))
    return disk


def test_rolling_back_holds_what_was_left(tmp_path: Path, three: list[images.Image]) -> None:
    catalogue = tmp_path / "images"
    assert images.previous(catalogue, "toy").version == three[1].version
    images.roll_back(catalogue, three[1])
    assert latest(tmp_path).version == three[1].version
    assert images.held_version(catalogue, "toy").version == three[2].version
    # An unchanged run publishes the held version again; a new version is no held one.
    publish(tmp_path, "v3")
    assert latest(tmp_path).version == three[1].version
    newer = publish(tmp_path, "v4")
    assert latest(tmp_path).version == newer.version
    # The version it gave way to is not the latest any more, so it does not jump over the newer one.
    assert not images.release(catalogue, three[2]).latest
    assert latest(tmp_path).version == newer.version
    assert images.list_images(catalogue)[1].held is False


def test_releasing_undoes_the_rollback(tmp_path: Path, three: list[images.Image]) -> None:
    images.roll_back(tmp_path / "images", three[0])
    with pytest.raises(PublishError, match="is not held"):
        images.release(tmp_path / "images", three[1])
    assert images.release(tmp_path / "images", three[2]).latest
    with pytest.raises(PublishError, match="has no version that is held"):
        images.held_version(tmp_path / "images", "toy")


def test_going_back_to_a_held_version_lifts_its_hold(tmp_path: Path, three: list[images.Image]) -> None:
    catalogue = tmp_path / "images"
    images.roll_back(catalogue, three[0])
    assert images.roll_back(catalogue, three[2])[0].latest
    assert [image.held for image in images.list_images(catalogue)] == [False, False, True]
    images.roll_back(catalogue, three[0])
    with pytest.raises(PublishError, match="no older version to go back to"):
        images.previous(catalogue, "toy")


def test_pruning_keeps_the_newest_the_latest_the_held_and_the_used(tmp_path: Path, three: list[images.Image]) -> None:
    catalogue = tmp_path / "images"
    publish(tmp_path, "v4")
    publish(tmp_path, "v5")
    disk = use(tmp_path, three[1])
    images.roll_back(catalogue, three[2])
    looked = images.prune(catalogue, ["toy"], 1, dry_run=True)
    assert len(images.list_images(catalogue)) == 5
    done = images.prune(catalogue, ["toy"], 1)
    assert [one.version for one in looked.removed] == [one.version for one in done.removed]
    assert {image.version: why for image, why in done.kept} == {
        three[2].version: "latest",
        three[1].version: "used by web",
    }
    left = [image.version for image in images.list_images(catalogue)]
    assert left[0] == images.held_version(catalogue, "toy").version
    assert left[1:] == [three[2].version, three[1].version]
    shutil.rmtree(disk.parent)
    assert [image.version for image in images.prune(catalogue, ["toy"], 1).removed] == [three[1].version]
    assert not list((catalogue / "toy" / references.FOLDER).glob("*/*"))
    assert not list((catalogue / "toy").glob(".gone-*"))


def test_an_entry_that_cannot_be_checked_stops_the_pruning(tmp_path: Path, three: list[images.Image]) -> None:
    disk = use(tmp_path, three[0])
    (tmp_path / "vms").rename(tmp_path / "unmounted")
    with pytest.raises(PublishError, match=r"toy stays whole: whether web still uses .* cannot be told"):
        images.prune(tmp_path / "images", ["toy"], 1)
    (tmp_path / "unmounted").rename(tmp_path / "vms")
    (entry,) = (tmp_path / "images" / "toy" / references.FOLDER / three[0].version).iterdir()
    entry.write_text("{torn")
    with pytest.raises(PublishError) as caught:
        images.prune(tmp_path / "images", ["toy"], 1)
    assert caught.value.hint.endswith(f"rm {entry}")
    assert len(images.list_images(tmp_path / "images")) == 3
    assert disk.exists()


def test_a_version_that_is_gone_cannot_be_used(tmp_path: Path, three: list[images.Image]) -> None:
    images.prune(tmp_path / "images", ["toy"], 1)
    with pytest.raises(PublishError, match="is gone"), images.using(three[0]):
        pass


def test_a_proof_finds_each_fault_and_is_kept(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(qcow2(b"disk"))
    (tmp_path / "proof").write_text("{}")
    sources = {"toy.qcow2": tmp_path / "disk", "notes": tmp_path / "proof"}
    image = images.publish(tmp_path / "images", "toy", sources, {})
    assert images.verify_version(image.path).good
    for name, text in {"toy.qcow2": "d1sk", "notes": "longer", "added": ""}.items():
        (image.path / name).unlink(missing_ok=True)
        (image.path / name).write_text(text)
    sums = image.path / images.SUMS
    sums.chmod(0o644)
    sums.write_text(sums.read_text().replace("notes", "other"))
    faults = images.verify_version(image.path).faults
    assert [line.partition(":")[0] for line in faults] == ["notes", "toy.qcow2", "added", "SHA256SUMS"]
    assert [proof.good for proof in images.verifications(image.path)] == [True, False]
    journal = tmp_path / "images" / "toy" / ".verified" / f"{image.version}.jsonl"
    journal.write_text(journal.read_text() + '{"torn')
    images.verify_version(image.path)
    assert len(images.verifications(image.path)) == 3
    (image.path / images.MANIFEST).unlink()
    assert images.verify_version(image.path).faults == ("manifest.json: No such file or directory",)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('"run": "one"', '"run": "two"', "manifest.json: it is not what was published"),
        ('"name": "toy"', '"name": "boy"', "manifest.json: it belongs to boy@"),
        ('"sealed": "', '"sealed": "0', "verify.json: it is not the proof of this disk"),
        ("{", "", "manifest.json: it cannot be read"),
    ],
)
def test_an_edited_manifest_is_found(tmp_path: Path, old: str, new: str, fault: str) -> None:
    disk, proof = tmp_path / "disk", tmp_path / "proof"
    disk.write_bytes(qcow2(b"disk"))
    verified = {"sealed": sha256_file(disk)}
    proof.write_text(json.dumps(verified))
    sources = {"toy.qcow2": disk, "verify.json": proof}
    image = images.publish(tmp_path / "images", "toy", sources, {"run": "one", "verified": verified})
    assert images.verify_version(image.path).good
    manifest = image.path / images.MANIFEST
    manifest.chmod(0o644)
    text = manifest.read_text()
    assert old in text
    manifest.write_text(text.replace(old, new, 1))
    (path,) = images.versions(tmp_path / "images", [f"toy@{image.version}"])
    assert any(line.startswith(fault) for line in images.verify_version(path).faults)


def facts(**changes: Any) -> dict[str, Any]:
    twin = {
        "packages": ["bash 4.2-1", "kernel 1-1", "vim 7-1"],
        "services": ["sshd.service"],
        "users": ["root 0"],
        "ports": ["tcp 0.0.0.0:22"],
        "suid": ["/usr/bin/su"],
        "cmdline": "BOOT_IMAGE=/vmlinuz root=UUID=1 ro quiet",
        "kernel": "3.10",
        "boot_seconds": 20.0,
    }
    stages = {"install": {"seconds": changes.pop("seconds", 60)}}
    return {"verified": {"twins": {"twin-a": twin | changes}}, "stages": stages, "disk": {"virtual_size": 8 << 30}}


def test_two_versions_are_compared(tmp_path: Path) -> None:
    old = publish(tmp_path, "v1", facts())
    changes = {
        "packages": ["bash 4.2-2", "kernel 1-1", "kernel 2-1", "zsh 5-1"],
        "ports": ["tcp 0.0.0.0:22", "tcp 0.0.0.0:80"],
        "cmdline": "BOOT_IMAGE=/other root=UUID=2 ro",
        "boot_seconds": 25.0,
    }
    found = images.compare(old, publish(tmp_path, "v2", facts(seconds=70, **changes)))
    assert found.sets["packages"] == images.Changes(
        ("zsh 5-1",), ("vim 7-1",), (("bash", "4.2-1", "4.2-2"), ("kernel", "1-1", "1-1, 2-1"))
    )
    assert found.sets["listening ports"].added == ("tcp 0.0.0.0:80",)
    assert found.sets["kernel arguments"].removed == ("quiet",)
    assert not found.sets["services"]
    assert found.numbers["boot"] == (20.0, 25.0)
    assert found.stages == {"install": (60, 70)}
    assert not found.same
    assert json.loads(json.dumps(found.as_dict()))["packages"]["updated"][0]["new"] == "4.2-2"
    assert images.compare(old, old).same


def test_what_has_no_record_is_unknown_not_changed(tmp_path: Path) -> None:
    old = facts()
    del old["verified"]["twins"]["twin-a"]["suid"]
    found = images.compare(publish(tmp_path, "v1", old), publish(tmp_path, "v2", facts()))
    assert "SUID files" not in found.sets
    assert list(found.unknown) == ["SUID files"]


def go_back(catalogue: Path) -> None:
    images.roll_back(catalogue, images.list_images(catalogue, "toy")[1])


def let_go(catalogue: Path) -> None:
    images.release(catalogue, images.held_version(catalogue, "toy"))


def throw_away(catalogue: Path) -> None:
    images.prune(catalogue, ["toy"], 1)


def catalogue_with(place: Path, change: int, *, rolled_back: bool = False) -> tuple[Path]:
    folder = place / str(change)
    folder.mkdir()
    for number in (1, 2, 3):
        publish(folder, f"v{number}")
    if rolled_back:
        go_back(folder / "images")
    return (folder / "images",)


@pytest.mark.process
@pytest.mark.parametrize("rolled_back", [False, True])
def test_rollback_and_release_killed_anywhere_are_done_or_not(tmp_path: Path, rolled_back: bool) -> None:
    kills = 0
    work = let_go if rolled_back else go_back
    for change in processes.killed_before_each_change(
        work, lambda change: catalogue_with(tmp_path, change, rolled_back=rolled_back)
    ):
        catalogue = tmp_path / str(change) / "images"
        now = latest(catalogue.parent)
        newest = images.list_images(catalogue)[0]
        held = [image.version for image in images.list_images(catalogue) if image.held]
        # Either the newest is the latest, or it was left and is held.
        assert held == ([] if now == newest else [newest.version])
        publish(catalogue.parent, "v3")
        assert latest(catalogue.parent).version == now.version
        assert set(holds.read(catalogue / "toy")) == set(held)
        assert not list((catalogue / "toy").glob(".new-*"))
        kills += 1
    assert kills > 5


@pytest.mark.process
def test_pruning_killed_anywhere_leaves_whole_versions_only(tmp_path: Path) -> None:
    kills = 0
    for change in processes.killed_before_each_change(throw_away, lambda change: catalogue_with(tmp_path, change)):
        catalogue = tmp_path / str(change) / "images"
        for image in images.list_images(catalogue):
            assert b"v" in image.disk.read_bytes()
        assert latest_of(catalogue / "toy") == latest(catalogue.parent).version
        throw_away(catalogue)
        assert len(images.list_images(catalogue)) == 1
        assert {path.name for path in (catalogue / "toy").glob(".gone-*")} == set()
        kills += 1
    assert kills > 5


def test_a_killed_user_gives_the_versions_free(tmp_path: Path, three: list[images.Image]) -> None:
    process = processes.start(_use_and_die, three[0])
    assert processes.status(process) == -signal.SIGKILL
    assert len(images.prune(tmp_path / "images", ["toy"], 1).removed) == 2


def _use_and_die(image: images.Image) -> None:
    with images.using(image):
        os.kill(os.getpid(), signal.SIGKILL)
