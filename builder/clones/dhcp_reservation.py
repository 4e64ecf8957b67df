"""Reservations of addresses on NAT networks of libvirt, one for each card of a clone there.

Invariant: a card has one address on a NAT network for as long as the clone lives. The network keeps it, as a
reservation for the card's MAC address; a static address is reserved too, so that DHCP assigns it to no other machine.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable

from builder.clones.record import Vm, VmCard, nat_name
from builder.vm import networks
from builder.vm.uri import kind_of


def with_name(network: str, uri: str) -> str:
    """Return a network with its name: `nat` alone means builder's own where `host prepare` made it, else `default`.

    Raises:
        HostError: libvirt does not answer.
    """
    # An ordinary user's libvirt has no networks; `cards.check_cards_fit` refuses those.
    return f"nat:{networks.nat_network(uri)}" if network == "nat" and kind_of(uri) == "system" else network


def keep(vm: Vm, others: Iterable[Vm]) -> Vm:
    """Reserve the clone's addresses, or free ones, and return the clone with these addresses.

    Raises:
        HostError: libvirt refuses.
    """
    taken = static_addresses(others)
    for number in range(len(vm.cards)):
        vm = keep_card(vm, number, taken)
    return vm


def keep_card(vm: Vm, number: int, taken: Collection[str], leaving: Collection[str] = ()) -> Vm:
    """Reserve the address of one card, else the one it had or a free one; return the clone with that address.

    Args:
        taken: addresses that other clones have.
        leaving: MAC addresses of cards whose reservations are still there, and are dropped when all goes well.

    Raises:
        HostError: libvirt refuses.
    """
    card = vm.cards[number]
    network, static = nat_name(card.network), card.setup.address(4)
    if network is None or not card.setup.uses(4):
        return vm
    own = str(ipaddress.ip_interface(static).ip) if static else None
    beside = [other.mac for other in vm.cards if other.mac != card.mac and nat_name(other.network) == network]
    reserved = networks.reserve(
        vm.uri, network, vm.name, card.mac, wanted=own, before=card.seen, beside=[*beside, *leaving], taken=taken
    )
    return vm if own or reserved is None else vm.with_card(number, seen=reserved)


def static_addresses(vms: Iterable[Vm]) -> set[str]:
    """Return the static addresses of clones, without prefix lengths."""
    return {str(ipaddress.ip_interface(text).ip) for vm in vms for card in vm.cards for text in card.addresses}


def drop(vm: Vm) -> None:
    """Release the reservations.

    Raises:
        HostError: libvirt refuses.
    """
    for card in vm.cards:
        drop_card(vm.uri, card)


def drop_card(uri: str, card: VmCard) -> None:
    """Release the reservation of one card.

    Raises:
        HostError: libvirt refuses.
    """
    network = nat_name(card.network)
    if network is not None:
        networks.release(uri, network, card.mac)
