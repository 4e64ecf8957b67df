"""Decide what a bridge takes over from its uplink: per address family what was requested, else all that there is.

These functions are pure: what the uplink has comes in as a snapshot.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace

from builder.host.network.bridge_request import BridgeRequest
from builder.host.network.validate import BridgePlan
from builder.system.netlink import FOREVER, KERNEL, MAIN_TABLE, Address, Route, Snapshot

FAMILIES = (socket.AF_INET, socket.AF_INET6)

# rtm_protocol of a route (linux/rtnetlink.h): by hand or by a script, by an administrator's daemon.
BOOT, STATIC = 3, 4
RA, DHCP = 9, 16
USUAL_MTU = 1500


@dataclass(frozen=True)
class CarryOver:
    """Configuration that a bridge takes over from its uplink.

    Args:
        facts: what files say, once it is kept.
        addresses, routes: in the running system.
        gateways: who must answer over it.
        faults: why this cannot be done.
    """

    facts: BridgePlan
    addresses: tuple[Address, ...]
    routes: tuple[Route, ...]
    gateways: tuple[str, ...]
    faults: tuple[str, ...]


def plan_carry_over(request: BridgeRequest, before: Snapshot, servers: tuple[str, ...]) -> CarryOver:
    """Plan what a bridge takes over from an uplink.

    Args:
        servers: the host's name servers; taken where an address is static and none were asked for.
    """
    parts = [_family(request, before, family) for family in FAMILIES]
    addresses = tuple(each for part in parts for each in part.addresses)
    routes = tuple(each for part in parts for each in part.routes)
    static = tuple(each.cidr for each in addresses if each.valid == FOREVER)
    defaults = [route for route in routes if _default(route) and route.gateway]
    # Those that DHCP and router advertisements bring will come by themselves again.
    kept = {route.gateway for route in defaults if route.proto not in (RA, DHCP)}
    asked = tuple(str(part.gateway) for part in parts if part.gateway)
    facts = BridgePlan(
        request.bridge,
        request.uplink,
        before.mac,
        static,
        tuple(gateway for gateway in asked if gateway in kept),
        request.dns or (servers if static else ()),
        dhcp=_leased(addresses, socket.AF_INET),
        auto6=_leased(addresses, socket.AF_INET6) or any(route.proto == RA for route in defaults),
        mtu=before.mtu if before.mtu != USUAL_MTU else None,
        routes=tuple(route for route in routes if _lasting(route, _leased(addresses, route.family))),
    )
    # What cannot be read at all is the plan's to refuse.
    return CarryOver(facts, addresses, routes, asked, tuple(fault for part in parts for fault in part.faults))


@dataclass(frozen=True)
class _CarriedPart:
    """The same of one family."""

    addresses: tuple[Address, ...]
    routes: tuple[Route, ...]
    gateway: str | None
    faults: tuple[str, ...] = ()


def _family(request: BridgeRequest, before: Snapshot, family: int) -> _CarriedPart:
    named = [cidr for cidr in request.addresses if family_of(cidr) == family]
    new = [cidr for cidr in named if _readable(cidr)]
    asked = next((gateway for gateway in request.gateways if family_of(gateway) == family), None)
    old = tuple(each for each in before.addresses if family_of(each.cidr) == family)
    routes = [route for route in before.routes if route.family == family]
    own = _best(routes)
    if named and not new:
        # The plan says what is wrong with them; to judge a gateway by the old ones would only confuse.
        return _CarriedPart((), (), asked)
    if not new:
        if asked:
            routes = [route for route in routes if not _default(route)] + [_static_default(family, asked, routes)]
        return _CarriedPart(old, tuple(routes), asked or own)
    networks = [ipaddress.ip_interface(cidr).network for cidr in new]
    gateway = asked
    faults: tuple[str, ...] = ()
    if not asked and own:
        if _reached(own, networks):
            gateway = own
        else:
            where = ", ".join(map(str, networks))
            faults = (f"the gateway {own} of {before.uplink} is outside {where}: give the new one with --gateway",)
    kept = [route for route in routes if not _default(route) and _fits(route, networks, new)]
    kept += [_static_default(family, gateway, routes)] if gateway else []
    return _CarriedPart(tuple(_address(cidr, old) for cidr in new), tuple(kept), gateway, faults)


def _static_default(family: int, gateway: str, routes: list[Route]) -> Route:
    """The default route through a gateway, with the metric that it had."""
    metric = next((each.priority for each in routes if _default(each) and each.gateway == gateway), None)
    return Route(family, "default", gateway, priority=metric)


def _address(cidr: str, old: tuple[Address, ...]) -> Address:
    """As the uplink has it, but static; or a new one, with the broadcast address that every tool gives it."""
    own = ipaddress.ip_interface(cidr)
    for each in old:
        if ipaddress.ip_interface(each.cidr) == own:
            return replace(each, preferred=FOREVER, valid=FOREVER)
    if own.version == 4 and own.network.prefixlen < 31:
        return Address(str(own), broadcast=str(own.network.broadcast_address))
    return Address(str(own))


def _fits(route: Route, networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network], new: list[str]) -> bool:
    """Return whether a route of the old addresses makes sense with the new ones; the kernel makes its own anew."""
    if route.proto == KERNEL or (route.source and route.source not in {cidr.partition("/")[0] for cidr in new}):
        return False
    return route.gateway is None or _reached(route.gateway, networks)


def _reached(gateway: str, networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    own = ipaddress.ip_address(gateway)
    return own.is_link_local or any(own in each for each in networks)


def _lasting(route: Route, leased: bool) -> bool:
    """Return whether a route is the administrator's: DHCP clients too write theirs as scripts do."""
    return not _default(route) and route.proto in ((STATIC,) if leased else (BOOT, STATIC))


def _best(routes: list[Route]) -> str | None:
    """The gateway of the default route with the lowest metric."""
    found = sorted((route for route in routes if _default(route)), key=lambda each: each.priority or 0)
    return found[0].gateway if found else None


def _default(route: Route) -> bool:
    return route.dst == "default" and route.table == MAIN_TABLE


def _leased(addresses: tuple[Address, ...], family: int) -> bool:
    return any(each.valid != FOREVER for each in addresses if family_of(each.cidr) == family)


def family_of(text: str) -> int:
    """AF_INET or AF_INET6, of an address in words."""
    return socket.AF_INET6 if ":" in text else socket.AF_INET


def _readable(cidr: str) -> bool:
    try:
        ipaddress.ip_interface(cidr)
    except ValueError:
        return False
    return "/" in cidr


def servers(resolv: Iterator[str] | list[str]) -> tuple[str, ...]:
    """The name servers in lines of resolv.conf(5), but for a resolver on the host itself."""
    words = [line.split() for line in resolv]
    found = [each[1] for each in words if len(each) > 1 and each[0] == "nameserver"]
    return tuple(each for each in found if not each.startswith("127.") and each != "::1" and "%" not in each)[:3]
