"""Disk images of one mebibyte, by the real qemu-img."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from builder.errors import HostError, PublishError
from builder.vm import qemu_img

MIB = 1 << 20


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """4 MiB: 64 KiB of noise, 64 KiB of letters, zeros written out, a hole."""
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.write(os.urandom(65536) + b"a" * 65536 + bytes(MIB))
        file.truncate(4 * MIB)
    return path


@pytest.mark.parametrize("compression", ["none", "zlib", "zstd"])
def test_conversion_keeps_the_bytes(raw: Path, tmp_path: Path, compression: qemu_img.Compression) -> None:
    target = tmp_path / "disk.qcow2"
    qemu_img.convert(raw, "raw", target, "qcow2", compression=compression)
    assert qemu_img.same(raw, "raw", target, "qcow2")
    told = qemu_img.info(target, "qcow2")
    assert (told.format, told.virtual_size, told.backing) == ("qcow2", 4 * MIB, None)
    if compression != "none":
        assert told.compression == compression
    qemu_img.check(target)


def test_written_zeros_take_no_room(raw: Path, tmp_path: Path) -> None:
    qemu_img.convert(raw, "raw", tmp_path / "sparse.raw", "raw")
    assert (tmp_path / "sparse.raw").stat().st_blocks * 512 <= 2 * 65536


def test_a_changed_byte_is_seen(raw: Path, tmp_path: Path) -> None:
    qemu_img.convert(raw, "raw", tmp_path / "disk.qcow2", "qcow2")
    with raw.open("r+b") as file:
        file.seek(3 * MIB)
        file.write(b"x")
    assert not qemu_img.same(raw, "raw", tmp_path / "disk.qcow2", "qcow2")


def test_overlay_takes_the_size_of_its_base_or_more(raw: Path, tmp_path: Path) -> None:
    qemu_img.create(tmp_path / "same.qcow2", None, "qcow2", backing=(raw, "raw"))
    qemu_img.create(tmp_path / "more.qcow2", 8 * MIB, "qcow2", backing=(raw, "raw"))
    same, more = qemu_img.info(tmp_path / "same.qcow2", "qcow2"), qemu_img.info(tmp_path / "more.qcow2", "qcow2")
    assert (same.virtual_size, more.virtual_size) == (4 * MIB, 8 * MIB)
    assert same.backing == str(raw)


def test_damage_is_found(raw: Path, tmp_path: Path) -> None:
    target = tmp_path / "disk.qcow2"
    qemu_img.convert(raw, "raw", target, "qcow2")
    with target.open("r+b") as file:
        file.seek(2 * 65536)
        file.write(b"\xff" * 64)
    with pytest.raises(PublishError, match="damaged"):
        qemu_img.check(target, error=PublishError)


def test_a_failed_conversion_leaves_no_target(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="qemu-img failed"):
        qemu_img.convert(tmp_path / "missing", "raw", tmp_path / "target", "qcow2")
    assert not (tmp_path / "target").exists()


def test_create_needs_a_size_or_a_layer(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="size"):
        qemu_img.create(tmp_path / "x", None, "raw")
