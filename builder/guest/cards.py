"""How a guest sets up its network cards: addresses, DHCP, routers, name servers.

Invariant: a `CardSetup` that exists is valid by itself, and so are the setups that `check_cards` let pass, together.

A card has at most one static address of IPv4 and one of IPv6. Without one of IPv6 it goes on to listen to routers, as
every system does by itself; with one it listens to none.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from builder.errors import RecipeError

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Family = Literal[4, 6]
FAMILIES: tuple[Family, ...] = (4, 6)
MOST = 8  # cards of a machine
_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")


@dataclass(frozen=True)
class CardSetup:
    """How a guest sets up one network card.

    Args:
        mac: by which the guest finds it; None where it is not known yet.
        addresses: static ones with prefix length, kept in their normal form, at most one of each family.
        dhcp: the guest asks DHCP for an IPv4 address.
        gateways: routers of default routes, at most one of each family, each in the network of an address, or a
            link-local one of IPv6.

    Raises:
        RecipeError: a value is malformed, or two do not fit each other.
    """

    mac: str | None = None
    addresses: tuple[str, ...] = ()
    dhcp: bool = True
    gateways: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.mac is not None and not re.fullmatch(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", self.mac):
            raise RecipeError(f"MAC address {self.mac!r} is refused", "six pairs of small hex digits, joined by ':'")
        object.__setattr__(self, "addresses", tuple(map(normal_address, self.addresses)))
        object.__setattr__(self, "gateways", tuple(str(parse_ip(gateway)) for gateway in self.gateways))
        for family in FAMILIES:
            own = [text for text in self.addresses if ipaddress.ip_interface(text).version == family]
            routers = [text for text in self.gateways if ipaddress.ip_address(text).version == family]
            if len(own) > 1:
                raise RecipeError(f"one card has two IPv{family} addresses: {' and '.join(own)}", hint="give it one")
            if len(routers) > 1:
                raise RecipeError(f"one card has two IPv{family} gateways: {' and '.join(routers)}", hint="give it one")
            for router in routers:
                _check_gateway(router, own[0] if own else None)
        if self.dhcp and self.address(4):
            raise RecipeError(
                f"one card has two ways to an IPv4 address: dhcp and {self.address(4)}", hint="leave out one of them"
            )
        if not self.dhcp and not self.addresses:
            raise RecipeError("a card has no address and asks nobody for one", hint="write dhcp")

    def address(self, family: Family) -> str | None:
        """Return the static address of a family, with prefix length."""
        return next((text for text in self.addresses if ipaddress.ip_interface(text).version == family), None)

    def gateway(self, family: Family) -> str | None:
        """Return the router of a family."""
        return next((text for text in self.gateways if ipaddress.ip_address(text).version == family), None)

    def uses(self, family: Family) -> bool:
        """Return whether the card has, or may get, an address of a family."""
        return family == 6 or self.dhcp or self.address(4) is not None

    @property
    def plain(self) -> bool:
        """Return whether all there is to say of it was said by seeds of one card: DHCP, or IPv4 alone."""
        return all(ipaddress.ip_interface(text).version == 4 for text in self.addresses)


def check_cards(cards: Sequence[CardSetup], dns: Sequence[str]) -> None:
    """Check that cards and name servers fit each other.

    Raises:
        RecipeError: they do not.
    """
    if len(cards) > MOST:
        raise RecipeError(f"a machine takes {MOST} network cards, not {len(cards)}")
    for server in dns:
        parse_ip(server)
    if sum(bool(card.gateways) for card in cards) > 1:
        raise RecipeError("two cards have a gateway", hint="default routes lead over one card: leave out the other one")
    own = [str(ipaddress.ip_interface(text).ip) for card in cards for text in card.addresses]
    if twice := next((address for address in own if own.count(address) > 1), None):
        raise RecipeError(f"two cards have the address {twice}")
    if dns:
        dns_card(cards, dns)


def default_card(cards: Sequence[CardSetup], family: Family) -> int | None:
    """Return the number of the card that the default route of a family leads over; None where the guest may choose.

    It is the card with a gateway; without one, of IPv4, the first that asks DHCP.
    """
    found = [number for number, card in enumerate(cards) if card.gateway(family)]
    if not found and family == 4:
        found = [number for number, card in enumerate(cards) if card.dhcp]
    return found[0] if found else None


def dns_card(cards: Sequence[CardSetup], dns: Sequence[str]) -> int:
    """Return the number of the card that name servers are written down with.

    It is the one with a gateway, else the first with a static address, that has addresses of the servers' families.

    Raises:
        RecipeError: there is none.
    """
    families: set[Family] = {4 if ipaddress.ip_address(server).version == 4 else 6 for server in dns}
    fit = [number for number, card in enumerate(cards) if all(map(card.uses, families))]
    fit.sort(key=lambda number: (not cards[number].gateways, not cards[number].addresses, number))
    if not fit:
        raise RecipeError("a name server of IPv4 cannot be asked: no card has an IPv4 address")
    return fit[0]


def normal_address(text: str) -> str:
    """Return a static address in its normal form, also one with a netmask (`192.168.10.19/255.255.255.0`).

    Raises:
        RecipeError: it is not an address that a machine can have, or has no prefix length.
    """
    try:
        interface = ipaddress.ip_interface(text)
    except ValueError as error:
        raise RecipeError(f"bad address: {_reason(text, error)}") from None
    if "%" in text:
        raise RecipeError(f"bad address: {text} names an interface", hint="leave out % and what follows")
    if "/" not in text:
        raise RecipeError(f"address {text} has no prefix length", hint=f"write {text}/{24 if '.' in text else 64}")
    address, whole = interface.ip, interface.network
    # A host mask (/0.0.0.255) is one of two readings of such a text.
    if "." in text.partition("/")[2] and text.partition("/")[2] != str(interface.netmask):
        raise RecipeError(
            f"address {text}: {text.partition('/')[2]} is not a netmask", hint=f"write {interface.with_prefixlen}"
        )
    if whole.prefixlen == 0:
        raise RecipeError(
            f"address {text}: a network has a prefix length of 1 to {whole.max_prefixlen}",
            hint=f"write {address}/{24 if whole.version == 4 else 64}",
        )
    if isinstance(address, ipaddress.IPv6Address):
        _require_usable6(address, whole)
        return interface.with_prefixlen
    special = address.is_loopback or address.is_multicast or address.is_reserved or address in _THIS_NETWORK
    if special or (whole.prefixlen < 31 and address in (whole.network_address, whole.broadcast_address)):
        what = "it is kept for special use" if special else f"it is the network or broadcast address of {whole}"
        raise RecipeError(f"{address} cannot be assigned to a VM: {what}")
    return interface.with_prefixlen


def parse_ip(text: str) -> Address:
    """Return an address without a prefix length.

    Raises:
        RecipeError: it is none, or names an interface (`fe80::1%eth0`).
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise RecipeError(f"bad address: {_reason(text, error)}") from None
    if getattr(address, "scope_id", None):
        raise RecipeError(f"bad address: {text} names an interface", hint=f"write {text.partition('%')[0]}")
    return address


