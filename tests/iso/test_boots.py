"""An injected medium of the vendor's size and shape boots as a CD and as a stick, by BIOS and by UEFI.

It holds what the vendor's holds, starts what its menu says and nothing else, and other programs find it sound.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.system.process import run
from tests.fakes import booting, vendor
from tests.fakes import iso_readers as readers
from tests.fakes.boot_sector import boot_sector
from tests.fakes.booting import Attached

pytestmark = [pytest.mark.vm, pytest.mark.slow]
LOCAL = "this is the local disk"
# Of OVMF's own menu: where a GRUB leads that cannot tell the firmware to go on with the next device.
FIRMWARE = "Select Entry"
# SeaBIOS, like others, counts all disks as one boot device: after a stick it looks at none of the others.
NOTHING_ELSE = "No bootable device"
INSTALLER = "Welcome to CentOS Linux 7"
SIZE = 1_000_000_000
PACKAGES = 440
KICKSTART = "cdrom\nignoredisk --only-use=vda\nclearpart --all\npoweroff\n"
EDITED = {"/isolinux/isolinux.cfg", "/EFI/BOOT/grub.cfg", "/images/efiboot.img"}
# Both hold addresses that move: the boot catalogue, and the table at byte 8 of isolinux.bin.
ADDRESSES = {"/isolinux/boot.cat", "/isolinux/isolinux.bin"}


@dataclass(frozen=True)
class Media:
    """The medium of the vendor's shape, and what `builder media inject` made of it, by menu; with what it said."""

    source: Path
    made: dict[str, Path]
    said: dict[str, str]


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory, rehearsal_iso: Path) -> Iterator[Media]:
    folder = tmp_path_factory.mktemp("boots")
    source = vendor_shaped(folder, rehearsal_iso)
    (folder / "ks.cfg").write_text(KICKSTART)
    made, said = {}, {}
    for menu, more in (("safe", ()), ("unattended", ("--unattended",))):
        made[menu] = folder / f"{menu}.iso"
        argv = [sys.executable, "-m", "builder", "media", "inject", source.name, "--kickstart", "ks.cfg"]
        done = subprocess.run(
            [*argv, "--output", made[menu].name, *more], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        said[menu] = done.stdout
    yield Media(source, made, said)
    shutil.rmtree(folder)


def vendor_shaped(folder: Path, rehearsal_iso: Path) -> Path:
    """The vendor's menus, with their submenus, and as many bytes and packages; what boots is the rehearsal's."""
    tree = folder / "tree"
    run(["xorriso", "-osirrox", "on", "-indev", rehearsal_iso, "-extract", "/", tree])
    run(["chmod", "-R", "u+w", tree])
    for path in [*tree.rglob("TRANS.TBL"), tree / "isolinux/boot.cat"]:
        path.unlink(missing_ok=True)
    # On a serial line, or nobody could read here what loader and installer say.
    serial = ("quiet", "quiet console=ttyS0,115200")
    (tree / "isolinux/isolinux.cfg").write_text("serial 0 115200\n" + vendor.ISOLINUX_CFG.replace(*serial))
    (tree / "EFI/BOOT/grub.cfg").write_text(vendor.GRUB_CFG.replace(*serial))
    run(["mcopy", "-o", "-i", tree / "images/efiboot.img", tree / "EFI/BOOT/grub.cfg", "::/EFI/BOOT/grub.cfg"])
    rest = SIZE - sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())
    (tree / "Packages").mkdir(exist_ok=True)
    for number in range(PACKAGES):
        (tree / f"Packages/package-{number:04d}-1.2.3-4.el7.x86_64.rpm").write_bytes(os.urandom(rest // PACKAGES))
    return vendor.press(tree, folder / "medium.iso", vendor.Shape())


def test_only_what_was_meant_is_different(media: Media, tmp_path: Path) -> None:
    assert media.source.stat().st_size > SIZE
    assert readers.complaints(media.source) == []
    before = readers.sums(media.source, tmp_path / "before")
    for menu, made in media.made.items():
        assert readers.sound_md5(made)
        assert readers.complaints(made) == []
        assert re.search(r"El Torito boot img : +1 +BIOS +y", readers.report(made))
        assert re.search(r"El Torito boot img : +2 +UEFI +y", readers.report(made))
        after = readers.sums(made, tmp_path / menu)
        assert after.keys() - before.keys() == {"/ks.cfg"}
        assert before.keys() - after.keys() == set()
        changed = {path for path in before if before[path] != after[path]}
        assert changed - ADDRESSES == EDITED | {"/TRANS.TBL"}
        for line in ("from CD  BIOS (/isolinux/isolinux.bin), UEFI (/images/efiboot.img)", "as disk  MBR, GPT"):
            assert f"{line}\n" in media.said[menu]
    assert "boots from the local disk" in media.said["safe"]
    assert "everything on the disks vda" in media.said["unattended"].partition("WARNING")[2]


def local_disk(folder: Path, firmware: str) -> Path:
    """A disk that says so when it is booted."""
    disk = folder / "local.raw"
    if firmware == "bios":
        disk.write_bytes(boot_sector(ttys0=LOCAL.encode() + b"\r\n", end="hang").ljust(1 << 20, b"\0"))
        return disk
    (folder / "grub.cfg").write_text(f"echo {LOCAL}\nsleep 999\n")
    run(
        [
            *("grub-mkimage", "-O", "x86_64-efi", "-p", "/", "-c", folder / "grub.cfg"),
            *("-o", folder / "BOOTX64.EFI", "echo", "sleep"),
        ]
    )
    disk.touch()
    run(["truncate", "-s", "34M", disk])
    run(["mkfs.fat", "-F", "32", disk])
    run(["mmd", "-i", disk, "::/EFI", "::/EFI/BOOT"])
    run(["mcopy", "-i", disk, folder / "BOOTX64.EFI", "::/EFI/BOOT/BOOTX64.EFI"])
    return disk


@pytest.mark.timeout(700)
@pytest.mark.parametrize("menu", ["unattended", "safe"])
@pytest.mark.parametrize("firmware", ["bios", "uefi"])
@pytest.mark.parametrize("attached", ["cd", "stick"])
def test_what_boots(tmp_path: Path, media: Media, menu: str, firmware: str, attached: Attached) -> None:
    # The vendor's menu waits for a minute before it takes its default.
    local = {"uefi": (LOCAL, FIRMWARE), "bios": (LOCAL,) if attached == "cd" else (NOTHING_ELSE,)}[firmware]
    wanted, unwanted = ((INSTALLER,), local) if menu == "unattended" else (local, (INSTALLER, "Linux version"))
    text = booting.boot(
        *(tmp_path, media.made[menu], firmware, attached, local_disk(tmp_path, firmware)),
        lambda text: any(word in text for word in wanted),
    )
    assert any(word in text for word in wanted), text[-2000:]
    assert not any(word in text for word in unwanted)
