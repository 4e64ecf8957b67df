"""Exports: each format holds the image's bytes, is complete or absent, and changes nothing in the catalogue."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder import images
from builder.errors import PublishError
from builder.images.export import KINDS, Kind, export
from builder.vm import qemu_img
from tests.pipeline.processes import killed_before_each_change

pytestmark = pytest.mark.unit

Run = Callable[..., Any]
SIZE = 4 << 20


@pytest.fixture
def image(tmp_path: Path) -> images.Image:
    """A sealed disk of 4 MiB with something in it, in the catalogue."""
    raw = tmp_path / "disk.raw"
    raw.write_bytes(os.urandom(1 << 20))
    os.truncate(raw, SIZE)
    sealed = tmp_path / "disk.qcow2"
    qemu_img.convert(raw, "raw", sealed, "qcow2", compression="zstd")
    sealed.chmod(0o444)
    manifest = {"stages": {"verify": {"inputs": {"machine": "pc", "devices": "emulated", "memory": 1 << 30}}}}
    return images.publish(tmp_path / "artifacts" / "images", "toy", {"toy.qcow2": sealed}, manifest)


def told(path: Path) -> dict[str, Any]:
    """What qemu-img itself finds the file to be."""
    found: dict[str, Any] = json.loads(
        subprocess.run(["qemu-img", "info", "--output=json", path], check=True, capture_output=True).stdout
    )
    return found


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "vagrant"])
def test_each_format_holds_the_bytes_of_the_image(image: images.Image, tmp_path: Path, kind: Kind) -> None:
    heard: list[tuple[str, float]] = []
    path = export(image, kind, tmp_path / f"out.{kind}", on_progress=lambda *words: heard.append(words))
    facts = told(path)
    assert facts["virtual-size"] == SIZE
    if kind != "raw":
        assert facts["format"] == kind
    assert subprocess.run(["qemu-img", "compare", "-q", image.disk, path], check=False).returncode == 0
    assert {"writing", "reading back"} == {what for what, _ in heard}
    assert heard[-1][1] == 100.0
    assert path.stat().st_mode & 0o777 == 0o644
    assert not list(tmp_path.glob(".out*"))


def test_a_qcow2_opens_with_old_programs_unless_asked_otherwise(image: images.Image, tmp_path: Path) -> None:
    assert qemu_img.info(image.disk, "qcow2").compression == "zstd"
    assert qemu_img.info(export(image, "qcow2", tmp_path / "old"), "qcow2").compression == "zlib"
    assert qemu_img.info(export(image, "qcow2", tmp_path / "new", compression="zstd"), "qcow2").compression == "zstd"


def test_a_box_is_what_vagrant_reads(image: images.Image, tmp_path: Path) -> None:
    path = export(image, "vagrant", tmp_path / "toy.box")
    folder = tmp_path / "box"
    folder.mkdir()
    subprocess.run(["tar", "-xzf", path, "-C", folder], check=True)
    assert json.loads((folder / "metadata.json").read_text()) == {
        "provider": "libvirt",
        "format": "qcow2",
        "virtual_size": 1,
    }
    assert subprocess.run(["qemu-img", "compare", "-q", image.disk, folder / "box.img"], check=False).returncode == 0
    text = (folder / "Vagrantfile").read_text()
    assert 'libvirt.machine_type = "pc"' in text
    assert 'libvirt.disk_bus = "ide"' in text
    assert "libvirt.memory = 1024" in text
    # The key in the box is the one that its seed lets in.
    public = subprocess.run(
        ["ssh-keygen", "-y", "-f", folder / "vagrant_private_key"], check=True, capture_output=True, text=True
    ).stdout.split()[1]
    shown = subprocess.run(
        ["isoinfo", "-R", "-x", "/builder.conf", "-i", folder / "seed.iso"], check=True, capture_output=True, text=True
    ).stdout
    assert public in shown
    assert not list(tmp_path.glob(".toy*"))


def test_nothing_is_overwritten_unasked(image: images.Image, tmp_path: Path) -> None:
    target = tmp_path / "mine"
    target.write_text("mine")
    with pytest.raises(PublishError, match="exists already"):
        export(image, "raw", target)
    assert target.read_text() == "mine"
    assert export(image, "raw", target, force=True).stat().st_size == SIZE
    with pytest.raises(PublishError, match="lies inside the catalogue"):
        export(image, "raw", image.path / "more.img")
    with pytest.raises(PublishError, match="cannot be written: No such file"):
        export(image, "raw", tmp_path / "none" / "disk.img")


def test_a_corrupt_disk_is_not_passed_on(image: images.Image, tmp_path: Path) -> None:
    image.disk.chmod(0o644)
    with image.disk.open("r+b") as file:
        file.seek(image.disk.stat().st_size - 1000)
        file.write(b"rot")
    with pytest.raises(PublishError, match="is not what was published"):
        export(image, "raw", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def files(catalogue: Path) -> dict[Path, int]:
    """All files of all versions, and when they were written to."""
    return {path: path.stat().st_mtime_ns for path in catalogue.glob("*/*/*")}


def exporting(catalogue: Path, target: Path, kind: Kind) -> None:
    export(images.load_image(catalogue, "toy"), kind, target, force=True)


@pytest.mark.process
@pytest.mark.parametrize("kind", ["qcow2", "vagrant"])
def test_killed_anywhere_the_old_file_stays_whole_and_the_next_export_cleans_up(
    image: images.Image, tmp_path: Path, kind: Kind
) -> None:
    catalogue = image.path.parents[1]
    before = files(catalogue)

    def place(change: int) -> tuple[Path, Path, Kind]:
        folder = tmp_path / str(change)
        folder.mkdir()
        (folder / "out").write_bytes(b"old")
        return catalogue, folder / "out", kind

    kills = 0
    for change in killed_before_each_change(exporting, place, every=1 if kind == "qcow2" else 3):
        target = tmp_path / str(change) / "out"
        if target.read_bytes() != b"old":
            assert target.stat().st_size > 1 << 20
        exporting(catalogue, target, kind)
        assert [path.name for path in target.parent.iterdir()] == ["out"]
        kills += 1
    assert kills > 3
    assert files(catalogue) == before


def test_the_command(builder: Run, image: images.Image, tmp_path: Path) -> None:
    done = builder("images", "export", "toy", "--format", "vmdk", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["path"] == str(tmp_path / f"toy-{image.version}.vmdk")
    assert facts["size"] == Path(facts["path"]).stat().st_size
    again = builder("images", "export", "toy", "--format", "vmdk")
    assert again.returncode == 7
    assert "exists already" in again.stderr
    assert builder("images", "export", "toy", "--format", "vmkd").returncode == 2
    assert builder("images", "export", "toy", "--format", "raw", "--zstd").returncode == 2
    assert builder("images", "export", "tox").returncode == 7
