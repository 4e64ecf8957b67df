"""The one rule: a change is plain data, complete before it begins, so that any process can undo or finish it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from builder.adapters import netlink
from builder.adapters.netlink import FOREVER, Address, Route, Snapshot
from builder.host import network_rows
from builder.host.net.backends import BACKENDS, Name, choose
from builder.host.net.plan import BridgePlan, bridge_faults, refuse
from builder.host.row import read

MAIN = 254  # the routing table that is meant when none is named


@dataclass(frozen=True)
class Change:
    """A bridge that takes over an uplink, in the running system and, once confirmed, in files.

    Args:
        before: what the uplink had.
        addresses, routes: what the bridge gets.
        gateways: who must answer afterwards.
        files: what makes it last: text and mode by path; empty for the back end `runtime`.
        confirm: somebody must confirm from a new session.
        within: seconds for that.
    """

    bridge: str
    before: Snapshot
    addresses: tuple[Address, ...]
    routes: tuple[Route, ...]
    gateways: tuple[str, ...]
    backend: Name
    files: dict[str, str]
    confirm: bool
    within: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(told: dict[str, Any]) -> Change:
        """From JSON."""
        return Change(
            **{
                **told,
                "before": Snapshot.from_dict(told["before"]),
                "addresses": tuple(Address(**each) for each in told["addresses"]),
                "routes": tuple(Route(**each) for each in told["routes"]),
                "gateways": tuple(told["gateways"]),
            }
        )


@dataclass(frozen=True)
class Wish:
    """What was asked for; without addresses the uplink's own move, static or leased as they are."""

    bridge: str
    uplink: str
    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    backend: Name | Literal["auto"] = "auto"
    confirm: bool = False
    within: float = 60.0


def plan(wish: Wish) -> Change | None:
    """The change that fulfils a wish; None when the bridge stands as asked for.

    Raises:
        RecipeError: the wish cannot work; every fault is named.
        HostError: there is no such uplink.
    """
    if network_rows.bridge_of(wish.uplink) == wish.bridge and _fulfilled(wish):
        return None
    before = netlink.snapshot(wish.uplink)
    facts = _plan(wish, before)
    faults = list(
        bridge_faults(
            facts,
            wireless=network_rows.wireless(wish.uplink),
            has_carrier=read(network_rows.NET / wish.uplink / "carrier").strip() == "1",
            is_bridge=wish.uplink in network_rows.bridges(),
        )
    )
    master = network_rows.NET / wish.uplink / "master"
    if master.exists():
        faults.append(f"uplink {wish.uplink} belongs to {master.resolve().name} already")
    elif wish.bridge != wish.uplink and netlink.exists(wish.bridge):
        faults.append(f"an interface {wish.bridge} is there already: choose another name for the bridge")
    if not before.addresses and not wish.addresses:
        faults.append(f"uplink {wish.uplink} has no address to move: give one with --address")
    refuse(faults)
    backend = choose() if wish.backend == "auto" else wish.backend
    addresses, routes = _targets(wish, before)
    if backend != "networkmanager":
        # Nobody renews a lease on the bridge before the next reboot: an address that runs out would lock us out.
        addresses = tuple(replace(each, preferred=FOREVER, valid=FOREVER) for each in addresses)
    return Change(
        bridge=wish.bridge,
        before=before,
        addresses=addresses,
        routes=routes,
        gateways=facts.gateways,
        backend=backend,
        files={str(path): text for path, text in BACKENDS[backend].render(facts).items()},
        confirm=wish.confirm,
        within=wish.within,
    )


def lines(change: Change) -> list[str]:
    """The change for people, exactly."""
    before, routes = change.before, [route for route in change.routes if route.proto != netlink.KERNEL]
    text = [
        f"make the bridge {change.bridge} with MAC address {before.mac} and MTU {before.mtu}",
        f"take {' '.join(each.cidr for each in before.addresses) or 'no address'} from {before.uplink}",
        f"make {before.uplink} a port of {change.bridge}",
        *(f"give {each.cidr} to {change.bridge}{_lease(each, before)}" for each in change.addresses),
        *(f"route {each.dst} {f'via {each.gateway} ' if each.gateway else ''}over {change.bridge}" for each in routes),
        *(f"see that the gateway {gateway} answers, else put all back" for gateway in change.gateways),
    ]
    if change.confirm:
        text.append(f"wait {change.within:g} s for `builder host confirm` from a new session, else put all back")
    for path, content in change.files.items():
        text += [f"write {path}", *(f"  {line}".rstrip() for line in content.splitlines())]
    if not change.files:
        text.append("keep it until the next reboot: nothing that runs this host's network is known to builder")
    return text


def _lease(address: Address, before: Snapshot) -> str:
    leased = any(each.cidr == address.cidr and each.valid != FOREVER for each in before.addresses)
    return ", without the end of its lease: nobody renews it before a reboot" * (leased and address.valid == FOREVER)


def _fulfilled(wish: Wish) -> bool:
    there = {address.cidr for address in netlink.snapshot(wish.bridge).addresses}
    return set(wish.addresses) <= there


def _plan(wish: Wish, before: Snapshot) -> BridgePlan:
    if wish.addresses:
        return BridgePlan(wish.bridge, wish.uplink, before.mac, wish.addresses, wish.gateways, wish.dns)
    static = tuple(address.cidr for address in before.addresses if address.valid == FOREVER)
    leased = any(address.valid != FOREVER and ":" not in address.cidr for address in before.addresses)
    defaults = [route for route in before.routes if route.dst == "default" and route.table == MAIN]
    # The one of the lowest metric for each family.
    best = {route.family: route.gateway for route in sorted(defaults, key=lambda each: -(each.priority or 0))}
    gateways = wish.gateways or tuple(gateway for gateway in best.values() if gateway)
    return BridgePlan(wish.bridge, wish.uplink, before.mac, static, gateways, wish.dns or _servers(), leased)


def _targets(wish: Wish, before: Snapshot) -> tuple[tuple[Address, ...], tuple[Route, ...]]:
    if not wish.addresses:
        routes = before.routes
        if wish.gateways:
            routes = tuple(route for route in routes if route.dst != "default") + _defaults(wish.gateways)
        return before.addresses, routes
    # The routes of the old addresses make no sense with the new ones.
    return tuple(Address(cidr) for cidr in wish.addresses), _defaults(wish.gateways)


def _defaults(gateways: tuple[str, ...]) -> tuple[Route, ...]:
    return tuple(Route(10 if ":" in gateway else 2, "default", gateway) for gateway in gateways)


def _servers() -> tuple[str, ...]:
    """The host's name servers, but for a resolver on the host itself."""
    words = [line.split() for line in read("/etc/resolv.conf").splitlines()]
    found = [each[1] for each in words if len(each) > 1 and each[0] == "nameserver"]
    return tuple(each for each in found if not each.startswith("127.") and each != "::1" and "%" not in each)[:3]
