"""Find the UEFI firmware that libvirt can choose, by QEMU's firmware descriptors.

The directories, their order and the descriptors: QEMU's docs/interop/firmware.json. libvirt itself makes the choice
(`<os firmware='efi'>`); this module predicts whether it will find one.
"""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DISTRIBUTION, ADMINISTRATOR = Path("/usr/share/qemu/firmware"), Path("/etc/qemu/firmware")
# As concrete as the machine types that descriptors match; any version serves.
MACHINE = "pc-q35-0.0"
# Firmware with these refuses the boot loaders of older systems (see `domain_xml`).
UNWANTED = frozenset({"secure-boot", "enrolled-keys"})


@dataclass(frozen=True)
class Uefi:
    """Firmware for x86_64 and q35: its file, and whether builder's machines can use it (no Secure Boot)."""

    file: Path
    usable: bool


def directories() -> tuple[Path, ...]:
    """List the directories of descriptors, the more specific ones later; libvirt as root reads no user's own."""
    if os.geteuid() == 0:
        return (DISTRIBUTION, ADMINISTRATOR)
    user = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return (DISTRIBUTION, ADMINISTRATOR, user / "qemu/firmware")


def uefi(folders: tuple[Path, ...]) -> list[Uefi]:
    """List the UEFI firmware of this host, in the order in which it is preferred."""
    return [found for content in _descriptors(folders) if (found := _uefi(content)) is not None]


def _descriptors(folders: tuple[Path, ...]) -> Iterator[Mapping[str, Any]]:
    """Yield descriptors by file name; of two of one name the more specific counts, and an empty one hides the other."""
    by_name = {path.name: path for folder in folders for path in _files(folder)}
    for _, path in sorted(by_name.items()):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict):
            yield content


def _files(folder: Path) -> list[Path]:
    """List the descriptors of a directory; none where there is no such directory, or it may not be read."""
    try:
        return [path for path in folder.iterdir() if path.suffix == ".json"]
    except OSError:
        return []


def _uefi(content: Mapping[str, Any]) -> Uefi | None:
    """Judge a descriptor; None when it is not about firmware that is here, or not about our machines."""
    try:
        mapping = content["mapping"]
        file = Path(mapping["executable"]["filename"])
        machines = [
            pattern
            for target in content["targets"]
            if target["architecture"] == "x86_64"
            for pattern in target["machines"]
        ]
        fits = "uefi" in content["interface-types"] and any(fnmatch.fnmatch(MACHINE, pattern) for pattern in machines)
        # A machine keeps its variables in a file made from a template; firmware for confidential guests has none.
        fits = fits and "nvram-template" in mapping
        features = set(content["features"])
    except (KeyError, TypeError):
        return None
    return Uefi(file, not features & UNWANTED) if fits and file.exists() else None
