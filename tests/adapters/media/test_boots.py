"""A remastered medium starts as a CD and as a stick, by BIOS and by UEFI, and only does what its menu says."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Literal

import pytest

from builder.adapters import iso, waiting
from builder.adapters.boot_config import Menu
from builder.adapters.process import run
from tests.fakes.boot_sector import boot_sector

pytestmark = [pytest.mark.vm, pytest.mark.slow]
LOCAL = "this is the local disk"
# Of OVMF's own menu: where a GRUB leads that cannot tell the firmware to go on with the next device.
FIRMWARE = "Select Entry"
# SeaBIOS, like others, counts all disks as one boot device: after a stick it looks at none of the others.
NOTHING_ELSE = "No bootable device"
INSTALLER = "Welcome to CentOS Linux 7"
OVMF = (Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.fd"))
ARGUMENTS = (r"inst.ks=hd:LABEL=CentOS\x207\x20x86_64:/ks.cfg", "console=ttyS0,115200")


@pytest.fixture(scope="module", params=["unattended", "safe"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, rehearsal_iso: Path) -> Path:
    menu: Menu = request.param
    output = tmp_path_factory.mktemp("boots") / f"{menu}.iso"
    iso.remaster(rehearsal_iso, output, kickstart=b"cdrom\n", kernel_args=ARGUMENTS, menu=menu)
    return output


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


@pytest.mark.timeout(300)
@pytest.mark.parametrize("firmware", ["bios", "uefi"])
@pytest.mark.parametrize("attached", ["cd", "stick"])
def test_what_boots(tmp_path: Path, made: Path, firmware: str, attached: Literal["cd", "stick"]) -> None:
    said = tmp_path / "serial.log"
    argv: list[str | Path] = ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-m", "512", "-display", "none"]
    firmware_log = tmp_path / "firmware.log"
    argv += ["-chardev", f"file,id=log,path={firmware_log}", "-device", "isa-debugcon,iobase=0x402,chardev=log"]
    argv += ["-nodefaults", "-vga", "std", "-serial", f"file:{said}", "-no-reboot", "-net", "none"]
    if firmware == "uefi":
        shutil.copyfile(OVMF[1], tmp_path / "vars.fd")
        argv += ["-drive", f"if=pflash,format=raw,readonly=on,file={OVMF[0]}"]
        argv += ["-drive", f"if=pflash,format=raw,file={tmp_path / 'vars.fd'}"]
    argv += ["-drive", f"if=none,id=medium,format=raw,readonly=on,file={made}"]
    argv += (
        ["-device", "ide-cd,bus=ide.0,drive=medium,bootindex=1"]
        if attached == "cd"
        else [
            "-device",
            "qemu-xhci",
            "-device",
            "usb-storage,drive=medium,bootindex=1",
        ]
    )
    argv += ["-drive", f"if=none,id=local,format=raw,file={local_disk(tmp_path, firmware)}"]
    argv += ["-device", "ide-hd,bus=ide.1,drive=local,bootindex=2"]
    # The vendor's menu waits for a minute before it takes its default.
    local = {"uefi": (LOCAL, FIRMWARE), "bios": (LOCAL,) if attached == "cd" else (NOTHING_ELSE,)}[firmware]
    wanted, unwanted = ((INSTALLER,), local) if made.stem == "unattended" else (local, (INSTALLER,))
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as machine:
        try:

            def told() -> str | None:
                text = "".join(log.read_text(errors="replace") for log in (said, firmware_log) if log.exists())
                return text if any(word in text for word in wanted) or machine.poll() is not None else None

            text = waiting.until(told, within=250, every=0.2) or said.read_text(errors="replace")
        finally:
            machine.kill()
            _, complaint = machine.communicate()
    assert any(word in text for word in wanted), (text[-2000:], complaint)
    assert not any(word in text for word in unwanted)
