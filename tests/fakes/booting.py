"""Boot a medium as a CD or as a stick, by BIOS or by UEFI, and listen to what is said."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from builder.system import retry

OVMF = (Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.fd"))
Attached = Literal["cd", "stick"]


def boot(
    folder: Path, medium: Path, firmware: str, attached: Attached, local: Path | None, done: Callable[[str], bool]
) -> str:
    """What a machine and its firmware say until it is `done`, it ends, or 10 minutes have passed.

    Args:
        folder: for logs and the firmware's variables.
        local: a disk that is tried after the medium.
    """
    said, firmware_log = folder / "serial.log", folder / "firmware.log"
    argv: list[str | Path] = ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-m", "512", "-display", "none"]
    argv += ["-chardev", f"file,id=log,path={firmware_log}", "-device", "isa-debugcon,iobase=0x402,chardev=log"]
    argv += ["-nodefaults", "-vga", "std", "-serial", f"file:{said}", "-no-reboot", "-net", "none"]
    if firmware == "uefi":
        shutil.copyfile(OVMF[1], folder / "vars.fd")
        argv += ["-drive", f"if=pflash,format=raw,readonly=on,file={OVMF[0]}"]
        argv += ["-drive", f"if=pflash,format=raw,file={folder / 'vars.fd'}"]
    argv += ["-drive", f"if=none,id=medium,format=raw,readonly=on,file={medium}"]
    argv += (
        ["-device", "ide-cd,bus=ide.0,drive=medium,bootindex=1"]
        if attached == "cd"
        else ["-device", "qemu-xhci", "-device", "usb-storage,drive=medium,bootindex=1"]
    )
    if local is not None:
        argv += ["-drive", f"if=none,id=local,format=raw,file={local}"]
        argv += ["-device", "ide-hd,bus=ide.1,drive=local,bootindex=2"]

    def heard() -> str:
        return "".join(log.read_text(errors="replace") for log in (said, firmware_log) if log.exists())

    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as machine:
        try:
            retry.until(lambda: done(heard()) or machine.poll() is not None or None, within=600, every=0.2)
        finally:
            machine.kill()
            _, complaint = machine.communicate()
    return heard() + complaint.decode(errors="replace")
