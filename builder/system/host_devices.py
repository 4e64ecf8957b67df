"""Check block and PCI devices of the host that are to be given to a guest.

Invariant: a device that the host itself uses is never given away, and data on a device is lost only with consent.
Block devices are examined with lsblk and wipefs and opened exclusively, which the kernel refuses while anything on the
host holds them. PCI devices are looked up in sysfs (https://docs.kernel.org/driver-api/vfio.html, "Groups, Devices, and
IOMMUs": with one device of a group, a guest can reach the memory of all of them).
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.errors import HostError, RecipeError
from builder.system import process

PCI = Path("/sys/bus/pci/devices")
ADDRESS = re.compile(r"(?:([0-9a-f]{4}):)?([0-9a-f]{2}):([01][0-9a-f])\.([0-7])", re.I)
# Drivers that nothing on the host uses.
IDLE_DRIVERS = {"vfio-pci", "pci-stub"}
BRIDGE_CLASS = "0x06"


@dataclass(frozen=True)
class BlockDevice:
    """A block device as it was asked for.

    Args:
        path: where it is opened; the name that was given, which may be one that stays, below /dev/disk/by-id.
        size: bytes.
        serial: its serial number; empty where it has none.
        signatures: what wipefs finds on it: file systems, partition tables, RAID, LVM, swap.
    """

    path: Path
    size: int
    serial: str
    signatures: tuple[str, ...]


def block_device(words: str) -> BlockDevice:
    """A block device that a guest may get.

    Args:
        words: `PATH`, or `PATH,serial=SERIAL` for one that bears data which may be lost.

    Raises:
        RecipeError: no absolute path, or a word that is not known.
        HostError: no block device, mounted, in use, read-only, or with data on it whose loss was not agreed to.
    """
    given, _, rest = words.partition(",")
    key, _, serial = rest.partition("=")
    if not given.startswith("/") or (rest and key != "serial") or (rest and not serial):
        raise RecipeError(
            f"--host-disk {words}: not understood", hint="write --host-disk /dev/disk/by-id/NAME[,serial=SERIAL]"
        )
    device = _look(Path(given))
    require_meant(device, serial)
    return device


def require_meant(device: BlockDevice, serial: str) -> None:
    """Make sure that data on a device may be lost: there is none, or its serial number was repeated.

    Raises:
        HostError: it bears data, and another serial number was said, or none.
    """
    if device.signatures and not (serial and serial == device.serial):
        found = ", ".join(device.signatures)
        raise HostError(f"{device.path} bears data: {found}", _serial_told(device, serial), _way_out(device))


def _serial_told(device: BlockDevice, serial: str) -> str:
    if not device.serial:
        return "it has no serial number by which it could be meant"
    return f"its serial number is {device.serial}" + (f", not {serial}" if serial else "")


def _way_out(device: BlockDevice) -> str:
    if device.serial:
        return f"to hand it to the guest with all that is on it: --host-disk {device.path},serial={device.serial}"
    return f"look at it: wipefs {device.path}; to lose what is on it: wipefs --all {device.path}"


def require_unused(path: Path) -> dict[str, Any]:
    """Make sure that nothing on the host holds a block device: no mount, no RAID, LVM, dm-crypt or swap.

    Returns:
        What lsblk says of it.

    Raises:
        HostError: it is held, read-only, closed to this user, or no block device.
    """
    if not path.is_block_device():
        raise HostError(
            f"{path} is no block device", hint="lsblk -o PATH,SIZE,SERIAL,MOUNTPOINTS shows those of this host"
        )
    columns = "PATH,SIZE,SERIAL,RO,TYPE,MOUNTPOINTS"
    listed = json.loads(process.run(["lsblk", "--json", "--bytes", "--paths", "--output", columns, path]).stdout)
    device: dict[str, Any] = listed["blockdevices"][0]
    mounted = [place for one in _all(device) for place in one.get("mountpoints") or [] if place]
    if mounted:
        raise HostError(f"{path} is mounted", f"at {', '.join(mounted)}", "take another disk; this one is the host's")
    if device["ro"]:
        raise HostError(f"{path} is read-only")
    try:
        os.close(os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC))
    except OSError as fault:
        if fault.errno == errno.EBUSY:
            raise HostError(f"{path} is in use on this host", hint=f"lsblk {path} shows by what") from None
        raise HostError(f"{path} does not open: {fault.strerror}") from None
    return device


def _look(path: Path) -> BlockDevice:
    device = require_unused(path)
    found = json.loads(process.run(["wipefs", "--json", "--no-act", path]).stdout or "{}")
    signatures = tuple(str(one.get("type")) for one in found.get("signatures", []))
    return BlockDevice(path, int(device["size"]), (device["serial"] or "").strip(), signatures)


def _all(device: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield device
    for child in device.get("children", []):
        yield from _all(child)


def pci_device(address: str, root: Path = PCI, *, others: Collection[str] = ()) -> str:
    """The full address of a PCI device that a guest may get.

    Args:
        address: `0000:01:00.0`, or without the domain.
        root: where sysfs has PCI devices.
        others: full addresses that go to the same guest.

    Raises:
        RecipeError: not an address.
        HostError: no such device, no IOMMU, others of its group are in use, or the host itself uses it.
    """
    full = pci_address(address)
    folder = root / full
    if not folder.exists():
        raise HostError(f"this host has no PCI device {full}", hint="lspci -D shows those of this host")
    group = folder / "iommu_group"
    if not group.exists():
        raise HostError(
            f"{full} cannot be handed to a guest: no IOMMU is at work",
            "without one a guest could reach all memory through the device",
            "switch VT-d or AMD-Vi on in the firmware and boot with intel_iommu=on (amd_iommu=on): builder host check",
        )
    _require_not_ours(folder, full)
    taken = []
    for other in sorted((group / "devices").iterdir()):
        if other.name == full or other.name in others or _text(other / "class").startswith(BRIDGE_CLASS):
            continue
        driver = _driver(other)
        if driver and driver not in IDLE_DRIVERS:
            taken.append(f"{other.name} ({driver})")
    if taken:
        raise HostError(
            f"{full} shares its IOMMU group with devices that this host uses",
            ", ".join(taken),
            "hand over the whole group, each with its own --host-device, or use another slot",
        )
    return full


def pci_address(address: str) -> str:
    """A PCI address with its domain, in lower case.

    Raises:
        RecipeError: not an address.
    """
    found = ADDRESS.fullmatch(address)
    if found is None:
        raise RecipeError(f"--host-device {address}: no PCI address", hint="write it as lspci -D does: 0000:01:00.0")
    domain, bus, slot, function = found.groups()
    return f"{domain or '0000'}:{bus}:{slot}.{function}".lower()


def _require_not_ours(folder: Path, full: str) -> None:
    if _text(folder / "class").startswith(BRIDGE_CLASS):
        raise HostError(f"{full} is a bridge, which no guest can get")
    if _text(folder / "boot_vga") == "1":
        raise HostError(f"{full} is the screen of this host")
    # A card that is up serves the host; one that is down is not used.
    for card in sorted(folder.glob("**/net/*")):
        if _text(card / "operstate") == "up":
            raise HostError(
                f"{full} is the network card {card.name} of this host, which is up",
                hint=f"ip link set {card.name} down",
            )
    disks = sorted(path.name for path in folder.glob("**/block/*"))
    for disk in disks:
        listed = json.loads(process.run(["lsblk", "--json", "--output", "MOUNTPOINTS", f"/dev/{disk}"]).stdout)
        if any(
            place for one in listed["blockdevices"] for each in _all(one) for place in each.get("mountpoints") or []
        ):
            raise HostError(f"{full} holds the disk {disk} of this host, which is mounted")


def _driver(folder: Path) -> str:
    link = folder / "driver"
    return link.resolve().name if link.exists() else ""


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
