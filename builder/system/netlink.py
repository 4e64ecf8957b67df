"""Links, addresses, routes and neighbours, by the kernel's routing sockets; nothing else uses pyroute2.

Invariant: the addresses and routes of an interface move together, and a snapshot restores them exactly. Only the
running system is changed. Source: rtnetlink(7), and linux/if_addr.h and linux/rtnetlink.h for the numbers.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from builder.errors import HostError
from builder.system import retry

FOREVER = 0xFFFFFFFF
# ifa_flags that a caller may set: nodad, home address, mngtmpaddr, noprefixroute, mcautojoin.
SETTABLE = 0x02 | 0x10 | 0x100 | 0x200 | 0x400
NODAD = 0x02
TEMPORARY = 0x01  # of IPv6: made by the kernel itself
LINK_SCOPE = 253
MAIN_TABLE, LOCAL_TABLE = 254, 255
UNICAST = 1
KERNEL = 2  # rtm_protocol of routes that the kernel made
ONLINK = 4
CLONED = 0x200
# States of a neighbour that has answered: reachable, stale, delay, probe (linux/neighbour.h).
ANSWERED = 0x02 | 0x04 | 0x08 | 0x10
# Routes that would lose something when they are put on another interface.
INTRICATE = ("RTA_MULTIPATH", "RTA_ENCAP", "RTA_NH_ID", "RTA_VIA")


@dataclass(frozen=True)
class Address:
    """An address of an interface; lifetimes in seconds, `FOREVER` for static ones."""

    cidr: str
    broadcast: str | None = None
    flags: int = 0
    scope: int = 0
    preferred: int = FOREVER
    valid: int = FOREVER
    label: str | None = None


@dataclass(frozen=True)
class Route:
    """A route out of an interface; `dst` is `default` or a network."""

    family: int
    dst: str
    gateway: str | None = None
    source: str | None = None
    table: int = MAIN_TABLE
    priority: int | None = None
    proto: int = 4
    scope: int = 0
    flags: int = 0
    mtu: int | None = None

    @property
    def version(self) -> int:
        """4 or 6."""
        return 6 if self.family == socket.AF_INET6 else 4

    @property
    def network(self) -> str:
        """Destination, always as a network."""
        return {4: "0.0.0.0/0", 6: "::/0"}[self.version] if self.dst == "default" else self.dst

    def options(self) -> Iterator[tuple[str, str]]:
        """Attributes other than the default, in the words that ip-route(8) and nm-settings-keyfile(5) share."""
        if self.table != MAIN_TABLE:
            yield "table", str(self.table)
        if self.source:
            yield "src", self.source
        if self.mtu:
            yield "mtu", str(self.mtu)
        if self.flags & ONLINK:
            yield "onlink", "true"


@dataclass(frozen=True)
class Snapshot:
    """Configuration of an uplink: enough to move it to a bridge and to restore it."""

    uplink: str
    mac: str
    mtu: int
    addresses: tuple[Address, ...]
    routes: tuple[Route, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Snapshot:
        """From JSON."""
        addresses = tuple(Address(**each) for each in data["addresses"])
        routes = tuple(Route(**each) for each in data["routes"])
        return Snapshot(data["uplink"], data["mac"], data["mtu"], addresses, routes)


def snapshot(uplink: str) -> Snapshot:
    """Read the configuration of an interface.

    Raises:
        HostError: there is no such interface, or it has routes that cannot be moved.
    """
    with _netlink() as ip:
        index = _index(ip, uplink)
        link = ip.link("get", index=index)[0]
        addresses = [_address(message, uplink) for message in ip.get_addr(index=index)]
        routes = [_route(message, uplink) for message in _routes(ip, index)]
    found = tuple(address for address in addresses if address is not None)
    return Snapshot(uplink, link.get_attr("IFLA_ADDRESS"), link.get_attr("IFLA_MTU"), found, tuple(routes))


def move(before: Snapshot, bridge: str, addresses: tuple[Address, ...], routes: tuple[Route, ...]) -> None:
    """Make a bridge over the uplink that has its MAC address, and these addresses and routes.

    Addresses leave the uplink last thing before they appear on the bridge: traffic waits for microseconds.

    Raises:
        HostError: the kernel refuses a part; `restore` undoes the others.
    """
    with _netlink() as ip:
        uplink = _index(ip, before.uplink)
        ip.link("add", ifname=bridge, kind="bridge", address=before.mac, br_forward_delay=0, br_stp_state=0)
        index = _index(ip, bridge)
        ip.link("set", index=index, mtu=before.mtu, state="up")
        for address in before.addresses:
            _remove(ip, uplink, address)
        _remove_routes(ip, uplink, before.routes)
        ip.link("set", index=uplink, master=index)
        for address in addresses:
            _add(ip, index, address, NODAD)
        _add_routes(ip, index, routes)


def restore(before: Snapshot, bridge: str) -> None:
    """Undo `move`, whole or half done; does nothing where all is as before.

    Raises:
        HostError: the uplink is gone, or the kernel refuses a part.
    """
    with _netlink() as ip:
        uplink = _index(ip, before.uplink)
        found = ip.link_lookup(ifname=bridge)
        if found:
            if ip.link("get", index=uplink)[0].get_attr("IFLA_MASTER") == found[0]:
                ip.link("set", index=uplink, master=0)
            ip.link("del", index=found[0])
        ip.link("set", index=uplink, state="up")
        there = {each.cidr for each in (_address(one, before.uplink) for one in ip.get_addr(index=uplink)) if each}
        for address in before.addresses:
            if address.cidr not in there:
                _add(ip, uplink, address, 0)
        _add_routes(ip, uplink, before.routes)


def port_of(name: str) -> str | None:
    """The bridge that an interface is a port of."""
    port = Path("/sys/class/net", name, "brport/bridge")
    return port.resolve().name if port.exists() else None


def exists(name: str) -> bool:
    """There is such an interface."""
    with _netlink() as ip:
        return bool(ip.link_lookup(ifname=name))


def connected(excluding: str) -> list[str]:
    """Networks that this host's IPv4 routes lead to, but for those through one interface."""
    with _netlink() as ip:
        skip = ip.link_lookup(ifname=excluding)
        routes = [message for message in ip.get_routes(family=socket.AF_INET) if message["table"] != LOCAL_TABLE]
        return [
            f"{message.get_attr('RTA_DST')}/{message['dst_len']}"
            for message in routes
            if message["dst_len"] and message.get_attr("RTA_OIF") not in skip
        ]