def _require_usable6(address: ipaddress.IPv6Address, whole: ipaddress.IPv4Network | ipaddress.IPv6Network) -> None:
    # From Python 3.13 on the questions below are about the IPv4 address in such a one.
    if address.ipv4_mapped:
        why = "it stands for an IPv4 address"
    elif address.is_link_local:
        why = "every card has one of its own in fe80::/10"
    elif address.is_loopback or address.is_multicast or address.is_reserved or address.is_unspecified:
        why = "it is kept for special use"
    elif whole.prefixlen < 127 and address == whole.network_address:
        why = f"it is that of all routers of {whole} (RFC 4291, 2.6.1)"
    else:
        return
    raise RecipeError(f"{address} cannot be assigned to a VM: {why}")


def _check_gateway(router: str, own: str | None) -> None:
    gateway = ipaddress.ip_address(router)
    if own is None:
        raise RecipeError(
            f"gateway {gateway}: the card has no IPv{gateway.version} address of its own",
            hint="give it an --address of the gateway's network; DHCP tells its own gateway",
        )
    interface = ipaddress.ip_interface(own)
    if gateway == interface.ip:
        raise RecipeError(f"address {interface.ip} is the address of the gateway", hint="a VM cannot be its own router")
    if gateway not in interface.network and not (gateway.version == 6 and gateway.is_link_local):
        raise RecipeError(
            f"gateway {gateway} lies outside {interface.network}",
            hint="a gateway is reached directly, so it must be in the machine's own network",
        )


def _reason(text: str, error: ValueError) -> str:
    """Return why a text is no address: Python says it of either family alone."""
    try:
        (ipaddress.IPv6Interface if ":" in text else ipaddress.IPv4Interface)(text)
    except ValueError as precise:
        return str(precise)
    return str(error)
