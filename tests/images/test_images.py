"""The catalogue: immutable versions, `latest`, and the errors when an image cannot be found or published."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from builder import images
from builder.errors import PublishError
from builder.system.digests import sha256_file

pytestmark = pytest.mark.unit


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A file that stands for a sealed disk."""
    path = tmp_path / "disk.qcow2"
    path.write_bytes(b"disk" * 1000)
    path.chmod(0o444)
    return path


def other_disk(tmp_path: Path, text: bytes) -> Path:
    path = tmp_path / text.decode()
    path.write_bytes(text)
    path.chmod(0o444)
    return path


def publish(tmp_path: Path, disk: Path, name: str = "toy") -> images.Image:
    return images.publish(tmp_path / "images", name, {f"{name}.qcow2": disk}, {"run": "one"})


def test_a_published_image_is_whole(tmp_path: Path, disk: Path) -> None:
    image = publish(tmp_path, disk)
    digest = sha256_file(disk)
    assert image.version == digest[:12]
    assert image.path == tmp_path / "images" / "toy" / image.version
    assert image.sha256 == digest
    assert image.latest
    assert image.manifest["run"] == "one"
    assert image.manifest["files"] == {"toy.qcow2": {"size": 4000, "sha256": digest}}
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=image.path, check=True, capture_output=True)
    assert image.disk.samefile(disk)
    assert all(path.stat().st_mode & 0o222 == 0 for path in image.path.iterdir())
    assert (tmp_path / "images" / "toy" / "latest").readlink() == Path(image.version)


def test_publishing_again_changes_nothing(tmp_path: Path, disk: Path) -> None:
    first = publish(tmp_path, disk)
    before = {path: path.stat().st_mtime_ns for path in first.path.iterdir()}
    second = images.publish(tmp_path / "images", "toy", {"toy.qcow2": disk}, {"run": "two"})
    assert second == first
    assert {path: path.stat().st_mtime_ns for path in first.path.iterdir()} == before


def test_latest_moves_on_and_back(tmp_path: Path, disk: Path) -> None:
    old = publish(tmp_path, disk)
    new = publish(tmp_path, other_disk(tmp_path, b"new"))
    assert images.load_image(tmp_path / "images", "toy").version == new.version
    assert images.roll_back(tmp_path / "images", old)[0].latest
    assert images.load_image(tmp_path / "images", "toy").version == old.version
    assert {image.version for image in images.list_images(tmp_path / "images")} == {old.version, new.version}
    # What was rolled back from does not come back by being published again.
    assert publish(tmp_path, tmp_path / "new").held
    assert images.load_image(tmp_path / "images", "toy").version == old.version
    # Publishing what is there already, and not held, makes it the latest.
    assert images.release(tmp_path / "images", new).latest
    publish(tmp_path, disk)
    assert images.load_image(tmp_path / "images", "toy").version == old.version


def test_a_disk_on_another_file_system_is_copied(tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system")
    source = memory / f"builder-{os.getpid()}-disk"
    try:
        source.write_bytes(b"far away")
        image = publish(tmp_path, source)
    finally:
        source.unlink()
    assert image.disk.read_bytes() == b"far away"
    assert image.disk.stat().st_mode & 0o222 == 0


def test_rot_is_found_before_publishing(tmp_path: Path, disk: Path) -> None:
    good = publish(tmp_path, other_disk(tmp_path, b"good"))
    with pytest.raises(PublishError) as caught:
        images.publish(tmp_path / "images", "toy", {"toy.qcow2": disk}, {}, {"toy.qcow2": "0" * 64})
    assert caught.value.brief == f"{disk} has changed since it was finished"
    assert sha256_file(disk) in caught.value.details
    assert images.list_images(tmp_path / "images") == [good]


def test_a_failing_publish_touches_nothing(tmp_path: Path, disk: Path) -> None:
    good = publish(tmp_path, disk)
    before = sorted(path.name for path in good.path.parent.iterdir())
    new = other_disk(tmp_path, b"new")
    with pytest.raises(PublishError, match="toy cannot be published: No such file or directory"):
        images.publish(tmp_path / "images", "toy", {"toy.qcow2": new, "proof": tmp_path / "none"}, {})
    with pytest.raises(TypeError):
        images.publish(tmp_path / "images", "toy", {"toy.qcow2": new}, {"not for json": object()})
    assert sorted(path.name for path in good.path.parent.iterdir()) == before
    assert images.load_image(tmp_path / "images", "toy") == good


def test_a_damaged_version_is_not_taken_for_the_same(tmp_path: Path, disk: Path) -> None:
    image = publish(tmp_path, disk)
    image.disk.unlink()
    image.disk.write_bytes(b"rotten")
    with pytest.raises(PublishError) as caught:
        publish(tmp_path, disk)
    assert caught.value.brief == f"{image.path} is in the catalogue already, but damaged"
    assert image.disk.read_bytes() == b"rotten"


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "-x", "a b"])
def test_strange_names_are_refused(tmp_path: Path, disk: Path, name: str) -> None:
    with pytest.raises(PublishError, match="cannot be named"):
        publish(tmp_path, disk, name)
    with pytest.raises(PublishError, match="there is no image"):
        images.load_image(tmp_path / "images", name)


def test_a_misspelt_name_gets_near_ones(tmp_path: Path, disk: Path) -> None:
    publish(tmp_path, disk, "centos7-minimal")
    publish(tmp_path, disk, "other")
    with pytest.raises(PublishError) as caught:
        images.load_image(tmp_path / "images", "centos-minimal")
    assert caught.value.brief == "there is no image centos-minimal"
    assert caught.value.hint == "did you mean centos7-minimal?"
    assert caught.value.exit_code == 7


def test_a_rehearsal_is_never_found_under_the_plain_name(tmp_path: Path, disk: Path) -> None:
    publish(tmp_path, disk, "toy-rehearsal")
    with pytest.raises(PublishError):
        images.load_image(tmp_path / "images", "toy")


def test_versions_may_be_shortened_and_unknown_ones_are_told(tmp_path: Path, disk: Path) -> None:
    image = publish(tmp_path, disk)
    catalogue = tmp_path / "images"
    assert images.load_image(catalogue, f"toy@{image.version[:4]}") == image
    for spec in ("toy@", "toy@zzzz"):
        with pytest.raises(PublishError) as caught:
            images.load_image(catalogue, spec)
        assert caught.value.details == f"versions: {image.version}"
    (catalogue / "toy" / "latest").unlink()
    with pytest.raises(PublishError, match="has no latest version"):
        images.load_image(catalogue, "toy")


def test_an_empty_catalogue_lists_nothing(tmp_path: Path) -> None:
    assert images.list_images(tmp_path / "none") == []
    with pytest.raises(PublishError, match="there is no image toy"):
        images.load_image(tmp_path / "none", "toy")
