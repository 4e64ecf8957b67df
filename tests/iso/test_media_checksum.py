"""Implanted media checksums, compared with implantisomd5 and with the loops of both checkers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.iso import media_checksum
from builder.iso.media_checksum import APPLICATION_USE, APPLICATION_USE_SIZE, Implant
from builder.system.process import run
from tests.fakes import iso_readers as readers
from tests.fakes import vendor
from tests.fakes.media import Press


def implanted(iso: Path, step: int = 1 << 20) -> Implant:
    """Our own implant, on a copy of which the old one was blanked."""
    data = bytearray(iso.read_bytes())
    data[APPLICATION_USE : APPLICATION_USE + APPLICATION_USE_SIZE] = b" " * APPLICATION_USE_SIZE
    implant = Implant(int.from_bytes(data[32768 + 80 :][:4], "little") * 2048)
    for at in range(0, len(data), step):
        implant.update(memoryview(data)[at : at + step])
    data[APPLICATION_USE : APPLICATION_USE + APPLICATION_USE_SIZE] = implant.application_use()
    iso.write_bytes(data)
    return implant


@pytest.mark.parametrize("payload", [300_000, 3_000_000, 7_654_321])
def test_same_bytes_as_implantisomd5(press: Press, tmp_path: Path, payload: int) -> None:
    theirs = press(vendor.Shape(payload=payload))
    ours = Path(shutil.copy(theirs, tmp_path / "ours.iso"))
    implant = implanted(ours)
    assert implant.fragments == 20
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("step", [2048, 32768, 50_000, 1 << 22])
def test_size_of_the_pieces_does_not_matter(medium: Path, tmp_path: Path, step: int) -> None:
    ours = Path(shutil.copy(medium, tmp_path / "ours.iso"))
    implanted(ours, step)
    assert ours.read_bytes() == medium.read_bytes()


@pytest.mark.parametrize("sectors", [1, 20, 60, 100, 150, 250, 337])
def test_small_volumes_pass(tmp_path: Path, sectors: int) -> None:
    # With 20 fragments of less than one read each, implantisomd5 leaves sums that checkisomd5 refuses.
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_bytes(b"x" * 2048 * sectors)
    iso = tmp_path / "small.iso"
    run(["genisoimage", "-quiet", "-R", "-o", iso, tmp_path / "tree"])
    assert implanted(iso).fragments < 20 or sectors > 200
    assert readers.sound_md5(iso)
    assert media_checksum.verdict(iso) == "good"
    data = bytearray(iso.read_bytes())
    data[40 * 2048] ^= 1
    iso.write_bytes(data)
    assert not readers.sound_md5(iso)
    assert media_checksum.verdict(iso) == "bad"


def fragments_old(total: int, count: int) -> list[tuple[int, int]]:
    """Where isomd5sum 1.0.10 compares: straight from its loop."""
    stops, before, offset = [], 0, 0
    while offset < total:
        read = min(32768, total - offset)
        now = offset * (count + 1) // total
        if now != before:
            stops.append((now, offset + read))
            before = now
        offset += read
    return stops


def fragments_new(total: int, count: int) -> list[tuple[int, int]]:
    """Where isomd5sum 1.2.3 compares."""
    stops, before, offset, size = [], 0, 0, total // (count + 1)
    while offset < total:
        read = min(32768, total - offset)
        now = offset // size
        if now != before:
            stops.append((now, offset + read))
            before = now
        offset += read
    return stops


@given(st.integers(min_value=16, max_value=60_000))
def test_all_checkers_compare_where_a_sum_was_taken(sectors: int) -> None:
    implant = Implant(sectors * 2048)
    if implant.fragments:
        wanted = list(enumerate(media_checksum._fragments(implant.total)[1], start=1))
        assert fragments_old(implant.total, implant.fragments) == wanted
        assert fragments_new(implant.total, implant.fragments) == wanted


def test_no_sum_is_said_so(press: Press) -> None:
    assert media_checksum.verdict(press(vendor.Shape(implanted=False))) == "none"
