# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""Find the kickstart where dracut would, in the same order and with the same timeouts.

Location forms (dracut modules of Anaconda, the same from EL7 on): `hd:DEVICE:/path` with DEVICE a name, LABEL= or
UUID=, `cdrom:/path`, `cdrom:DEVICE:/path`, `file:/path`. The path is /ks.cfg when none is given.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import clock, faults, log, program
from .release.words import Words

PLACE = Path("/run/install/ks.cfg")
INITRAMFS = Path("/run/install/initramfs/ks.cfg")
DEFAULT = "/ks.cfg"


class UnsupportedError(Exception):
    """A location this installer cannot read (it has no network)."""


@dataclass(frozen=True)
class Location:
    """Location of a kickstart.

    Args:
        kind: `hd`, `cdrom` or `file`.
        device: `sda1`, `LABEL=…`, `UUID=…` or nothing (any CD).
        path: inside the device.
    """

    kind: str
    device: str
    path: str


def parse(text: str) -> Location:
    """Read the value of inst.ks=.

    Raises:
        UnsupportedError: a form that needs the network, or no form at all.
    """
    kind, _, rest = text.partition(":")
    if kind in ("file", "path"):
        return Location("file", "", rest or DEFAULT)
    if kind == "cdrom":
        if rest.startswith("/dev/") or (rest and not rest.startswith("/")):
            device, _, path = rest.partition(":")
            return Location("cdrom", device.removeprefix("/dev/"), path or DEFAULT)
        return Location("cdrom", "", rest or DEFAULT)
    if kind == "hd":
        device, _, path = rest.partition(":")
        return Location("hd", device.removeprefix("/dev/"), path or DEFAULT)
    if text.startswith("/"):
        return Location("file", "", text)
    raise UnsupportedError(text)


def labels(text: str) -> list[str]:
    r"""The labels a LABEL= may mean: literal, and with \x20, \\x20 or x20 read as the character it stands for.

    Boot loaders differ in how many backslashes they leave: GRUB without Red Hat's patch leaves none or two.
    """
    spellings = [
        text,
        re.sub(r"\\+x([0-9A-Fa-f]{2})", lambda match: chr(int(match[1], 16)), text),
        re.sub(r"\\*x20", " ", text),
    ]
    return list(dict.fromkeys(spellings))


def _device(name: str) -> str | None:
    """The device node of a name, LABEL= or UUID=; None while it is not there."""
    if name.startswith("LABEL="):
        tokens = [f"LABEL={label}" for label in labels(name.removeprefix("LABEL="))]
    elif name.startswith("UUID="):
        tokens = [name]
    else:
        return f"/dev/{name}" if Path(f"/dev/{name}").is_block_device() else None
    for token in tokens:
        # No cache: a CD that was just put in counts.
        found = program.run(
            "blkid", "-c", "/dev/null", "-t", token, "-o", "device", check=False, quiet=True, stderr=False
        )
        if found.strip():
            return found.split()[0]
    return None


def _copy(device: str, path: str) -> bool:
    """Copy the kickstart off a device; False when it is not on it."""
    mount = Path("/run/install/ksdev")
    mount.mkdir(parents=True, exist_ok=True)
    try:
        program.run("mount", "-o", "ro", device, str(mount), quiet=True)
    except program.ProgramError:
        return False
    try:
        source = mount / path.lstrip("/")
        if not source.is_file():
            return False
        PLACE.write_bytes(source.read_bytes())
        if (mount / "fault").is_file():
            faults.BESIDE.write_bytes((mount / "fault").read_bytes())
        return True
    finally:
        program.run("umount", str(mount), quiet=True)


def _cds() -> list[str]:
    return sorted(f"/dev/{entry.name}" for entry in Path("/sys/block").glob("sr*"))


def fetch(text: str | None, say: Callable[[str], None], patience: float, words: Words) -> Path | None:
    """Bring the kickstart to its place and return that; None when none was named and no OEMDRV is there.

    Never returns while a CD without the file, or a device that does not come, is waited for.
    """
    if text is None:
        device = _device("LABEL=OEMDRV")
        return PLACE if device and _copy(device, DEFAULT) else None
    try:
        where = parse(text)
    except UnsupportedError:
        say(f"dracut: Warning: Can't get kickstart from {text}")
        say("(builder rehearsal: this medium reads kickstarts from devices only)")
        _emergency(say)
        return None
    if where.kind == "file":
        if INITRAMFS.is_file():
            PLACE.write_bytes(INITRAMFS.read_bytes())
            return PLACE
        say(f"dracut: Warning: Can't get kickstart from {text}")
        _emergency(say)
    elif where.kind == "cdrom":
        _from_cd(where, say)
    else:
        _from_disk(where, text, say, patience, words)
    log.info("anaconda", f"kickstart found: {text}")
    return PLACE


def _from_cd(where: Location, say: Callable[[str], None]) -> None:
    asked = False
    while True:
        for device in [f"/dev/{where.device}"] if where.device else _cds():
            if _copy(device, where.path):
                return
        if not asked:
            say(f"Please insert CDROM containing '{where.path}'...")
            asked = True
        clock.pause(0.5)


def _from_disk(where: Location, text: str, say: Callable[[str], None], patience: float, words: Words) -> None:
    while True:
        device = clock.until(lambda: _device(where.device), within=patience * 2 / 3)
        if device is None:
            _initqueue(words.timeout, say)
            device = clock.until(lambda: _device(where.device), within=patience / 3)
        if device is not None:
            if _copy(device, where.path):
                return
            say(f"dracut: Warning: Can't get kickstart from {text}")
        else:
            _initqueue(words.no_boot, say)
            say(f"dracut: Warning: {where.device} does not exist")
        _emergency(say)


def _initqueue(texts: tuple[str, ...], say: Callable[[str], None]) -> None:
    for text in texts:
        say(f"dracut-initqueue[300]: {text}")


def _emergency(say: Callable[[str], None]) -> None:
    say("Entering emergency mode. Exit the shell to continue.")
    program.shell()