def answers(gateway: str, interface: str, within: float) -> bool:
    """Return whether a gateway answers, by the protocol it cannot block without being useless: ARP, or ND for IPv6.

    A datagram to the discard port makes the kernel ask for the gateway's MAC address.

    Args:
        within: seconds.
    """
    family = socket.AF_INET6 if ":" in gateway else socket.AF_INET
    with _netlink() as ip:
        index = _index(ip, interface)
        for message in ip.get_neighbours(family=family, ifindex=index, dst=gateway):
            with _tolerating():
                ip.neigh("del", dst=gateway, ifindex=index, family=family, lladdr=message.get_attr("NDA_LLADDR"))

        def look() -> bool | None:
            with socket.socket(family, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
                probe.setblocking(False)
                probe.sendto(b"", (gateway, 9))
            known = ip.get_neighbours(family=family, ifindex=index, dst=gateway)
            found = [one for one in known if one["state"] & ANSWERED and one.get_attr("NDA_LLADDR")]
            return True if found else None

        return bool(retry.until(look, within=within, every=0.1))


def neighbour(mac: str) -> str | None:
    """The IPv4 address that a card answered ARP with, if this host has asked for it."""
    with _netlink() as ip:
        for one in ip.get_neighbours(family=socket.AF_INET):
            if one["state"] & ANSWERED and one.get_attr("NDA_LLADDR") == mac.lower():
                return str(one.get_attr("NDA_DST"))
    return None


def ask_all(interface: str) -> None:
    """Make the kernel ask everybody in the interface's IPv4 networks for their MAC addresses; up to 254 a network."""
    with _netlink() as ip:
        messages = ip.get_addr(index=_index(ip, interface), family=socket.AF_INET)
        own = [ipaddress.ip_interface(f"{one.get_attr('IFA_LOCAL')}/{one['prefixlen']}") for one in messages]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.setblocking(False)
        for each in own:
            for host in each.network.hosts() if each.network.prefixlen >= 24 else ():
                with contextlib.suppress(OSError):
                    probe.sendto(b"", (str(host), 9))


def _address(message: Any, uplink: str) -> Address | None:
    """None for what the kernel makes itself: link-local and temporary addresses."""
    six = message["family"] == socket.AF_INET6
    flags = message.get_attr("IFA_FLAGS") or message["flags"]
    if six and (message["scope"] == LINK_SCOPE or flags & TEMPORARY):
        return None
    own = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    label = message.get_attr("IFA_LABEL")
    life = message.get_attr("IFA_CACHEINFO") or {}
    return Address(
        cidr=f"{own}/{message['prefixlen']}",
        broadcast=message.get_attr("IFA_BROADCAST"),
        flags=flags & SETTABLE,
        scope=message["scope"],
        preferred=life.get("ifa_preferred", FOREVER),
        valid=life.get("ifa_valid", FOREVER),
        label=label if label != uplink else None,
    )


def _route(message: Any, uplink: str) -> Route:
    for name in INTRICATE:
        if message.get_attr(name) is not None:
            raise HostError(
                f"a route over {uplink} cannot be moved ({name})", hint="take it away first: ip route show table all"
            )
    metrics = message.get_attr("RTA_METRICS")
    dst = message.get_attr("RTA_DST")
    return Route(
        family=message["family"],
        dst=f"{dst}/{message['dst_len']}" if message["dst_len"] else "default",
        gateway=message.get_attr("RTA_GATEWAY"),
        source=message.get_attr("RTA_PREFSRC"),
        table=message.get_attr("RTA_TABLE") or message["table"],
        priority=message.get_attr("RTA_PRIORITY"),
        proto=message["proto"],
        scope=message["scope"],
        flags=message["flags"] & ONLINK,
        mtu=metrics.get_attr("RTAX_MTU") if metrics is not None else None,
    )


def _routes(ip: Any, index: int) -> Iterator[Any]:
    """Unicast routes out of an interface, without those that belong to a link-local address."""
    for family in (socket.AF_INET, socket.AF_INET6):
        for message in ip.get_routes(family=family):
            if message["type"] != UNICAST or message["flags"] & CLONED:
                continue
            if (message.get_attr("RTA_TABLE") or message["table"]) == LOCAL_TABLE:
                continue
            hops = message.get_attr("RTA_MULTIPATH") or ()
            if message.get_attr("RTA_OIF") != index and all(hop["oif"] != index for hop in hops):
                continue
            dst = message.get_attr("RTA_DST") or "::"
            if family == socket.AF_INET6 and ipaddress.ip_address(dst).is_link_local:
                continue
            yield message


def _add(ip: Any, index: int, address: Address, extra: int) -> None:
    own = ipaddress.ip_interface(address.cidr)
    facts: dict[str, Any] = {"scope": address.scope, "flags": address.flags | (extra if own.version == 6 else 0)}
    if own.version == 4:
        facts["local"] = str(own.ip)
        if address.broadcast:
            facts["broadcast"] = address.broadcast
        if address.label:
            facts["label"] = address.label
    if address.valid != FOREVER:
        facts["IFA_CACHEINFO"] = {"ifa_preferred": address.preferred, "ifa_valid": address.valid}
    with _tolerating(errno.EEXIST):
        ip.addr("add", index=index, address=str(own.ip), prefixlen=own.network.prefixlen, **facts)


def _remove(ip: Any, index: int, address: Address) -> None:
    own = ipaddress.ip_interface(address.cidr)
    # The kernel drops secondary addresses together with their primary one.
    with _tolerating(errno.EADDRNOTAVAIL):
        ip.addr("del", index=index, address=str(own.ip), prefixlen=own.network.prefixlen)


def _remove_routes(ip: Any, index: int, routes: tuple[Route, ...]) -> None:
    """IPv4 routes went with their addresses; those of IPv6 stay behind and would be taken before the bridge's."""
    for route in routes:
        facts: dict[str, Any] = {"table": route.table, "oif": index}
        if route.gateway:
            facts["gateway"] = route.gateway
        if route.priority is not None:
            facts["priority"] = route.priority
        with _tolerating(errno.ESRCH):
            ip.route("del", family=route.family, dst=route.dst, **facts)


def _add_routes(ip: Any, index: int, routes: tuple[Route, ...]) -> None:
    """Add those that need no gateway first; what is there already (the kernel makes some) is left."""
    for route in sorted(routes, key=lambda each: each.gateway is not None):
        facts: dict[str, Any] = {"table": route.table, "proto": route.proto, "scope": route.scope, "oif": index}
        if route.gateway:
            facts["gateway"] = route.gateway
        if route.source:
            facts["prefsrc"] = route.source
        if route.priority is not None:
            facts["priority"] = route.priority
        if route.flags:
            facts["flags"] = route.flags
        if route.mtu:
            facts["metrics"] = {"mtu": route.mtu}
        with _tolerating(errno.EEXIST):
            ip.route("add", family=route.family, dst=route.dst, **facts)


def _index(ip: Any, name: str) -> int:
    found = ip.link_lookup(ifname=name)
    if not found:
        raise HostError(f"there is no interface {name}", hint="ip link")
    return int(found[0])


@contextmanager
def _tolerating(*codes: int) -> Iterator[None]:
    """Ignore the kernel's errors of these numbers (errno(3)), or all of them."""
    from pyroute2 import NetlinkError

    try:
        yield
    except NetlinkError as fault:
        if codes and fault.code not in codes:
            raise


@contextmanager
def _netlink() -> Iterator[Any]:
    # Imported here: it takes a quarter of a second, and `builder plan` asks the kernel nothing.
    from pyroute2 import IPRoute, NetlinkError

    try:
        with IPRoute() as ip:
            yield ip
    except NetlinkError as fault:
        raise HostError(f"the kernel refuses a change of the network: {fault}") from fault
