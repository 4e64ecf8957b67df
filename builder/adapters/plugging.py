"""The one rule: a running machine has changed when its guest shows it; what the guest does not follow is not claimed.

Memory and processors are plugged in and given back (https://libvirt.org/formatdomain.html, "Memory Allocation", "CPU
Allocation"); a card is pulled from one network and put into another.
"""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET

import libvirt

from builder.adapters import waiting
from builder.adapters.domain_xml import BridgeNet, LibvirtNet
from builder.adapters.domains import Domains
from builder.adapters.hypervisor import told
from builder.errors import HostError

LIVE = libvirt.VIR_DOMAIN_AFFECT_LIVE
# Linux puts memory to use in blocks of this size (MiB) on x86 machines below 64 GiB.
BLOCK = 128
# Seconds that a guest has to follow; an emulated one on a busy host takes a few.
FOLLOWS = 20.0


def memory(domains: Domains, name: str, size: int) -> bool:
    """Give a running machine more or less memory; whether its guest took it, or gave it back.

    What is above all that is plugged in comes as a module of its own; the balloon does the rest.

    Args:
        size: MiB.
    """
    domain = _domain(domains, name)
    plugged, before = domain.maxMemory(), _seen(domain)
    more = size * 1024 - plugged
    try:
        # The guest tells what it has each second, if it has a driver for the balloon.
        domain.setMemoryStatsPeriod(1, LIVE)
        if more > 0:
            if more % (BLOCK * 1024):
                return False
            domain.attachDeviceFlags(_module(more), LIVE)
        domain.setMemoryFlags(size * 1024, LIVE)
        if _follows(domain, size * 1024, before + more * 0.9 if more > 0 else 0):
            return True
        # Nobody took it; the same memory as before is asked for, so that nothing changes later by surprise.
        domain.setMemoryFlags(min(plugged, domain.maxMemory()), LIVE)
    except libvirt.libvirtError:
        return False
    return False


def vcpus(domains: Domains, name: str, count: int) -> bool:
    """Plug processors in or take them out; those a machine was started with stay, and a guest may keep its own."""
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
    with told(f"the card of {name} could not be put into {wanted.name}"):
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
    with told(f"the card of {name} could not be put into {wanted.name}"):
        for state in ("down", "up"):
            link.set("state", state)
            domain.updateDeviceFlags(ET.tostring(card, encoding="unicode"), LIVE)


def _domain(domains: Domains, name: str) -> Any:
    with told(f"libvirt could not be asked about {name}"):
        return domains.host.connection.lookupByName(name)


def _module(kib: int) -> str:
    module = ET.Element("memory", model="dimm")
    target = ET.SubElement(module, "target")
    ET.SubElement(target, "size", unit="KiB").text = str(kib)
    ET.SubElement(target, "node").text = "0"
    return ET.tostring(module, encoding="unicode")


def _seen(domain: Any) -> int:
    """KiB that the guest says it can use; 0 when it says nothing."""
    return int(domain.memoryStats().get("available", 0))


def _follows(domain: Any, target: int, least: float) -> bool:
    """Whether the guest has given back what it should and, where memory came, says that it has it (KiB)."""

    def there() -> bool | None:
        told_ = domain.memoryStats()
        return True if told_.get("actual") == target and told_.get("available", 0) >= least else None

    return bool(waiting.until(there, within=FOLLOWS, every=0.2))
