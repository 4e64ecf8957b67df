"""Validate bridges and NAT networks before anything is changed, with one line for each fault.

These functions are pure: what the host has comes in as arguments.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from builder.errors import RecipeError
from builder.system.netlink import Route

# IFNAMSIZ is 16 with the closing zero; no slash, no white space, no colon (labels).
INTERFACE = re.compile(r"(?!\.{1,2}$)[^\s/:]{1,15}")
# ARPHRD_ETHER and ARPHRD_LOOPBACK (linux/if_arp.h); the latter is refused by name.
ETHERNET, LOOPBACK = "1", "772"
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Network = ipaddress.IPv4Network


@dataclass(frozen=True)
class BridgePlan:
    """A bridge that takes over an uplink.

    Args:
        addresses: CIDR, static ones; empty for DHCP.
        gateways: at most one of each family.
        dhcp: IPv4 addresses come by DHCP, perhaps beside static ones.
        auto6: IPv6 addresses come by router advertisements.
        mtu: None for the usual one.
        routes: static ones beside the default route.
        mac: of the uplink; the bridge gets it too, so that leases and ARP caches stay right.
    """

    bridge: str
    uplink: str
    mac: str
    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    dhcp: bool = False
    auto6: bool = False
    mtu: int | None = None
    routes: tuple[Route, ...] = ()

    def of(self, version: int) -> tuple[tuple[str, ...], str | None, tuple[str, ...]]:
        """Static addresses, gateway and name servers of IPv4 or IPv6; no gateway without an address."""
        addresses = tuple(each for each in self.addresses if ipaddress.ip_interface(each).version == version)
        gateways = [each for each in self.gateways if ipaddress.ip_address(each).version == version]
        dns = tuple(each for each in self.dns if ipaddress.ip_address(each).version == version)
        return addresses, gateways[0] if gateways and addresses else None, dns


def refuse(faults: Iterable[str]) -> None:
    """Raise one error with all faults, if there are any.

    Raises:
        RecipeError: there are.
    """
    found = list(faults)
    if found:
        raise RecipeError("this network cannot work", "\n".join(found), "nothing was changed")


def bridge_faults(plan: BridgePlan, *, wireless: bool, has_carrier: bool, is_bridge: bool) -> Iterator[str]:
    """Return the faults of a bridge.

    Args:
        wireless, has_carrier, is_bridge: what the uplink is.
    """
    if not INTERFACE.fullmatch(plan.bridge):
        yield f"bridge {plan.bridge!r} is no name for an interface: at most 15 characters, no space, '/' or ':'"
    if plan.bridge == plan.uplink:
        yield f"bridge and uplink are both {plan.bridge}"
    if plan.uplink == "lo":
        yield "uplink lo leads nowhere"
    if wireless:
        yield f"uplink {plan.uplink} is Wi-Fi: access points drop frames of guests' MAC addresses; use --nat instead"
    if is_bridge:
        yield f"uplink {plan.uplink} is a bridge itself: guests can use it as it is"
    if not has_carrier:
        yield f"uplink {plan.uplink} has no link: is the cable plugged in, and the interface up?"
    yield from address_faults(plan.addresses, plan.gateways, plan.dns)


def uplink_faults(uplink: str, hardware: str, uevent: str, *, kept: bool) -> Iterator[str]:
    """Return the faults of an uplink's kind of card.

    Args:
        hardware: its `type` in sysfs; empty where there is none.
        uevent: its `uevent` in sysfs.
        kept: the bridge is to outlast a reboot.
    """
    if hardware not in ("", ETHERNET, LOOPBACK):
        yield f"uplink {uplink} is no Ethernet: it cannot be a port of a bridge"
    kind = re.search(r"^DEVTYPE=(vlan|bond)$", uevent, re.M)
    if kind and kept:
        yield (
            f"uplink {uplink} is a {kind[1]}: builder writes files for plain cards only; "
            "--backend runtime makes a bridge that lasts until the next reboot"
        )


def address_faults(addresses: Iterable[str], gateways: Iterable[str], dns: Iterable[str] = ()) -> Iterator[str]:
    """Return the faults of addresses and of the gateways to be reached from them."""
    own: list[Interface] = []
    for text in addresses:
        try:
            address = ipaddress.ip_interface(text)
        except ValueError:
            yield f"address {text!r} is none: write 192.168.10.19/24"
            continue
        if "/" not in text:
            yield f"address {text} has no prefix length: write {text}/24"
        elif address.version == 4 and address.network.prefixlen < 31 and address.ip in _ends(address.network):
            yield f"address {text} is the first or last of its network {address.network}: no host can have it"
        elif address.ip.is_loopback or address.ip.is_multicast or address.ip.is_unspecified:
            yield f"address {text} is not one for a host"
        else:
            own.append(address)
    seen: set[int] = set()
    for text in gateways:
        try:
            gateway = ipaddress.ip_address(text)
        except ValueError:
            yield f"gateway {text!r} is no address"
            continue
        if gateway.version in seen:
            yield f"gateway {text} is a second one for IPv{gateway.version}"
        seen.add(gateway.version)
        yield from _gateway_faults(gateway, [each for each in own if each.version == gateway.version])
    for text in dns:
        try:
            ipaddress.ip_address(text)
        except ValueError:
            yield f"name server {text!r} is no address"


def _gateway_faults(gateway: ipaddress.IPv4Address | ipaddress.IPv6Address, own: list[Interface]) -> Iterator[str]:
    if any(each.ip == gateway for each in own):
        yield f"gateway {gateway} is the host's own address"
    elif own and not gateway.is_link_local and not any(gateway in each.network for each in own):
        networks = ", ".join(str(each.network) for each in own)
        yield f"gateway {gateway} is outside {networks}: it could never be reached"


def _ends(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> tuple[object, object]:
    return network.network_address, network.broadcast_address


@dataclass(frozen=True)
class NatPlan:
    """A NAT network of libvirt's.

    Args:
        subnet: IPv4; its first address becomes the host's own.
        reservations: MAC address, name and address of guests that always get the same one.
    """

    subnet: str
    name: str = "builder"
    bridge: str = "virbr-builder"
    reservations: tuple[tuple[str, str, str], ...] = ()


def nat_faults(plan: NatPlan, taken: Iterable[str], defined: Mapping[str, str] | None = None) -> Iterator[str]:
    """Return the faults of a NAT network.

    Args:
        taken: networks that the host's routes lead to already.
        defined: networks that will have routes once they run, by who defines them.
    """
    try:
        network = ipaddress.IPv4Network(plan.subnet)
    except ValueError as fault:
        yield f"subnet {plan.subnet!r} is none: {fault}"
        return
    if not 16 <= network.prefixlen <= 28:
        yield f"subnet {network} should have a prefix length between 16 and 28"
    if not network.is_private:
        yield f"subnet {network} is a public one: take one from 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16"
    routed = [ipaddress.IPv4Network(other, strict=False) for other in taken]
    for other in routed:
        if network.overlaps(other):
            yield f"subnet {network} overlaps {other}, which this host has a route to"
    for who, text in (defined or {}).items():
        other = ipaddress.IPv4Network(text, strict=False)
        if other not in routed and network.overlaps(other):
            yield f"subnet {network} overlaps {other}, which is {who}"
    if not INTERFACE.fullmatch(plan.bridge):
        yield f"bridge {plan.bridge!r} is no name for an interface"
    seen: set[str] = set()
    for _mac, name, text in plan.reservations:
        if ipaddress.IPv4Address(text) not in network:
            yield f"reservation {name}: {text} is outside {network}"
        if text in seen:
            yield f"reservation {name}: {text} is given twice"
        seen.add(text)


def nat_xml(plan: NatPlan) -> str:
    """libvirt's description of the network (https://libvirt.org/formatnetwork.html).

    The upper half of the subnet is handed out by DHCP; the lower half is for static addresses and reservations.
    """
    subnet = ipaddress.IPv4Network(plan.subnet)
    half = subnet.num_addresses // 2
    network = ET.Element("network")
    ET.SubElement(network, "name").text = plan.name
    ET.SubElement(network, "forward", mode="nat")
    ET.SubElement(network, "bridge", name=plan.bridge, stp="off", delay="0")
    ip = ET.SubElement(network, "ip", address=str(subnet[1]), netmask=str(subnet.netmask))
    dhcp = ET.SubElement(ip, "dhcp")
    ET.SubElement(dhcp, "range", start=str(subnet[half]), end=str(subnet[-2]))
    for mac, name, address in plan.reservations:
        ET.SubElement(dhcp, "host", mac=mac, name=name, ip=address)
    ET.indent(network)
    return ET.tostring(network, encoding="unicode") + "\n"
