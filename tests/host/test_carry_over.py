"""Addresses that move from an uplink to a bridge, one family at a time; no host is touched."""

from __future__ import annotations

import socket
from dataclasses import replace

from builder.host.network.bridge_request import BridgeRequest
from builder.host.network.carry_over import plan_carry_over, servers
from builder.system.netlink import Address, Route, Snapshot

FOUR, SIX = int(socket.AF_INET), int(socket.AF_INET6)
HERE = "192.168.10.19/24"
CONNECTED = Route(FOUR, "192.168.10.0/24", source="192.168.10.19", proto=2, scope=253)
DEFAULT = Route(FOUR, "default", "192.168.10.2", priority=50)
BEHIND = Route(FOUR, "10.99.0.0/16", "192.168.10.7", proto=3, table=77, mtu=1300)
UPLINK = Snapshot(
    "ens33",
    "52:54:00:12:34:56",
    1500,
    (Address(HERE, broadcast="192.168.10.255"), Address("fd00::19/64")),
    (CONNECTED, DEFAULT, BEHIND, Route(SIX, "default", "fd00::1", priority=1024)),
)
LEASED = replace(UPLINK, addresses=(Address(HERE, valid=3600, preferred=3600),))
NAMES = ("192.168.10.2",)


def test_without_a_word_all_moves() -> None:
    carried = plan_carry_over(BridgeRequest("br0", "ens33"), UPLINK, NAMES)
    assert (carried.addresses, carried.routes) == (UPLINK.addresses, UPLINK.routes)
    assert carried.gateways == carried.facts.gateways == ("192.168.10.2", "fd00::1")
    assert (carried.facts.dns, carried.facts.routes, carried.facts.mtu) == (NAMES, (BEHIND,), None)
    assert not carried.facts.dhcp
    assert not carried.facts.auto6


def test_a_family_that_was_not_named_stays_whole() -> None:
    carried = plan_carry_over(BridgeRequest("br0", "ens33", ("192.168.10.30/24",)), UPLINK, NAMES)
    assert carried.facts.addresses == ("192.168.10.30/24", "fd00::19/64")
    # The gateway is still reached, so it and what lies behind it stay; the kernel makes its own route.
    assert carried.gateways == ("192.168.10.2", "fd00::1")
    assert {route.dst for route in carried.routes} == {"default", "10.99.0.0/16"}
    assert [route.priority for route in carried.routes if route.gateway == "192.168.10.2"] == [50]
    assert carried.addresses[0].broadcast == "192.168.10.255"


def test_a_default_route_is_never_lost_without_a_word() -> None:
    elsewhere = plan_carry_over(BridgeRequest("br0", "ens33", ("10.5.0.9/24",)), UPLINK, ())
    assert elsewhere.faults == (
        "the gateway 192.168.10.2 of ens33 is outside 10.5.0.0/24: give the new one with --gateway",
    )
    told = plan_carry_over(BridgeRequest("br0", "ens33", ("10.5.0.9/24",), ("10.5.0.1",)), UPLINK, ())
    assert told.faults == ()
    assert told.facts.gateways == ("10.5.0.1", "fd00::1")
    assert told.facts.routes == ()


def test_a_gateway_is_not_judged_by_addresses_that_were_to_go() -> None:
    carried = plan_carry_over(BridgeRequest("br0", "ens33", ("192.168.10.30",), ("192.168.19.2",)), UPLINK, NAMES)
    assert carried.facts.of(4) == ((), None, NAMES)
    assert carried.faults == ()


def test_a_lease_stays_a_lease_and_what_came_with_it_is_not_written_down() -> None:
    by_script = replace(LEASED, routes=(*LEASED.routes, replace(BEHIND, proto=4)))
    facts = plan_carry_over(BridgeRequest("br0", "ens33"), by_script, NAMES).facts
    assert (facts.dhcp, facts.addresses, facts.dns) == (True, (), ())
    assert facts.of(4) == ((), None, ())
    # A DHCP client's own routes look like those of a script (proto boot): only static ones are written.
    assert [route.proto for route in facts.routes] == [4]
    made_static = plan_carry_over(BridgeRequest("br0", "ens33", (HERE,)), LEASED, NAMES)
    assert (made_static.facts.dhcp, made_static.facts.dns) == (False, NAMES)
    assert made_static.addresses[0].valid == UPLINK.addresses[0].valid


def test_router_advertisements_go_on() -> None:
    told = replace(
        UPLINK,
        mtu=9000,
        addresses=(Address("2001:db8::5/64", valid=86400, preferred=14400),),
        routes=(Route(SIX, "default", "fe80::1", proto=9),),
    )
    carried = plan_carry_over(BridgeRequest("br0", "ens33"), told, NAMES)
    assert carried.facts.auto6
    assert (carried.facts.gateways, carried.gateways) == ((), ("fe80::1",))
    assert carried.facts.mtu == 9000


def test_resolvers_of_the_host_itself_are_no_name_servers() -> None:
    text = "nameserver 127.0.0.53\nnameserver 192.168.10.2\n# nameserver 9.9.9.9\nnameserver fe80::1%eth0\n"
    assert servers(text.splitlines()) == ("192.168.10.2",)
