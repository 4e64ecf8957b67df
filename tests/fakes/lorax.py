"""Small install media of Enterprise Linux 8 to 10, pressed with the commands that make the real ones.

boot.iso is lorax's: share/templates.d/99-generic/x86.tmpl of lorax 28.14.71 (EL8: mkisofs and isohybrid), 34.9.33 (EL9:
xorrisofs with isolinux) and 40.5.19 (EL10; Fedora's 44.7 is the same: GRUB for BIOS, the EFI system partition appended
and in no tree). A DVD is boot.iso replayed by xorriso with the repositories mapped in: pungi 4.3.6 (createiso.py,
write_xorriso_commands) and empanadas of Rocky Linux's sig-core-toolkit at 045e07c (templates/xorriso.tmpl.txt).
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from builder.system.process import run
from tests.fakes import el, vendor

SYSLINUX = Path("/usr/lib/syslinux/modules/bios")
GRUB = Path("/usr/lib/grub/i386-pc")
ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
BASIC_DATA = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"
Layout = Literal["isohybrid", "isolinux", "grub2"]


@dataclass(frozen=True)
class Medium:
    """A medium and how it is pressed.

    Args:
        layout: of boot.iso: lorax of EL8, EL9, or EL10 and Fedora.
        replayed: it is the DVD that was made of boot.iso.
        macboot: with a third boot image (lorax's --macboot), for UEFI's of Apple.
    """

    layout: Layout
    version: str
    replayed: bool = True
    uefi: bool = True
    macboot: bool = False

    @property
    def label(self) -> str:
        """The volume id: no letters that would have to be escaped."""
        return f"Rocky-{self.version.replace('.', '-')}-x86_64-dvd"


MEDIA = {
    "el8 boot": Medium("isohybrid", "8.10", replayed=False),
    "el8 dvd": Medium("isohybrid", "8.10"),
    "el9 boot": Medium("isolinux", "9.8", replayed=False),
    "el9 dvd": Medium("isolinux", "9.8"),
    "el9 mac": Medium("isolinux", "9.8", macboot=True),
    "el10 boot": Medium("grub2", "10.2", replayed=False),
    "el10 dvd": Medium("grub2", "10.2"),
}


@dataclass(frozen=True)
class Payload:
    """What is started; None: something that is not started at all.

    Args:
        words: for the kernel's command line.
    """

    kernel: Path | None = None
    initrd: Path | None = None
    efi_loader: Path | None = None
    words: str = "quiet"


def press(folder: Path, medium: Medium, payload: Payload = Payload()) -> Path:
    """The ISO, in an empty folder, with a checksum implanted."""
    tree, packages, boot = folder / "lorax", folder / "dvd", folder / "boot.iso"
    _lorax_tree(tree, medium, payload)
    {"isohybrid": _isohybrid, "isolinux": _isolinux, "grub2": _grub2}[medium.layout](tree, boot, medium)
    if medium.replayed:
        _packages(packages, medium)
        maps = [word for path in sorted(packages.iterdir()) for word in ("-map", path, f"/{path.name}")]
        made = folder / "dvd.iso"
        run(["xorriso", "-indev", boot, "-outdev", made, "-boot_image", "any", "replay", "-joliet", "on",
             "-system_id", "LINUX", "-compliance", "joliet_long_names", "-volid", medium.label, *maps,
             "-end"])  # fmt: skip
        boot.unlink()
        boot = made
    run(["implantisomd5", "--force", boot])
    return boot


def _menus(medium: Medium, words: str) -> dict[str, str]:
    """Menus of lorax's form, by path."""

    def named(text: str) -> str:
        text = text.replace(vendor.ESCAPED, medium.label).replace(vendor.LABEL, medium.label)
        text = text.replace("CentOS 7", f"Rocky Linux {medium.version}").replace(" rescue quiet", " inst.rescue quiet")
        return text.replace("quiet", words)

    menus = {"EFI/BOOT/grub.cfg": named(vendor.GRUB_CFG)}
    if medium.layout == "grub2":
        menus["boot/grub2/grub.cfg"] = (
            named(vendor.GRUB_CFG).replace("linuxefi", "linux").replace("initrdefi", "initrd")
        )
    else:
        menus["isolinux/isolinux.cfg"] = named(vendor.ISOLINUX_CFG)
    return menus


def _lorax_tree(tree: Path, medium: Medium, payload: Payload) -> None:
    blobs = {"images/install.img": 300_000, "images/pxeboot/vmlinuz": 66_000, "images/pxeboot/initrd.img": 130_001}
    for number, (name, size) in enumerate(blobs.items()):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(bytes([number + 1]) * size)
    for given, name in ((payload.kernel, "vmlinuz"), (payload.initrd, "initrd.img")):
        if given is not None:
            shutil.copyfile(given, tree / "images/pxeboot" / name)
    (tree / ".discinfo").write_text(f"1603728831.612616\n{medium.version}\nx86_64\n")
    (tree / "LICENSE").write_text("terms\n")
    for name, text in _menus(medium, payload.words).items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    loader = payload.efi_loader.read_bytes() if payload.efi_loader else b"MZ" * 5000
    (tree / "EFI/BOOT/BOOTX64.EFI").write_bytes(loader)
    vendor.efi_image(tree / "images/efiboot.img", tree / "EFI", 9 << 20)
    if medium.layout == "grub2":
        shutil.copytree(GRUB, tree / "boot/grub2/i386-pc", ignore=shutil.ignore_patterns("*.img", "*.module"))
        run(["grub-mkimage", "-O", "i386-pc-eltorito", "-d", GRUB, "-o", tree / "images/eltorito.img",
             "-p", "/boot/grub2", "iso9660", "biosdisk"])  # fmt: skip
    else:
        shutil.copyfile(vendor.ISOLINUX_BIN, tree / "isolinux/isolinux.bin")
        for name in ("vesamenu.c32", "ldlinux.c32", "libcom32.c32", "libutil.c32"):
            shutil.copyfile(SYSLINUX / name, tree / "isolinux" / name)
        for name in ("vmlinuz", "initrd.img"):
            os.link(tree / "images/pxeboot" / name, tree / "isolinux" / name)
    _dated(tree)


def _packages(folder: Path, medium: Medium) -> None:
    """What a DVD has beside boot.iso."""
    el.repository(folder / "BaseOS", ["bash", *el.PACKAGES], "gzip")
    el.repository(folder / "AppStream", ["nginx"], "gzip", groups=False)
    name = "a-very-long-package-name-indeed-1.2.3-456.el9_8.x86_64.rpm"
    (folder / "BaseOS/Packages").mkdir()
    (folder / "BaseOS/Packages" / name).write_bytes(b"rpm" * 5000)
    repositories = {"BaseOS": "BaseOS", "AppStream": "AppStream"}
    (folder / ".treeinfo").write_text(el.treeinfo(f"Rocky Linux {medium.version}", medium.version, repositories))
    _dated(folder)


def _dated(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (vendor.BUILT, vendor.BUILT))


_EL_TORITO = ("-b", "isolinux/isolinux.bin", "-c", "isolinux/boot.cat",
              "-boot-load-size", "4", "-boot-info-table", "-no-emul-boot")  # fmt: skip


def _isohybrid(tree: Path, iso: Path, medium: Medium) -> None:
    efi = ["-eltorito-alt-boot", "-e", "images/efiboot.img", "-no-emul-boot"] if medium.uefi else []
    run(["genisoimage", "-quiet", "-o", iso, *_EL_TORITO, *efi, "-R", "-J", "-V", medium.label, "-T", tree])
    run(["isohybrid", *(["--uefi"] if medium.uefi else []), iso])


def _isolinux(tree: Path, iso: Path, medium: Medium) -> None:
    efi = ["-eltorito-alt-boot", "-e", "images/efiboot.img", "-no-emul-boot", "-isohybrid-gpt-basdat"]
    if medium.macboot:
        (tree / "images/macboot.img").write_bytes(b"HFS+" * 100_000)
        efi += ["-eltorito-alt-boot", "-e", "images/macboot.img", "-no-emul-boot", "-isohybrid-gpt-hfsplus"]
    run(["xorriso", "-as", "mkisofs", "-o", iso, "-isohybrid-mbr", vendor.ISOLINUX_BIN.with_name("isohdpfx.bin"),
         *_EL_TORITO, *(efi if medium.uefi else []), "-R", "-J", "-V", medium.label, tree])  # fmt: skip


def _grub2(tree: Path, iso: Path, medium: Medium) -> None:
    # Into the partition alone.
    esp = tree.with_name("efiboot.img")
    (tree / "images/efiboot.img").rename(esp)
    run(["xorriso", "-as", "mkisofs", "-o", iso, "-R", "-J", "-V", medium.label,
         "--grub2-mbr", GRUB / "boot_hybrid.img", "-partition_offset", "16", "-appended_part_as_gpt",
         "-append_partition", "2", ESP, esp, "-iso_mbr_part_type", BASIC_DATA, "-c", "boot.cat",
         "--boot-catalog-hide", "-b", "images/eltorito.img", "-no-emul-boot", "-boot-load-size", "4",
         "-boot-info-table", "--grub2-boot-info", "-eltorito-alt-boot", "-e", "--interval:appended_partition_2:all::",
         "-no-emul-boot", tree])  # fmt: skip
