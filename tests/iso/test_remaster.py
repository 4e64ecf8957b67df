"""Remastered media: everything else stays bit for bit, other programs find them sound, and bad sources are refused."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from builder.system.process import run
from tests.fakes import iso_readers as readers
from tests.fakes import vendor
from tests.fakes.media import ARGUMENTS, KICKSTART, Press, Remaster

EDITED = {"/isolinux/isolinux.cfg", "/EFI/BOOT/grub.cfg", "/images/efiboot.img", "/TRANS.TBL"}
# Both hold addresses that move: the boot catalogue, and the table at byte 8 of isolinux.bin.
ADDRESSES = {"/isolinux/boot.cat", "/isolinux/isolinux.bin"}

SHAPES = {
    "vendor": vendor.Shape(),
    "no joliet": vendor.Shape(joliet=False),
    "no rock ridge": vendor.Shape(rock_ridge=False, translations=False),
    "no hybrid": vendor.Shape(hybrid=""),
    "hybrid without its efi entry": vendor.Shape(hybrid="plain"),
    "other geometry": vendor.Shape(hybrid="--uefi -h 255 -s 63"),
    "bios only": vendor.Shape(uefi=False, hybrid="plain"),
    "uefi only": vendor.Shape(bios=False, hybrid=""),
    "no md5": vendor.Shape(implanted=False),
    "other label": vendor.Shape(label="CentOS 8/x86_64 dvd"),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_everything_else_stays_bit_for_bit(
    press: Press, remaster: Remaster, tmp_path: Path, shape: vendor.Shape
) -> None:
    source = press(shape)
    made = remaster(source)
    before, after = readers.unpacked(source, tmp_path / "before"), readers.unpacked(made.output, tmp_path / "after")
    assert after.pop("/ks.cfg") == KICKSTART
    assert before.keys() == after.keys()
    changed = {path for path in before if before[path] != after[path]}
    expected = {path for path in EDITED if path in before}
    assert changed - ADDRESSES == expected
    assert set(made.changed) == expected | {"/ks.cfg"}
    assert made.volume_id == shape.label
    if shape.bios:
        old, new = before["/isolinux/isolinux.bin"], after["/isolinux/isolinux.bin"]
        assert (old[:8], old[64:]) == (new[:8], new[64:])


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_other_readers_find_it_sound(press: Press, remaster: Remaster, shape: vendor.Shape) -> None:
    source = press(shape)
    made = remaster(source).output
    assert readers.sound_md5(made)
    assert readers.complaints(made) == readers.complaints(source) == []
    summary = "System area summary"
    if shape.hybrid:
        assert readers.numbers(made, summary) == readers.numbers(source, summary)
    if shape.joliet:
        assert "/ks.cfg" in readers.joliet_names(made)


@pytest.mark.parametrize("name", ["vendor", "hybrid without its efi entry", "other geometry", "bios only"])
def test_boot_records_point_at_the_boot_files(press: Press, remaster: Remaster, name: str) -> None:
    shape = SHAPES[name]
    made = remaster(press(shape)).output
    data = made.read_bytes()
    loader = readers.extent(made, "/isolinux/isolinux.bin")
    assert struct.unpack_from("<I", data, 432) == (loader * 4,)
    # The boot information table: where the volume descriptor is, and where the loader itself is.
    assert struct.unpack_from("<II", data, loader * 2048 + 8) == (16, loader)
    assert f"El Torito boot img :   1  BIOS  y   none  0x0000  0x00      4 {loader:11d}" in readers.report(made)
    assert "boot-info-table isohybrid-suitable" in readers.report(made)
    assert readers.numbers(made, "MBR partition      :   1")[-2:] == ["0", str(len(data) // 512)]
    if name in ("vendor", "other geometry"):
        efi = readers.extent(made, "/images/efiboot.img")
        place = [str(efi * 4), str(shape.efi_size // 512)]
        assert readers.numbers(made, "MBR partition      :   2")[-2:] == place
        assert readers.numbers(made, "GPT start and size :   2")[-2:] == place


def test_both_partition_tables_have_right_checksums(medium: Path, remaster: Remaster) -> None:
    made = remaster(medium).output
    assert readers.complaints(made) == []
    for at in (1024 + 60, -33 * 512 + 60, 512 + 40, -512 + 40):
        spoilt = bytearray(made.read_bytes())
        spoilt[at] ^= 1
        bad = made.with_name("spoilt.iso")
        bad.write_bytes(spoilt)
        # It would be noticed: xorriso takes a table whose header is wrong for none at all.
        assert readers.complaints(bad) or "GPT" not in readers.numbers(bad, "System area summary")


def test_efi_image_is_edited_and_sound(medium: Path, remaster: Remaster, tmp_path: Path) -> None:
    made = remaster(medium).output
    files = readers.unpacked(made, tmp_path / "after")
    image = tmp_path / "after/images/efiboot.img"
    assert run(["fsck.fat", "-n", image], check=False).status == 0
    inside = run(["mtype", "-i", image, "::/EFI/BOOT/grub.cfg"]).stdout
    assert inside.encode() == files["/EFI/BOOT/grub.cfg"]
    assert image.stat().st_size == vendor.Shape().efi_size


def test_loaders_start_the_kickstart(medium: Path, remaster: Remaster, tmp_path: Path) -> None:
    files = readers.unpacked(remaster(medium).output, tmp_path / "after")
    line = rf"inst.stage2=hd:LABEL={vendor.ESCAPED} quiet " + " ".join(ARGUMENTS)
    assert f"append initrd=initrd.img {line}\n" in files["/isolinux/isolinux.cfg"].decode()
    assert f"linuxefi /images/pxeboot/vmlinuz {line}\n" in files["/EFI/BOOT/grub.cfg"].decode()


def test_same_arguments_same_bytes(medium: Path, remaster: Remaster) -> None:
    first = remaster(medium).output.read_bytes()
    before = os.environ.get("TZ")
    os.environ["TZ"] = "Pacific/Auckland"
    try:
        second = remaster(medium).output.read_bytes()
    finally:
        os.environ.pop("TZ")
        if before is not None:
            os.environ["TZ"] = before
    assert first == second


def test_no_date_of_today_gets_in(medium: Path, remaster: Remaster, tmp_path: Path) -> None:
    when = datetime(2011, 2, 3, 4, 5, 6, tzinfo=UTC)
    made = remaster(medium, when=when).output
    fresh = medium.parent / "tree"
    # Whatever is dated in the new image, down to the entries of the FAT image, is from the source or `when`.
    assert _dates(made) <= _dates(medium) | {bytes([111, 2, 3, 4, 5, 6, 0])}
    readers.unpacked(made, tmp_path / "after")
    listing = run(["mdir", "-i", tmp_path / "after/images/efiboot.img", "::/EFI/BOOT"], env={"TZ": "UTC"}).stdout
    row = next(line for line in listing.splitlines() if line.startswith("grub"))
    assert "2011-02-03   4:05" in row
    assert fresh.is_dir()


def _dates(iso_file: Path) -> set[bytes]:
    """Dates of all directory records (ISO 9660 and Joliet) and of both volume descriptors."""
    data = iso_file.read_bytes()
    found = set()
    for descriptor in (16, 17, 18):
        base = descriptor * 2048
        if data[base] in (1, 2):
            found |= {data[base + at : base + at + 17] for at in (813, 830, 847, 864)}
            found |= _record_dates(data, base + 156)
    return found


def _record_dates(data: bytes, root: int) -> set[bytes]:
    found = set()
    folders = [root]
    while folders:
        record = folders.pop()
        at, size = struct.unpack_from("<I4xI", data, record + 2)
        position, end = at * 2048, at * 2048 + size
        while position < end:
            length = data[position]
            if length == 0:
                position = (position // 2048 + 1) * 2048
                continue
            found.add(data[position + 18 : position + 25])
            entry = data[position : position + length]
            tf = entry.find(b"TF")
            if tf > 0 and entry[tf + 3] == 1:
                found |= {entry[i : i + 7] for i in range(tf + 5, tf + entry[tf + 2], 7)}
            if data[position + 25] & 2 and data[position + 33] > 1:
                folders.append(position)
            position += length
    return found


def test_the_table_of_names_stays_true(medium: Path, remaster: Remaster, tmp_path: Path) -> None:
    once = remaster(medium).output
    before, after = (readers.unpacked(iso, tmp_path / iso.stem)["/TRANS.TBL"].decode() for iso in (medium, once))
    new = "F KS.CFG;1".ljust(before.index("\t")) + "\tks.cfg"
    assert after.splitlines() == sorted([*before.splitlines(), new], key=lambda line: line[2:])
    listed = {line[2:].split()[0] for line in after.splitlines()}
    # A reader that knows plain ISO 9660 alone finds what the table says.
    names = run(["isoinfo", "-f", "-i", once]).stdout.split()
    assert listed == {name[1:] for name in names if name.count("/") == 1} - {"TRANS.TBL;1", "/TRANS.TBL;1"}
    twice = remaster(once, kickstart=b"other\n").output
    assert readers.unpacked(twice, tmp_path / "twice")["/TRANS.TBL"].decode() == after


def test_a_remastered_medium_can_be_remastered(medium: Path, remaster: Remaster, tmp_path: Path) -> None:
    once = remaster(medium).output
    twice = remaster(once, kickstart=b"other\n").output
    assert readers.unpacked(twice, tmp_path / "t")["/ks.cfg"] == b"other\n"
    assert readers.sound_md5(twice)


def test_safe_menu_boots_from_disk(medium: Path, remaster: Remaster, tmp_path: Path) -> None:
    files = readers.unpacked(remaster(medium, menu="safe").output, tmp_path / "after")
    isolinux = files["/isolinux/isolinux.cfg"].decode()
    assert "label localdisk\n  menu label Boot from local disk\n  menu default\n" in isolinux
    assert isolinux.count("menu default") == 1
    assert "ERASES DISKS" in isolinux
    grub = files["/EFI/BOOT/grub.cfg"].decode()
    assert grub.index("'Boot from local disk'") < grub.index("ERASES DISKS") < grub.index("'Install CentOS 7'")
    assert 'set default="0"' in grub
    assert "set timeout=60" in grub


def test_long_and_deep_names_and_hard_links(remaster: Remaster, tmp_path: Path) -> None:
    shape = vendor.Shape()
    tree = tmp_path / "tree"
    tree.mkdir()
    vendor.tree(tree, shape)
    deep = tree / "a/b/c/d/e/f/g/h/i/j"
    deep.mkdir(parents=True)
    (deep / ("long-name-" * 20)).write_text("deep\n")
    # Enough to need several sectors of directory, and continuation areas for the names.
    for number in range(120):
        (tree / f"{'x' * 180}-{number}").write_text(f"{number}\n")
    (tree / "link").symlink_to("EULA")
    (tree / "twin").hardlink_to(tree / "EULA")
    (tree / "empty").touch()
    source = vendor.press(tree, tmp_path / "medium.iso", replace(shape, joliet=False))
    made = remaster(source).output
    before, after = readers.unpacked(source, tmp_path / "before"), readers.unpacked(made, tmp_path / "after")
    after.pop("/ks.cfg")
    assert before.keys() == after.keys()
    assert {path for path in before if before[path] != after[path]} - ADDRESSES == EDITED
    assert (tmp_path / "after/link").readlink() == Path("EULA")
    assert readers.extent(made, "/twin") == readers.extent(made, "/EULA")
    assert readers.sound_md5(made)


def test_gap_after_the_volume_holds_the_backup_table(remaster: Remaster, tmp_path: Path) -> None:
    # Sizes around a full cylinder: the second table must fit behind the volume, not into it.
    shape = vendor.Shape()
    tree = tmp_path / "tree"
    tree.mkdir()
    vendor.tree(tree, shape)
    source = vendor.press(tree, tmp_path / "a.iso", shape)
    free = source.stat().st_size - int.from_bytes(source.read_bytes()[32768 + 80 :][:4], "little") * 2048
    (tree / "filler").write_bytes(b"f" * (free - 4 * 2048))
    source = vendor.press(tree, tmp_path / "b.iso", shape)
    made = remaster(source, kickstart=b"k" * 1000).output
    volume = int.from_bytes(made.read_bytes()[32768 + 80 :][:4], "little") * 2048
    assert made.stat().st_size % (64 * 32 * 512) == 0
    assert made.stat().st_size - volume >= 33 * 512
    assert readers.complaints(made) == []
    assert readers.sound_md5(made)


@pytest.mark.slow
def test_files_beyond_4_gib(remaster: Remaster, tmp_path: Path) -> None:
    shape = vendor.Shape(hybrid="plain", uefi=False)
    tree = tmp_path / "tree"
    tree.mkdir()
    vendor.tree(tree, shape)
    size = (4 << 30) + 5000
    marks = {0: b"start", (4 << 30) - 4096: b"x" * 8192, size - 3: b"end"}
    with (tree / "huge").open("wb") as file:
        for at, mark in marks.items():
            file.seek(at)
            file.write(mark)
    # genisoimage knows no files of more than one extent.
    run(["xorriso", "-as", "mkisofs", "-iso-level", "3", "-R", "-J", "-V", vendor.LABEL, "-b", "isolinux/isolinux.bin",
         "-c", "isolinux/boot.cat", "-boot-load-size", "4", "-boot-info-table", "-no-emul-boot",
         "-o", tmp_path / "medium.iso", tree])  # fmt: skip
    made = remaster(tmp_path / "medium.iso").output
    (tmp_path / "medium.iso").unlink()
    run(["xorriso", "-osirrox", "on", "-indev", made, "-extract", "/huge", tmp_path / "huge"])
    assert run(["cmp", tmp_path / "huge", tree / "huge"], check=False).status == 0
    assert readers.sound_md5(made)
