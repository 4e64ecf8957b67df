"""Media of EL8 to EL10 that only xorriso can rewrite: all but the menus stays, and they boot by the same records."""

from __future__ import annotations

import os
import re
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from builder.errors import HostError
from builder.iso import boot_records, inspect, xorriso
from builder.iso.layout import RewriteError
from builder.iso.remaster import APPENDED, RemasterReport
from builder.iso.remaster import remaster as remaster_medium
from builder.pipeline.inject_kickstart import inject
from builder.system.digests import sha256_file
from builder.system.process import run
from tests.fakes import booting, lorax
from tests.fakes import iso_readers as readers
from tests.fakes.booting import Attached
from tests.fakes.lorax import Medium
from tests.fakes.media import ARGUMENTS, KICKSTART, Remaster
from tests.faults.test_store import needs_root, small_disk

EDITED = {"/isolinux/isolinux.cfg", "/boot/grub2/grub.cfg", "/EFI/BOOT/grub.cfg", "/images/efiboot.img", "/TRANS.TBL"}
# They hold addresses that move.
ADDRESSES = {"/isolinux/boot.cat", "/isolinux/isolinux.bin", "/images/eltorito.img"}
REPLAYED = [name for name, medium in lorax.MEDIA.items() if medium.layout != "isohybrid" or medium.replayed]


@pytest.fixture(scope="session")
def pressed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Medium], Path]:
    """Gives the ISO of a medium. Nobody writes to it."""
    made: dict[Medium, Path] = {}

    def get(medium: Medium) -> Path:
        if medium not in made:
            made[medium] = lorax.press(tmp_path_factory.mktemp("medium"), medium)
        return made[medium]

    return get


@dataclass(frozen=True)
class Pair:
    """A medium and what became of it."""

    medium: Medium
    source: Path
    made: RemasterReport

    @property
    def platforms(self) -> list[str]:
        return ["bios", "uefi", "uefi"] if self.medium.macboot else ["bios", "uefi"]

    @property
    def files(self) -> tuple[Path, Path]:
        return self.source, self.made.output


