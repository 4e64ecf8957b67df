"""Press a tree into an ISO that boots, in three ways: as lorax does it for EL7 and 8, for EL9, and for EL10 and Fedora.

Sources: lorax, share/templates.d/99-generic/x86.tmpl of 28.14.71 (EL8; EL7's share/x86.tmpl does the same), 34.9.33
(EL9) and 40.5.19 (EL10; 44.7 for Fedora is the same). EL7 and 8: mkisofs and isohybrid. EL9: xorrisofs with isolinux's
boot sector. EL10: GRUB for BIOS, too, and an EFI system partition behind the volume, in no file of the tree.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from builder.rehearsal.repositories import STAMP
from builder.rehearsal.shapes import Layout, Shape
from builder.system.process import run

APPLICATION_ID = "BUILDER REHEARSAL OF {}, NOT THE VENDOR'S"
ISOLINUX = Path("/usr/lib/ISOLINUX")
SYSLINUX = Path("/usr/lib/syslinux/modules/bios")
GRUB_BIOS = Path("/usr/lib/grub/i386-pc")
GRUB_UEFI = Path("/usr/lib/grub/x86_64-efi")
EFI_IMAGE = "images/efiboot.img"
# Types of GPT partitions (UEFI 2.10, 5.3.3; Microsoft's basic data).
_ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
_BASIC_DATA = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"
_BOOT = ("-boot-load-size", "4", "-boot-info-table", "-no-emul-boot")
_ISOLINUX_BOOT = ("-b", "isolinux/isolinux.bin", "-c", "isolinux/boot.cat", *_BOOT)
_EFI_BOOT = ("-eltorito-alt-boot", "-e", EFI_IMAGE, "-no-emul-boot")

# What each way needs of the host, beside the EFI loader.
NEEDS: dict[Layout, tuple[Path, ...]] = {
    "isohybrid": (ISOLINUX / "isolinux.bin", SYSLINUX / "vesamenu.c32"),
    "isolinux": (ISOLINUX / "isolinux.bin", ISOLINUX / "isohdpfx.bin", SYSLINUX / "vesamenu.c32"),
    "grub2": (GRUB_BIOS / "boot_hybrid.img",),
}


def press(tree: Path, iso: Path, shape: Shape) -> None:
    """Write the ISO, with a checksum implanted; `tree` holds all that is in it.

    Raises:
        HostError: a program is missing or fails.
    """
    {"isohybrid": _isohybrid, "isolinux": _isolinux, "grub2": _grub2}[shape.layout](tree, iso, shape)
    run(["implantisomd5", "--force", iso])


def isolinux(tree: Path, menu: str, kernel: str, initrd: str) -> None:
    """Lay isolinux into the tree.

    Args:
        kernel, initrd: their places in the tree; isolinux has them in its own folder, as second names.
    """
    folder = tree / "isolinux"
    folder.mkdir()
    (folder / "isolinux.cfg").write_text(menu)
    shutil.copyfile(ISOLINUX / "isolinux.bin", folder / "isolinux.bin")
    for name in ("ldlinux.c32", "libcom32.c32", "libutil.c32", "vesamenu.c32"):
        shutil.copyfile(SYSLINUX / name, folder / name)
    for place in (kernel, initrd):
        # One copy of the bytes under both names: the programs below keep hard links.
        os.link(tree / place, folder / Path(place).name)


def grub_bios(tree: Path, menu: str) -> None:
    """Lay GRUB for BIOS into the tree."""
    folder = tree / "boot" / "grub2"
    shutil.copytree(GRUB_BIOS, folder / "i386-pc", ignore=shutil.ignore_patterns("*.img", "*.module", "*.exec"))
    (folder / "grub.cfg").write_text(menu)
    image = tree / "images" / "eltorito.img"
    run(
        [
            *("grub-mkimage", "-O", "i386-pc-eltorito", "-d", GRUB_BIOS, "-o", image),
            *("-p", "/boot/grub2", "iso9660", "biosdisk"),
        ]
    )


def grub_uefi(tree: Path, menu: str) -> None:
    """Lay GRUB for UEFI into the tree, and into the image of a file system that UEFI boots from."""
    boot = tree / "EFI" / "BOOT"
    boot.mkdir(parents=True)
    (boot / "grub.cfg").write_text(menu)
    names = "all_video boot cat configfile echo fat gzio iso9660 linux linuxefi ls minicmd normal part_gpt part_msdos"
    names += " reboot search search_fs_file search_fs_uuid search_label serial sleep terminal test"
    # No configuration inside: GRUB takes the folder it was loaded from, the ISO's on a CD and efiboot.img's on a
    # stick, as with the vendor's.
    have = [name for name in names.split() if (GRUB_UEFI / f"{name}.mod").exists()]
    run(["grub-mkimage", "-d", GRUB_UEFI, "-O", "x86_64-efi", "-p", "/EFI/BOOT", "-o", boot / "BOOTX64.EFI", *have])
    image = tree / EFI_IMAGE
    with image.open("wb") as file:
        file.truncate(9011200)
    run(["mkfs.vfat", "-n", "ANACONDA", "-i", "7C9A0709", image])
    run(["mmd", "-i", image, "::EFI", "::EFI/BOOT"])
    for name in ("BOOTX64.EFI", "grub.cfg"):
        run(["mcopy", "-i", image, boot / name, f"::EFI/BOOT/{name}"])


def _volume(shape: Shape) -> tuple[str, ...]:
    return (
        "-V",
        shape.volume_id,
        "-sysid",
        "LINUX",
        "-A",
        APPLICATION_ID.format(f"{shape.title} {shape.long_version}".upper()),
    )


def _isohybrid(tree: Path, iso: Path, shape: Shape) -> None:
    words = (*_volume(shape), *_ISOLINUX_BOOT, *_EFI_BOOT, "-R", "-J", "-joliet-long", "-T")
    run(["genisoimage", "-quiet", "-o", iso, *words, tree])
    run(["isohybrid", "--uefi", iso])


def _isolinux(tree: Path, iso: Path, shape: Shape) -> None:
    words = (*_ISOLINUX_BOOT, *_EFI_BOOT, "-isohybrid-gpt-basdat")
    _xorriso("-isohybrid-mbr", ISOLINUX / "isohdpfx.bin", *words, *_volume(shape), "-o", iso, tree)


def _grub2(tree: Path, iso: Path, shape: Shape) -> None:
    # Into the partition alone.
    esp = tree.with_name("efiboot.img")
    (tree / EFI_IMAGE).rename(esp)
    words: list[str | Path] = ["-partition_offset", "16", "-appended_part_as_gpt", "-append_partition", "2", _ESP, esp]
    words += ["-iso_mbr_part_type", _BASIC_DATA, "-c", "boot.cat", "--boot-catalog-hide"]
    words += ["-b", "images/eltorito.img", *_BOOT, "--grub2-boot-info"]
    words += ["-eltorito-alt-boot", "-e", "--interval:appended_partition_2:all::", "-no-emul-boot"]
    _xorriso("--grub2-mbr", GRUB_BIOS / "boot_hybrid.img", *words, *_volume(shape), "-o", iso, tree)


def _xorriso(*words: str | Path) -> None:
    # Without the variable it dates by the clock and makes up GUIDs.
    dated = {"SOURCE_DATE_EPOCH": str(STAMP), "TZ": "UTC"}
    run(["xorriso", "-no_rc", "-as", "mkisofs", "-quiet", "-R", "-J", "-joliet-long", *words], env=dated)
