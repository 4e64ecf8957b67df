"""Change memory, processors and network of a running machine.

Invariant: memory counts as changed when the guest reports it, everything else when QEMU has done it.
Memory and processors: https://libvirt.org/formatdomain.html, "Memory Allocation", "CPU Allocation".
"""

from __future__ import annotations

import time
from typing import Any
from xml.etree import ElementTree as ET

import libvirt

from builder.errors import HostError
from builder.system import retry
from builder.vm.domains import Domains
from builder.vm.libvirt_errors import libvirt_errors
from builder.vm.machine_spec import BridgeNet, LibvirtNet

LIVE = libvirt.VIR_DOMAIN_AFFECT_LIVE
# Linux puts memory to use in blocks of this size (MiB) on x86 machines below 64 GiB.
BLOCK = 128
# Seconds that a guest has to follow; an emulated one on a busy host takes a few.
FOLLOWS = 20.0


def memory(domains: Domains, name: str, size: int) -> bool:
    """Give a running machine more or less memory; whether its guest took it, or gave it back.

    What is above all that is plugged in comes as a module of its own; the balloon does the rest. A guest that says
    nothing through its balloon is left alone.

    Args:
        size: MiB.
    """
    domain, target = _domain(domains, name), size * 1024
    try:
        domain.setMemoryStatsPeriod(1, LIVE)
        try:
            return _give(domain, target)
        finally:
            domain.setMemoryStatsPeriod(0, LIVE)
    except libvirt.libvirtError:
        return False


def _give(domain: Any, target: int) -> bool:
    since = time.time()
    before = retry.until(lambda: _told(domain, since), within=FOLLOWS, every=0.2)
    plugged = domain.maxMemory()
    if before is None or (target > plugged and (target - plugged) % (BLOCK * 1024)):
        return False
    if target > plugged:
        domain.attachDeviceFlags(_module(target - plugged), LIVE)
    domain.setMemoryFlags(target, LIVE)
    more = target - before["actual"]

    def there() -> bool | None:
        now = _told(domain, since)
        took = more <= 0 or (now is not None and now["available"] >= before["available"] + 0.9 * more)
        return True if now is not None and now["actual"] == target and took else None

    if retry.until(there, within=FOLLOWS, every=0.2):
        return True
    # The guest did not follow: what was there is asked for again, so that nothing changes later by surprise.
    domain.setMemoryFlags(before["actual"], LIVE)
    return False


def _told(domain: Any, since: float) -> dict[str, int] | None:
    """Return the guest's memory statistics (KiB) since a moment: `actual` is what it was left, `available` it uses."""
    stats: dict[str, int] = domain.memoryStats()
    return stats if stats.get("last_update", 0) >= since and "available" in stats else None


def vcpus(domains: Domains, name: str, count: int) -> bool:
    """Plug processors in or take them out; whether that was done.

    Those that a machine was started with stay. The guest itself puts to use what is plugged in (EL7 by a rule of
    udev's), and lets go of what is taken out.
    """
    try:
        _domain(domains, name).setVcpusFlags(count, LIVE)
    except libvirt.libvirtError:
        return False
    return True


def network(domains: Domains, name: str, mac: str, wanted: LibvirtNet | BridgeNet) -> None:
    """Put a running machine's card into another network, and let the guest see the cable come and go.

    Raises:
        HostError: libvirt refuses, or the machine has no such card.
    """
    domain = _domain(domains, name)
    with libvirt_errors(f"the card of {name} could not be put into {wanted.name}"):
        cards = ET.fromstring(domain.XMLDesc(0)).findall("devices/interface")
    card = next((one for one in cards if one.find(f"mac[@address='{mac}']") is not None), None)
    source = card.find("source") if card is not None else None
    if card is None or source is None:
        raise HostError(f"{name} has no card {mac} that libvirt knows")
    kind = "network" if isinstance(wanted, LibvirtNet) else "bridge"
    card.set("type", kind)
    source.attrib.clear()
    source.set(kind, wanted.name)
    link = card.find("link")
    link = ET.SubElement(card, "link") if link is None else link
    with libvirt_errors(f"the card of {name} could not be put into {wanted.name}"):
        for state in ("down", "up"):
            link.set("state", state)
            domain.updateDeviceFlags(ET.tostring(card, encoding="unicode"), LIVE)


def _domain(domains: Domains, name: str) -> Any:
    with libvirt_errors(f"libvirt could not be asked about {name}"):
        return domains.host.connection.lookupByName(name)


def _module(kib: int) -> str:
    module = ET.Element("memory", model="dimm")
    target = ET.SubElement(module, "target")
    ET.SubElement(target, "size", unit="KiB").text = str(kib)
    ET.SubElement(target, "node").text = "0"
    return ET.tostring(module, encoding="unicode")
