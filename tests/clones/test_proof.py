"""What a guest tells of its cards, compared with what they were to be. Texts as EL7's ip(8) writes them."""

from __future__ import annotations

import pytest

from builder.clones.proof import differences
from builder.clones.record import VmCard
from tests.clones.test_warm import VM

pytestmark = pytest.mark.unit

CARDS = (
    VmCard(
        mac="52:54:00:00:00:07",
        network="bridge:br0",
        addresses=("192.0.2.5/24", "2001:db8::5/64"),
        dhcp=False,
        gateways=("192.0.2.1", "fe80::1"),
    ),
    VmCard(mac="52:54:00:00:00:08", network="nat:default"),
)
NAMES = "card eth0 52:54:00:00:00:07\ncard eth1 52:54:00:00:00:08\n"
TOLD = f"""\
{NAMES}\
address 1: lo    inet 127.0.0.1/8 scope host lo\\       valid_lft forever preferred_lft forever
address 2: eth0    inet 192.0.2.5/24 brd 192.0.2.255 scope global eth0\\       valid_lft forever preferred_lft forever
address 3: eth1    inet 192.168.122.9/24 brd 192.168.122.255 scope global dynamic eth1\\       valid_lft 3555sec
address 2: eth0    inet6 2001:db8::5/64 scope global \\       valid_lft forever preferred_lft forever
route4 default via 192.0.2.1 dev eth0
route6 default via fe80::1 dev eth0 metric 1024 pref medium
"""
FIRST = "card 1, eth0 on bridge:br0: "


def test_a_guest_that_is_as_asked_for_differs_in_nothing() -> None:
    assert differences(VM.model_copy(update={"cards": CARDS}), TOLD) == []


def test_the_card_that_root_came_in_over_has_an_address() -> None:
    """Perhaps on a bridge that the guest made of it."""
    bridged = TOLD.replace(": eth1 ", ": br0 ")
    assert differences(VM.model_copy(update={"cards": CARDS[1:]}), bridged) == []
    assert len(differences(VM.model_copy(update={"cards": CARDS}), bridged)) == 1


@pytest.mark.parametrize(
    ("old", "new", "said", "dhcp"),
    [
        ("card eth1 52:54:00:00:00:08\n", "", "card 2, 52:54:00:00:00:08 on nat:default, is not in the guest", False),
        (
            "inet 192.0.2.5/24",
            "inet 192.0.2.6/24",
            f"{FIRST}the address 192.0.2.5/24 is missing; there is: 192.0.2.6",
            False,
        ),
        ("2001:db8::5/64", "2001:db8::5/48", f"{FIRST}the address 2001:db8::5/64 is missing", False),
        ("global \\", "global tentative dadfailed \\", f"{FIRST}another machine has the address 2001:db8::5/64", False),
        ("global \\", "global tentative \\", f"{FIRST}the address 2001:db8::5/64 is not in use yet", False),
        ("192.0.2.1 dev eth0", "192.0.2.1 dev eth1", f"{FIRST}no default route leads over 192.0.2.1", False),
        (
            "route6 default via fe80::1",
            "route6 default via fe80::2",
            f"{FIRST}no default route leads over fe80::1",
            False,
        ),
        ("3: eth1 ", "4: eth2 ", "card 2, eth1 on nat:default: no DHCP server has given it an address", True),
        (
            "52:54:00:00:00:07\ncard eth1 52:54:00:00:00:08",
            "52:54:00:00:00:08\ncard eth1 52:54:00:00:00:07",
            "card 1, eth1",
            False,
        ),
        (TOLD, "", "card 1, 52:54:00:00:00:07 on bridge:br0, is not in the guest", False),
    ],
)
def test_each_card_is_compared(old: str, new: str, said: str, dhcp: bool) -> None:
    assert old in TOLD
    found = differences(VM.model_copy(update={"cards": CARDS}), TOLD.replace(old, new))
    assert found[0].text.startswith(said)
    assert found[0].dhcp is dhcp
