"""Seed CDs: Linux reads their labels and names, and the same content gives the same bytes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from builder.iso.seed_cd import IDENTITY_LABEL, KICKSTART_LABEL, read_iso, write_iso
from builder.system.process import run
from tests.fakes import iso_readers as readers

FILES = {
    "user-data": b"#cloud-config\n{}\n",
    "meta-data": b"instance-id: i\n",
    "network-config": b"version: 2\n",
    "builder.conf": b"hostname=a\n",
    "a-name.with.Mixed_case-and-more-than-31-characters.txt": b"x" * 5000,
    "empty": b"",
}


@pytest.mark.parametrize("label", [KICKSTART_LABEL, IDENTITY_LABEL])
def test_linux_reads_label_and_names(tmp_path: Path, label: str) -> None:
    iso = tmp_path / "seed.iso"
    write_iso(iso, label, FILES)
    assert run(["blkid", "-o", "value", "-s", "LABEL", iso]).stdout == f"{label}\n"
    assert readers.unpacked(iso, tmp_path / "out") == {f"/{name}": data for name, data in FILES.items()}
    assert readers.joliet_names(iso) == {f"/{name}" for name in FILES}
    assert readers.complaints(iso) == []
    assert read_iso(iso) == FILES


def test_same_content_same_bytes(tmp_path: Path) -> None:
    write_iso(tmp_path / "a.iso", "cidata", FILES)
    write_iso(tmp_path / "b.iso", "cidata", dict(reversed(FILES.items())))
    assert (tmp_path / "a.iso").read_bytes() == (tmp_path / "b.iso").read_bytes()
    write_iso(tmp_path / "c.iso", "cidata", FILES | {"empty": b"."})
    assert (tmp_path / "a.iso").read_bytes() != (tmp_path / "c.iso").read_bytes()


def test_no_date_of_today_gets_in(tmp_path: Path) -> None:
    when = datetime(2013, 5, 7, 11, 17, 19, tzinfo=UTC)
    write_iso(tmp_path / "a.iso", "cidata", FILES, when=when)
    data = (tmp_path / "a.iso").read_bytes()
    # Dates of directory records: years since 1900, month, day …; of descriptors: digits.
    now = datetime.now(UTC)
    assert bytes([now.year - 1900, now.month, now.day]) not in data
    assert now.strftime("%Y%m%d").encode() not in data
    assert b"20130507111719" in data
    listing = run(["isoinfo", "-R", "-l", "-i", tmp_path / "a.iso"]).stdout
    rows = [line for line in listing.splitlines() if "[" in line]
    assert rows
    assert all("May  7 2013" in row for row in rows)


@pytest.mark.parametrize(
    ("label", "files"),
    [
        ("x" * 17, {"a": b""}),
        ("", {"a": b""}),
        ("a", {"b/c": b""}),
        ("a", {"n" * 65: b""}),
        ("a", {".discinfo": b""}),
    ],
)
def test_what_cannot_be_stored_is_refused(tmp_path: Path, label: str, files: dict[str, bytes]) -> None:
    with pytest.raises(ValueError):
        write_iso(tmp_path / "a.iso", label, files)
    assert list(tmp_path.iterdir()) == []


def test_many_similar_names(tmp_path: Path) -> None:
    files = {f"similar-name-{number}.conf": str(number).encode() for number in range(60)}
    write_iso(tmp_path / "a.iso", "cidata", files)
    assert readers.unpacked(tmp_path / "a.iso", tmp_path / "out") == {f"/{name}": data for name, data in files.items()}