@pytest.fixture(scope="module", params=REPLAYED)
def pair(
    request: pytest.FixtureRequest, pressed: Callable[[Medium], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    medium = lorax.MEDIA[request.param]
    source = pressed(medium)
    before = sha256_file(source)
    output = tmp_path_factory.mktemp("made") / "made.iso"
    yield Pair(medium, source, remaster_medium(source, output, kickstart=KICKSTART, kernel_args=ARGUMENTS))
    assert sha256_file(source) == before


def test_everything_else_stays_bit_for_bit(pair: Pair, tmp_path: Path) -> None:
    before, after = (readers.unpacked(iso, tmp_path / name) for iso, name in zip(pair.files, "ab", strict=True))
    assert after.pop("/ks.cfg") == KICKSTART
    assert before.keys() == after.keys()
    changed = {path for path in before if before[path] != after[path]}
    assert changed - ADDRESSES == {path for path in EDITED if path in before}
    assert set(pair.made.changed) - {APPENDED} == changed - ADDRESSES | {"/ks.cfg"}
    assert pair.made.volume_id == pair.medium.label
    old, new = (readers.joliet_names(iso) for iso in pair.files)
    assert new - old == {"/ks.cfg"}
    assert not old - new
    for path in (tmp_path / "a").rglob("*"):
        here = tmp_path / "b" / path.relative_to(tmp_path / "a")
        assert here.stat().st_mode == path.stat().st_mode or f"/{here.relative_to(tmp_path / 'b')}" in EDITED


def test_it_boots_by_the_same_records(pair: Pair, pressed: Callable[[Medium], Path]) -> None:
    before, after = (_as_mkisofs(iso) for iso in pair.files)
    assert before == after
    # Whatever sgdisk says of it, it says of the vendors' DVDs, which xorriso made of another medium, too.
    dvd = pressed(replace(pair.medium, replayed=True))
    assert _partitions(pair.made.output) == _partitions(dvd)
    assert [_facts(iso) for iso in pair.files] == [(True, True, pair.platforms)] * 2
    assert pair.made.hybrid
    assert readers.complaints(pair.made.output) == readers.complaints(pair.source) == []


def _as_mkisofs(iso: Path) -> list[str]:
    """xorriso's own view of how to make such an image, without addresses."""
    done = run(["xorriso", "-indev", iso, "-report_el_torito", "as_mkisofs", "-report_system_area", "as_mkisofs"])
    return [re.sub(r"\d+[ds]-\d+[ds]|_start_\d+s|'\S+\.iso'", "", line) for line in done.stdout.splitlines()]


def _partitions(iso: Path) -> tuple[list[str], list[str]]:
    """What sgdisk finds wrong, and its partitions without addresses."""
    wrong = run(["sgdisk", "-v", iso], check=False).stdout.splitlines()
    rows = run(["sgdisk", "-p", iso], check=False).stdout.splitlines()
    found = [line.split() for line in rows if re.match(r" +\d+ +\d+ ", line)]
    return [re.sub(r"\d+", "", line) for line in wrong if "sectors" not in line], [
        " ".join([number, *rest]) for number, _, _, _, _, *rest in found
    ]


def _facts(iso: Path) -> tuple[bool, bool | None, list[str]]:
    facts = inspect.inspect(iso)
    return facts.mbr, facts.gpt, [entry.platform for entry in facts.boot]


def test_the_checksum_is_implanted_anew(pair: Pair) -> None:
    assert readers.sound_md5(pair.source)
    assert readers.sound_md5(pair.made.output)
    facts = inspect.inspect(pair.made.output, md5=True)
    assert (facts.md5_verdict, facts.md5) == ("good", pair.made.md5)
    assert facts.md5 != inspect.inspect(pair.source).md5


def test_loaders_are_found_where_they_are(pair: Pair) -> None:
    _loader_is_found(pair.made.output, pair.medium)
    uefi = next(entry for entry in inspect.inspect(pair.made.output).boot if entry.platform == "uefi")
    gpt = boot_records.read(pair.made.output).primary
    assert gpt is not None
    assert uefi.sector * 4 in [partition.first for partition in gpt.partitions]


def _loader_is_found(iso: Path, medium: Medium) -> None:
    name = "/images/eltorito.img" if medium.layout == "grub2" else "/isolinux/isolinux.bin"
    at = readers.extent(iso, name)
    data = iso.read_bytes()
    loader = inspect.read_file(iso, name)
    descriptor, own, length, checksum = struct.unpack_from("<IIII", loader, 8)
    assert (own, length) == (at, len(loader))
    words = struct.unpack(f"<{-(-length // 4) - 16}I", loader[64:].ljust(-(-length // 4) * 4 - 64, b"\0"))
    assert checksum == sum(words) & 0xFFFFFFFF
    assert data[descriptor * 2048 :][:6] == b"\x01CD001"
    if medium.layout == "grub2":
        # GRUB 2.06: where boot_hybrid.img finds the loader, in blocks; where the loader finds the rest of itself.
        assert struct.unpack_from("<Q", data, 0x1B0) == (at * 4 + 4,)
        assert struct.unpack_from("<Q", loader, 2548) == (at * 4 + 5,)
    else:
        assert struct.unpack_from("<I", data, 0x1B0) == (at * 4,)


def test_every_menu_has_the_kickstart(pair: Pair, tmp_path: Path) -> None:
    files = readers.unpacked(pair.made.output, tmp_path / "after")
    menus = {path: files[path].decode() for path in EDITED if path.endswith(".cfg") and path in files}
    assert len(menus) == 2
    image = tmp_path / "after/images/efiboot.img"
    if pair.medium.layout == "grub2":
        assert APPENDED in pair.made.changed
        image = tmp_path / "partition"
        uefi = next(entry for entry in inspect.inspect(pair.made.output).boot if entry.platform == "uefi")
        partition = boot_records.partition_at(pair.made.output, uefi.sector)
        assert partition is not None
        boot_records.copy_out(pair.made.output, partition, image)
    assert run(["fsck.fat", "-n", image], check=False).status == 0
    assert run(["mtype", "-i", image, "::/EFI/BOOT/grub.cfg"]).stdout == menus["/EFI/BOOT/grub.cfg"]
    for text in menus.values():
        assert f"inst.stage2=hd:LABEL={pair.medium.label} quiet {' '.join(ARGUMENTS)}\n" in text


def test_same_arguments_same_bytes(
    pair: Pair, remaster: Remaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The clock shows another second; time zone, mask and the user's own settings of xorriso are others.
    time.sleep(1.1)
    (tmp_path / ".xorrisorc").write_text("-volid OTHER\n-volume_date uuid 2000010101010100\n")
    for name, value in {"TZ": "Pacific/Auckland", "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    mask = os.umask(0o077)
    try:
        again = remaster(pair.source)
    finally:
        os.umask(mask)
    assert again.md5 == pair.made.md5
    assert run(["cmp", again.output, pair.made.output], check=False).stdout == ""


def test_a_rewritten_medium_can_be_rewritten(pair: Pair, remaster: Remaster, tmp_path: Path) -> None:
    twice = remaster(pair.made.output, kickstart=b"other\n").output
    assert inspect.read_file(twice, "/ks.cfg") == b"other\n"
    assert readers.sound_md5(twice)
    assert _as_mkisofs(twice) == _as_mkisofs(pair.source)
    menu = "/EFI/BOOT/grub.cfg"
    assert inspect.read_file(twice, menu) == inspect.read_file(pair.made.output, menu)


def test_a_loader_that_pycdlib_would_leave_behind(pressed: Callable[[Medium], Path], remaster: Remaster) -> None:
    # Without UEFI there is no GPT: nothing but the loader's own table shows that the medium is xorriso's.
    medium = Medium("isohybrid", "8.10", uefi=False)
    made = remaster(pressed(medium)).output
    _loader_is_found(made, medium)
    assert readers.sound_md5(made)


def test_what_somebody_keeps_in_the_descriptor_stays(
    pressed: Callable[[Medium], Path], remaster: Remaster, tmp_path: Path
) -> None:
    medium = tmp_path / "own.iso"
    data = bytearray(pressed(lorax.MEDIA["el10 dvd"]).read_bytes())
    own = b"somebody's own".ljust(512, b".")
    data[16 * 2048 + 883 : 16 * 2048 + 883 + 512] = own
    medium.write_bytes(data)
    made = remaster(medium)
    assert made.md5 is None
    assert made.output.read_bytes()[16 * 2048 + 883 :][:512] == own


def test_any_name_will_do(pressed: Callable[[Medium], Path], remaster: Remaster, tmp_path: Path) -> None:
    source = tmp_path / "a '[b]: *.iso"
    source.hardlink_to(pressed(lorax.MEDIA["el10 dvd"]))
    kickstart = tmp_path / "ks.cfg"
    kickstart.write_text("text\ncdrom\npoweroff\n%packages --nocore\n%end\n")
    (tmp_path / "-- x").mkdir()
    done = inject(source, kickstart, tmp_path / "-- x/-new 'iso'", unattended=False)
    assert done.facts.volume_id == "Rocky-10-2-x86_64-dvd"
    assert [path.name for path in (tmp_path / "-- x").iterdir()] == ["-new 'iso'"]
    assert "'Boot from local disk'" in inspect.read_file(done.report.output, "/boot/grub2/grub.cfg").decode()


def test_without_xorriso(
    pressed: Callable[[Medium], Path], remaster: Remaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    media = [pressed(lorax.MEDIA[name]) for name in ("el9 dvd", "el8 boot")]
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("apt-get", "mcopy", "mdir"):
        (programs / name).symlink_to(f"/usr/bin/{name}")
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(HostError, match="xorriso is not installed") as caught:
        remaster(media[0])
    assert (caught.value.exit_code, caught.value.hint) == (3, "apt-get install xorriso")
    assert not list(tmp_path.glob("*.iso*")) + list(tmp_path.glob(".*.tmp"))
    # Where builder's own writer does it, nobody needs it.
    assert remaster(media[1]).md5


@needs_root
@pytest.mark.parametrize("size", [4 << 20, 12 << 20])
def test_a_full_disk(pressed: Callable[[Medium], Path], tmp_path: Path, size: int) -> None:
    source = pressed(lorax.MEDIA["el9 dvd"])
    with small_disk(tmp_path / "small", size):
        output = tmp_path / "small/new.iso"
        output.write_text("precious")
        with pytest.raises(HostError, match=r"it takes \d+ MiB, \d+ MiB are free") as caught:
            remaster_medium(source, output, kickstart=KICKSTART, kernel_args=ARGUMENTS, beside={"more": bytes(5 << 20)})
        assert caught.value.diagnosis.cause == "disk full"
        assert [path.name for path in (tmp_path / "small").iterdir()] == ["new.iso"]
        assert output.read_text() == "precious"


def test_what_xorriso_refuses(pressed: Callable[[Medium], Path], tmp_path: Path) -> None:
    source = pressed(lorax.MEDIA["el9 dvd"])
    (tmp_path / "new.iso").touch()
    with pytest.raises(RewriteError, match=f"xorriso cannot rewrite {source}") as caught:
        xorriso.rewrite(
            source,
            tmp_path / "new.iso",
            {"/ks.cfg": tmp_path / "missing"},
            application_use=source,
            joliet=True,
            when=datetime(2020, 1, 1, tzinfo=UTC),
        )
    assert "No such file or directory" in caught.value.details


@needs_root
def test_new_files_belong_to_root(pressed: Callable[[Medium], Path], tmp_path: Path) -> None:
    for name in ("new", "use"):
        (tmp_path / name).write_bytes(b" " * 512)
        os.chown(tmp_path / name, 1234, 1234)
    (tmp_path / "new.iso").touch()
    xorriso.rewrite(
        pressed(lorax.MEDIA["el9 dvd"]),
        tmp_path / "new.iso",
        {"/a [b] *": tmp_path / "new"},
        application_use=tmp_path / "use",
        joliet=True,
        when=datetime(2020, 1, 1, tzinfo=UTC),
    )
    listing = run(["isoinfo", "-R", "-l", "-i", tmp_path / "new.iso"]).stdout
    row = next(line for line in listing.splitlines() if line.endswith("a [b] * "))
    assert row.split()[2:4] == ["0", "0"]


@pytest.fixture(scope="module")
def bootable(tmp_path_factory: pytest.TempPathFactory, rehearsal_iso: Path) -> Callable[[str], Path]:
    """Gives a DVD of this release as `media inject --unattended` rewrote it; what it starts is the rehearsal's."""
    folder = tmp_path_factory.mktemp("bootable")
    taken = {path: folder / Path(path).name for path in ("/images/pxeboot/vmlinuz", "/EFI/BOOT/BOOTX64.EFI")}
    inspect.extract(rehearsal_iso, taken)
    kernel, loader = taken.values()
    # The kernel speaks from its first line on.
    payload = lorax.Payload(kernel, efi_loader=loader, words="earlyprintk=ttyS0,115200")
    kickstart = folder / "ks.cfg"
    kickstart.write_text("text\ncdrom\npoweroff\n%packages --nocore\n%end\n")

    def get(release: str) -> Path:
        made = folder / f"{release}.iso"
        if not made.exists():
            (folder / release).mkdir()
            dvd = lorax.press(folder / release, lorax.MEDIA[f"{release} dvd"], payload)
            inject(dvd, kickstart, made, unattended=True)
        return made

    return get


@pytest.mark.vm
@pytest.mark.slow
@pytest.mark.timeout(700)
@pytest.mark.parametrize("attached", ["cd", "stick"])
@pytest.mark.parametrize("firmware", ["bios", "uefi"])
@pytest.mark.parametrize("release", ["el9", "el10"])
def test_it_boots(
    tmp_path: Path, bootable: Callable[[str], Path], release: str, firmware: str, attached: Attached
) -> None:
    label = lorax.MEDIA[f"{release} dvd"].label
    # The kernel has the kickstart on its command line, and the boot loader gave it the initrd.
    words = rf"Command line: .*inst\.ks=hd:LABEL={label}:/ks\.cfg(?s:.*)RAMDISK: \[mem"
    text = booting.boot(
        tmp_path, bootable(release), firmware, attached, None, lambda text: re.search(words, text) is not None
    )
    assert re.search(words, text), text[-2000:]
