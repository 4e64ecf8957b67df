"""A bridge over an uplink as plain data, complete before it begins, so that any process can undo or finish it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from builder.errors import HostError
from builder.host import check_network
from builder.host.finding import read
from builder.host.network import ifcfg
from builder.host.network.backends import BACKENDS, choose
from builder.host.network.bridge_request import BridgeRequest, Name
from builder.host.network.carry_over import CarryOver, plan_carry_over, servers
from builder.host.network.validate import BridgePlan, bridge_faults, refuse, uplink_faults
from builder.system import netlink
from builder.system.netlink import FOREVER, Address, Route, Snapshot


@dataclass(frozen=True)
class Change:
    """A bridge that takes over an uplink, in the running system and, once confirmed, in files.

    Args:
        before: what the uplink had.
        addresses, routes: what the bridge gets.
        gateways: who must answer afterwards.
        files: what makes it last: text and mode by path; empty for the back end `runtime`.
        confirm: the change must be confirmed from a new session.
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
    def from_dict(data: dict[str, Any]) -> Change:
        """From JSON."""
        return Change(
            **{
                **data,
                "before": Snapshot.from_dict(data["before"]),
                "addresses": tuple(Address(**each) for each in data["addresses"]),
                "routes": tuple(Route(**each) for each in data["routes"]),
                "gateways": tuple(data["gateways"]),
            }
        )


def plan(request: BridgeRequest) -> Change | None:
    """Return the change that makes the requested bridge; None when it exists as requested.

    Raises:
        RecipeError: the request cannot work; every fault is named.
        HostError: there is no such uplink; or the bridge is there, but not as asked for.
    """
    if check_network.bridge_of(request.uplink) == request.bridge:
        _require_as_asked(request)
        return None
    before = netlink.snapshot(request.uplink)
    backend = choose(request.uplink) if request.backend == "auto" else request.backend
    carried = plan_carry_over(request, before, _servers())
    inherited = tuple(gateway for gateway in carried.facts.gateways if gateway not in request.gateways)
    facts = replace(carried.facts, gateways=request.gateways + inherited)
    refuse([*_uplink_faults(request, backend), *carried.faults, *_faults(request, facts, carried)])
    addresses = carried.addresses
    if backend != "networkmanager":
        # Before the next reboot nothing renews a lease on the bridge: an address that runs out would lock us out.
        addresses = tuple(replace(each, preferred=FOREVER, valid=FOREVER) for each in addresses)
    return Change(
        bridge=request.bridge,
        before=before,
        addresses=addresses,
        routes=carried.routes,
        gateways=carried.gateways,
        backend=backend,
        files={str(path): text for path, text in BACKENDS[backend].render(facts).items()},
        confirm=request.confirm,
        within=request.within,
    )


def _faults(request: BridgeRequest, facts: BridgePlan, carried: CarryOver) -> Iterator[str]:
    uplink = check_network.NET / request.uplink
    yield from bridge_faults(
        # As given: what cannot be read is named too.
        replace(facts, addresses=tuple(dict.fromkeys((*request.addresses, *facts.addresses)))),
        wireless=check_network.wireless(request.uplink),
        has_carrier=read(uplink / "carrier").strip() == "1",
        is_bridge=request.uplink in check_network.bridges(),
    )
    master = uplink / "master"
    if master.exists():
        yield f"uplink {request.uplink} belongs to {master.resolve().name} already"
    elif request.bridge != request.uplink and netlink.exists(request.bridge):
        yield f"an interface {request.bridge} is there already: choose another name for the bridge"
    if not carried.addresses and not request.addresses:
        yield f"uplink {request.uplink} has no address to move: give one with --address"


def _uplink_faults(request: BridgeRequest, backend: Name) -> Iterator[str]:
    """Yield the faults of the uplink's card, and of other files that would bring it up as well."""
    uplink = check_network.NET / request.uplink
    kept = backend != "runtime"
    yield from uplink_faults(request.uplink, read(uplink / "type").strip(), read(uplink / "uevent"), kept=kept)
    if backend == "ifcfg":
        for name in ifcfg.others(request.uplink):
            yield f"{name} is for {request.uplink} too: initscripts would bring it up twice; move that file away"


def _require_as_asked(request: BridgeRequest) -> None:
    """The bridge is there; say so if it is another one than was asked for."""
    there = netlink.snapshot(request.bridge)
    gateways = {route.gateway for route in there.routes if route.dst == "default"}
    missing = [
        *(f"address {cidr}" for cidr in request.addresses if cidr not in {each.cidr for each in there.addresses}),
        *(f"gateway {gateway}" for gateway in request.gateways if gateway not in gateways),
    ]
    if request.backend != "auto":
        paths = BACKENDS[request.backend].render(BridgePlan(request.bridge, request.uplink, there.mac))
        missing += [f"file {path}" for path in paths if not path.exists()]
    if missing:
        raise HostError(
            f"{request.bridge} is over {request.uplink} already, but not as asked for",
            "it lacks " + ", ".join(missing),
            "builder host restore, then again",
        )


def _servers() -> tuple[str, ...]:
    """The host's name servers; systemd-resolved keeps the real ones in a file of its own."""
    found = servers(read("/etc/resolv.conf").splitlines())
    return found or servers(read("/run/systemd/resolve/resolv.conf").splitlines())


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
    return ", without the end of its lease: nothing renews it before a reboot" * (leased and address.valid == FOREVER)
