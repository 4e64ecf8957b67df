"""Facts about vendor's, remastered and rehearsal media, and the damage that is found in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder.errors import MediumError
from builder.iso import inspect
from builder.system.process import run
from tests.fakes import vendor
from tests.fakes.media import Press, Remaster


def test_facts_of_the_vendors_medium(medium: Path) -> None:
    facts = inspect.inspect(medium, md5=True)
    assert (facts.product, facts.family, facts.version, facts.arch) == ("CentOS-7", "CentOS", "7", "x86_64")
    assert facts.volume_id == vendor.LABEL
    assert facts.file_size == medium.stat().st_size > facts.volume_size
    assert [(entry.platform, entry.load_sectors, entry.path) for entry in facts.boot] == [
        ("bios", 4, "/isolinux/isolinux.bin"),
        ("uefi", vendor.Shape().efi_size // 512, "/images/efiboot.img"),
    ]
    assert (facts.mbr, facts.isohybrid, facts.gpt) == (True, True, True)
    assert (facts.names, facts.joliet) == ("rock ridge", True)
    assert facts.md5 is not None
    assert facts.md5_verdict == "good"
    assert not facts.is_rehearsal
    assert not facts.truncated
    assert json.loads(json.dumps(facts.as_dict()))["version"] == "7"


def test_facts_of_a_remastered_medium(medium: Path, remaster: Remaster) -> None:
    made = remaster(medium)
    facts = inspect.inspect(made.output, md5=True)
    assert (facts.gpt, facts.md5, facts.md5_verdict) == (True, made.md5, "good")


@pytest.mark.parametrize(
    ("shape", "names", "product"),
    [
        (vendor.Shape(rock_ridge=False, translations=False), "joliet", "CentOS-7"),
        (vendor.Shape(rock_ridge=False, joliet=False, translations=False), "iso9660", ""),
    ],
)
def test_names_come_from_the_best_source(press: Press, shape: vendor.Shape, names: str, product: str) -> None:
    facts = inspect.inspect(press(shape))
    assert (facts.names, facts.product) == (names, product)


def test_a_rehearsal_medium_is_known(press: Press) -> None:
    assert inspect.inspect(press(vendor.Shape(application="BUILDER REHEARSAL 1"))).is_rehearsal


def test_damage_is_found(medium: Path, tmp_path: Path) -> None:
    data = bytearray(medium.read_bytes())
    data[-500 * 2048] ^= 1
    data[1024 + 60] ^= 1
    (tmp_path / "bad.iso").write_bytes(data)
    facts = inspect.inspect(tmp_path / "bad.iso", md5=True)
    assert (facts.gpt, facts.md5_verdict) == (False, "bad")


@pytest.mark.parametrize("size", [0, 1000, 40_000, 500_000])
def test_truncated_media_are_refused(medium: Path, tmp_path: Path, size: int) -> None:
    (tmp_path / "cut.iso").write_bytes(medium.read_bytes()[:size])
    with pytest.raises(MediumError, match="truncated: " if size > 40_000 - 1 else "not an ISO"):
        inspect.inspect(tmp_path / "cut.iso")


def test_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MediumError, match="cannot read"):
        inspect.inspect(tmp_path / "none.iso")


def test_packages_and_groups(tmp_path: Path, medium: Path, capfd: pytest.CaptureFixture[str]) -> None:
    vendor.repodata(tmp_path / "tree", ["openssh-server", "bash"])
    run(["genisoimage", "-quiet", "-R", "-o", tmp_path / "a.iso", tmp_path / "tree"])
    facts = inspect.inspect(tmp_path / "a.iso", packages=True)
    assert facts.packages == ("bash", "openssh-server")
    assert facts.groups == ("core", "minimal")
    assert inspect.inspect(medium, packages=True).packages is None
    assert capfd.readouterr() == ("", "")


def test_read_and_extract(medium: Path, tmp_path: Path) -> None:
    assert inspect.read_file(medium, "/.treeinfo").decode() == vendor.TREEINFO
    kernel, initrd = tmp_path / "vmlinuz", tmp_path / "initrd.img"
    inspect.extract(medium, {"/images/pxeboot/vmlinuz": kernel, "/images/pxeboot/initrd.img": initrd})
    assert (kernel.stat().st_size, initrd.read_bytes()) == (66_000, b"\x02" * 130_001)
    with pytest.raises(MediumError, match=r"has no /ks\.cfg"):
        inspect.read_file(medium, "/ks.cfg")
