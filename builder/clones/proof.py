"""Whether a clone that root is let into has the network cards that it was asked with: each is looked at in the guest.

Invariant: a card counts only if its static addresses are on it and in use, DHCP has given it an address where it was to
ask, and the default routes that it was given lead over it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from builder.clones.record import Vm, VmCard
from builder.errors import Cause, UnreachableError
from builder.guest.cards import FAMILIES, Family
from builder.guest.ssh import GuestSession
from builder.system import retry

# A guest may log root in while DHCP has not answered yet on its other cards, or IPv6 asks whether an address is taken.
WITHIN, EVERY = 45.0, 1.0
# Cards have a device, bridges and the like have none. EL7's ip(8) writes no JSON.
_ASK = r"""
for card in /sys/class/net/*; do [ -e "$card/device" ] && echo "card ${card##*/} $(cat "$card/address")"; done
ip -o -4 addr show | sed 's/^/address /'
ip -o -6 addr show scope global | sed 's/^/address /'
ip -4 route show default | sed 's/^/route4 /'
ip -6 route show default | sed 's/^/route6 /'
"""


@dataclass(frozen=True)
class CardFault:
    """A card that is not as it was asked for.

    Args:
        text: for people.
        dhcp: nothing is wrong but that DHCP has not answered.
    """

    text: str
    dhcp: bool = False


def require_cards(session: GuestSession, vm: Vm, *, stop: Callable[[], bool] = lambda: False) -> None:
    """Make sure that each card of a clone is as it was asked for; a guest that still sets one up is waited for.

    Args:
        stop: asked again and again; true gives up.

    Raises:
        UnreachableError: one is not.
    """
    found: list[CardFault] = []

    def fits() -> bool | None:
        found[:] = differences(vm, session.run(_ASK).out)
        return True if not found or stop() else None

    retry.until(fits, within=WITHIN, every=EVERY)
    if found:
        raise UnreachableError(
            f"{vm.name}: {found[0].text}",
            "\n".join(difference.text for difference in found[1:]),
            f"look at it: builder vm ssh {vm.name}; or build its image again, if that is older than several cards are",
            cause=Cause.NO_DHCP if all(difference.dhcp for difference in found) else Cause.NO_IDENTITY,
        )


def differences(vm: Vm, told: str) -> list[CardFault]:
    """Return how the cards of a clone differ from what a guest has told of itself.

    Args:
        told: the output of the command that asks it.
    """
    lines = [line.split() for line in told.splitlines()]
    names = {line[2]: line[1] for line in lines if line[:1] == ["card"] and len(line) == 3}
    found: list[CardFault] = []
    for number, card in enumerate(vm.cards):
        name = names.get(card.mac)
        if name is None:
            found.append(CardFault(f"card {number + 1}, {card.mac} on {card.network}, is not in the guest"))
            continue
        there = f"card {number + 1}, {name} on {card.network}"
        faults = _of_card(card, name, lines)
        # Root came in over that card; its address may be on a bridge that the guest made.
        seen = (fault for fault in faults if not (fault.dhcp and number == vm.way_in))
        found += [CardFault(f"{there}: {fault.text}", fault.dhcp) for fault in seen]
    return found


def _of_card(card: VmCard, name: str, lines: list[list[str]]) -> Iterator[CardFault]:
    # address 3: eth1 inet 192.0.2.5/24 brd 192.0.2.255 scope global eth1
    own = {line[4]: line[5:] for line in lines if line[0] == "address" and line[2:3] == [name] and len(line) > 4}
    shown = ", ".join(own) or "none"
    for wanted in card.addresses:
        if wanted not in own:
            yield CardFault(f"the address {wanted} is missing; there is: {shown}")
        elif "dadfailed" in own[wanted]:
            yield CardFault(f"another machine has the address {wanted} already")
        elif "tentative" in own[wanted]:
            yield CardFault(f"the address {wanted} is not in use yet")
    if card.dhcp and not any(ipaddress.ip_interface(text).version == 4 for text in own):
        yield CardFault("no DHCP server has given it an address", dhcp=True)
    for family in FAMILIES:
        router = card.setup.gateway(family)
        if router is not None and not _leads(lines, family, router, name):
            yield CardFault(f"no default route leads over {router}")


def _leads(lines: list[list[str]], family: Family, router: str, name: str) -> bool:
    """Return whether there is a default route over a router and a card (`default via 192.0.2.1 dev eth1 …`)."""
    wanted = ["default", "via", router, "dev", name]
    return any(line[0] == f"route{family}" and line[1:6] == wanted for line in lines if line)
