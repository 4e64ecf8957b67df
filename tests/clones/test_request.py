"""Bad requests are refused before libvirt, the catalogue or a registry is queried."""

from __future__ import annotations

from typing import Any

import pytest

from builder.clones.cards import CardRequest
from builder.clones.change import VmChanges
from builder.clones.request import CloneRequest, new_card
from builder.errors import RecipeError
from builder.guest.cards import CardSetup

pytestmark = pytest.mark.unit


def on(network: str, address: str, *gateways: str) -> tuple[CardRequest, ...]:
    """A card on this network with a static address."""
    return (CardRequest(network, CardSetup(None, (address,), False, gateways)),)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "web_1"}, "'web_1' is not a valid name"),
        ({"name": "w" * 62, "count": 2}, "is not a valid name"),
        ({"cards": on("user", "10.0.2.253/24"), "count": 3}, "10.0.2.0/24 has fewer than 3 addresses from 10.0.2.253"),
        ({"cards": on("user", "10.0.2.9/32"), "count": 2}, "has fewer than 2 addresses"),
        ({"cards": on("nat", "fd00::fffe/112"), "count": 3}, "fd00::/112 has fewer than 3 addresses from fd00::fffe"),
        ({"dns": ("10.0.2.3",)}, "--dns without --address"),
        ({"cards": on("user", "10.0.2.9/24"), "dns": ("one",)}, "bad address"),
        ({"cards": on("nat", "10.0.0.5/24") + on("bridge:br0", "10.0.0.6/24"), "count": 2}, "would have the address"),
        ({"cards": (CardRequest(), CardRequest())}, "--network user is there twice"),
        ({"hostname": "under_score"}, "hostname 'under_score' is refused"),
        ({"memory": 1 << 20}, "fewer than 64 MiB"),
        ({"cards": on("user", "10.0.2.8/24", "10.0.2.9"), "count": 2}, "10.0.2.9 is the address of the gateway"),
        ({"memory": (64 << 20) + 1}, "not a whole number of MiB"),
        ({"host_devices": ("01:00.0",), "count": 2}, "one VM only"),
        ({"host_devices": ("eth0",)}, "no PCI address"),
    ],
)
def test_a_request_that_exists_is_valid(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        CloneRequest(**{"name": "web", **values})


def test_clones_get_names_and_addresses_in_turn() -> None:
    cards = on("nat", "192.168.7.9/24") + on("bridge:br0", "fd00::9/64")
    request = CloneRequest("web", count=2, hostname="www.example.org", cards=cards)
    assert request.names() == ["web-1", "web-2"]
    assert [(host, [card.setup.addresses for card in own]) for host, own in request.hosts()] == [
        ("www-1.example.org", [("192.168.7.9/24",), ("fd00::9/64",)]),
        ("www-2.example.org", [("192.168.7.10/24",), ("fd00::a/64",)]),
    ]


class Taken(set[str]):
    """The MAC addresses of others: whatever is asked for first is one of them."""

    def __contains__(self, mac: object) -> bool:
        if not self:
            self.add(str(mac))
        return super().__contains__(mac)


def test_no_two_cards_have_one_mac_address() -> None:
    taken = Taken()
    mac = new_card(CardRequest(), taken).mac
    assert len(taken) == 1
    assert mac not in taken
    assert mac.startswith("52:54:00:")


def test_changes_are_checked_in_the_same_way() -> None:
    for values, message in (
        ({}, "nothing to change"),
        ({"memory": 12}, "fewer than 64 MiB"),
        ({"cards": (("--network", "lan"),)}, "unknown kind of network"),
        ({"cards": (("--network", "user"), ("--network", "user"))}, "--network user is there twice"),
        ({"cards": (("--address", "10.0.2.9"),)}, "has no prefix length"),
    ):
        with pytest.raises(RecipeError, match=message):
            VmChanges(**values)
    assert VmChanges(vcpus=2).kinds == ["vcpus"]
