"""Media that cannot be remastered are refused by name, and nothing is lost or changed by a failure."""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path

import pytest

from builder.errors import HostError, MediumError
from builder.iso import inspect
from builder.iso import remaster as iso
from builder.iso.layout import RewriteError
from builder.pipeline.inject_kickstart import inject
from builder.system.process import run
from tests.fakes import vendor
from tests.fakes.media import Remaster


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda _: b"", "is not an ISO 9660 image"),
        (lambda _: b"\0" * 100_000, "is not an ISO 9660 image"),
        (lambda data: data[: len(data) // 2], "is truncated"),
        (lambda data: data[:32768] + data[32768:34816].replace(b"CD001", b"CD002") + data[34816:], "is not an ISO"),
    ],
    ids=["empty", "zeros", "half", "signature"],
)
def test_what_is_no_medium_is_refused(
    medium: Path, remaster: Remaster, tmp_path: Path, spoil: object, words: str
) -> None:
    assert callable(spoil)
    bad = tmp_path / "bad.iso"
    bad.write_bytes(spoil(medium.read_bytes()))
    with pytest.raises(MediumError, match=words):
        remaster(bad)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.iso"]


def test_no_boot_menu_is_refused(tmp_path: Path, remaster: Remaster) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("x")
    run(["genisoimage", "-quiet", "-R", "-o", tmp_path / "plain.iso", tmp_path / "tree"])
    with pytest.raises(MediumError, match="no boot menu"):
        remaster(tmp_path / "plain.iso")


@pytest.mark.parametrize("where", ["isolinux/isolinux.cfg", "EFI/BOOT/grub.cfg", "images/efiboot.img"])
def test_a_relabelled_medium_is_refused(tmp_path: Path, remaster: Remaster, where: str) -> None:
    shape, tree = vendor.Shape(label="Mine"), tmp_path / "tree"
    tree.mkdir()
    vendor.tree(tree, shape)
    other = {"isolinux/isolinux.cfg": vendor.ISOLINUX_CFG, "EFI/BOOT/grub.cfg": vendor.GRUB_CFG}
    if where in other:
        (tree / where).write_text(other[where])
    else:
        (tmp_path / "grub.cfg").write_text(vendor.GRUB_CFG)
        run(["mcopy", "-o", "-i", tree / where, tmp_path / "grub.cfg", "::/EFI/BOOT/grub.cfg"])
    medium = vendor.press(tree, tmp_path / "medium.iso", shape)
    with pytest.raises(MediumError, match="label 'CentOS 7 x86_64', but its volume id is 'Mine'") as caught:
        remaster(medium)
    assert where in caught.value.details
    assert not list(tmp_path.glob("remastered*"))


def test_a_partition_that_is_not_understood_is_refused(tmp_path: Path, remaster: Remaster) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    vendor.tree(tree, vendor.Shape())
    # UEFI would boot from it on a stick: its menu is in no file of the medium.
    more = ["-append_partition", "2", "0xef", str(tree / "images/efiboot.img")]
    run(["xorriso", "-as", "mkisofs", "-R", "-V", vendor.LABEL, "-b", "isolinux/isolinux.bin",
         "-c", "isolinux/boot.cat", "-boot-load-size", "4", "-boot-info-table", "-no-emul-boot",
         "-isohybrid-mbr", vendor.ISOLINUX_BIN.with_name("isohdpfx.bin"), *more,
         "-o", tmp_path / "medium.iso", tree])  # fmt: skip
    with pytest.raises(MediumError, match="EFI system partition of an unknown kind") as caught:
        remaster(tmp_path / "medium.iso")
    assert isinstance(caught.value, RewriteError)
    # What else can be done is another thing for each command.
    kickstart = tmp_path / "a b.ks"
    kickstart.write_text("text\npoweroff\n%packages --nocore\n%end\n")
    with pytest.raises(RewriteError) as refused:
        inject(tmp_path / "medium.iso", kickstart, tmp_path / "new.iso", unattended=False)
    assert "delivery" not in refused.value.hint
    words = shlex.split(refused.value.hint.partition("beside it: ")[2])
    run(words, cwd=tmp_path)
    assert inspect.volume_id(tmp_path / "OEMDRV.iso") == "OEMDRV"
    assert not list(tmp_path.glob("remastered*"))


def test_a_full_efi_image_is_refused(tmp_path: Path, remaster: Remaster) -> None:
    shape, tree = vendor.Shape(), tmp_path / "tree"
    tree.mkdir()
    vendor.tree(tree, shape)
    # Up to the end of a cluster, so that no byte can be added without another one.
    menu, image = tree / "EFI/BOOT/grub.cfg", tree / "images/efiboot.img"
    menu.write_text(vendor.GRUB_CFG.ljust(2048, "#"))
    vendor.efi_image(image, tree / "EFI", shape.efi_size)
    for power in range(20, 10, -1):
        # Halves, as long as they find room.
        (tmp_path / "filler").write_bytes(bytes(1 << power))
        run(["mcopy", "-i", image, tmp_path / "filler", f"::/FILL{power}"], check=False)
    with pytest.raises(MediumError, match="has no space for the boot entry") as caught:
        remaster(vendor.press(tree, tmp_path / "medium.iso", shape))
    assert isinstance(caught.value, RewriteError)


def test_random_damage_never_ends_in_a_traceback(medium: Path, remaster: Remaster, tmp_path: Path) -> None:
    data = medium.read_bytes()
    bad = tmp_path / "bad.iso"
    # Each sector of the descriptors, path tables and directories, filled with a pattern of its own.
    for sector in range(16, 46):
        spoilt = bytearray(data)
        spoilt[sector * 2048 : sector * 2048 + 2048] = bytes((sector * 7 + i * 13) % 256 for i in range(2048))
        bad.write_bytes(spoilt)
        # Any other exception fails the test. (Damage in what is not read again, such as dates, is no fault.)
        with contextlib.suppress(MediumError):
            remaster(bad)


def test_a_bad_kernel_argument_is_refused(medium: Path, remaster: Remaster) -> None:
    with pytest.raises(MediumError, match="one plain word"):
        remaster(medium, arguments=["inst.ks=hd:LABEL=CentOS 7 x86_64:/ks.cfg"])
    with pytest.raises(MediumError, match="too long"):
        remaster(medium, arguments=["x" * 2048])


def test_an_old_output_survives_a_failure(medium: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.iso"
    output.write_text("precious")
    with pytest.raises(MediumError):
        iso.remaster(medium, output, kickstart=b"", kernel_args=["two words"])
    assert output.read_text() == "precious"
    with pytest.raises(HostError, match="cannot write"):
        iso.remaster(medium, tmp_path / "no/such/folder.iso", kickstart=b"", kernel_args=["a"])


def test_source_is_only_read(medium: Path, remaster: Remaster) -> None:
    before, stamp = medium.read_bytes(), medium.stat().st_mtime_ns
    remaster(medium)
    assert (medium.read_bytes(), medium.stat().st_mtime_ns) == (before, stamp)
