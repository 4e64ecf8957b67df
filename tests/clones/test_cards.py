"""Which addresses belong to which network of a command line."""

from __future__ import annotations

import shlex

import pytest

from builder.clones.cards import CardRequest, card_requests
from builder.errors import RecipeError

pytestmark = pytest.mark.unit


def cards(text: str) -> tuple[CardRequest, ...]:
    """The cards that these words of a command line ask for."""
    words = shlex.split(text)
    return card_requests([(f"--{option}", value) for option, value in zip(words[::2], words[1::2], strict=True)])


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("", ["user dhcp"]),
        ("network nat", ["nat dhcp"]),
        ("network nat address dhcp", ["nat dhcp"]),
        # One network has all, wherever it stands.
        (
            "address 192.0.2.5/24 gateway 192.0.2.1 network bridge:br0 address fd00::5/64",
            ["bridge:br0 192.0.2.5/24, fd00::5/64, via 192.0.2.1"],
        ),
        ("address 10.0.2.9/24", ["user 10.0.2.9/24"]),
        ("network bridge:br0 address fd00::5/64", ["bridge:br0 fd00::5/64"]),
        ("network bridge:br0 address fd00::5/64 address dhcp", ["bridge:br0 dhcp, fd00::5/64"]),
        # Of several, each has what follows it.
        (
            "network bridge:br0 address 192.0.2.5/24 gateway 192.0.2.1 network nat address dhcp",
            ["bridge:br0 192.0.2.5/24, via 192.0.2.1", "nat dhcp"],
        ),
        (
            "network bridge:br0 address 192.0.2.5/24 address 2001:db8::5/64 network user",
            ["bridge:br0 192.0.2.5/24, 2001:db8::5/64", "user dhcp"],
        ),
        ("network bridge:br0 network bridge:br0 address 192.0.2.5/24", ["bridge:br0 dhcp", "bridge:br0 192.0.2.5/24"]),
    ],
)
def test_each_network_has_what_follows_it(text: str, asked: list[str]) -> None:
    assert [str(card) for card in cards(text)] == asked


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "address 192.0.2.5/24 network bridge:br0 network nat",
            "--address 192.0.2.5/24 stands before the first --netw",
        ),
        ("gateway 192.0.2.1 network bridge:br0 network nat", "--gateway 192.0.2.1 stands before the first --network"),
        ("network bridge:br0 network nat gateway 192.0.2.1", "card 2, nat: --gateway without --address"),
        ("gateway 10.0.2.1", "--gateway without --address"),
        ("network lan", "--network lan: unknown kind of network"),
        ("network user network user", "--network user is there twice"),
        ("network nat " * 9, "a VM takes 8 network cards, not 9"),
        ("address 10.0.2.9", "address 10.0.2.9 has no prefix length"),
        ("address fd00::9", "address fd00::9 has no prefix length"),
        ("network nat network nat address 10.0.2.9", "card 2, nat: address 10.0.2.9 has no prefix length"),
        ("address fec0::9/64", "--network user reaches a guest over IPv4 only"),
        ("network nat address dhcp address 10.0.2.9/24", "two ways to an IPv4 address: dhcp and 10.0.2.9/24"),
        ("network nat address 10.0.2.8/24 address 10.0.2.9/24", "two IPv4 addresses: 10.0.2.8/24 and 10.0.2.9/24"),
        ("address 10.0.2.9/24 gateway 10.0.3.1", "gateway 10.0.3.1 lies outside 10.0.2.0/24"),
        ("address 10.0.2.0/24", "10.0.2.0 cannot be assigned to a VM"),
    ],
)
def test_what_does_not_fit_is_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        cards(text)
    assert caught.value.brief.startswith(message) or message in caught.value.brief
