"""Reservations of addresses on NAT networks of libvirt, one for each clone there.

Invariant: a clone has one address on a NAT network for as long as it lives. The network keeps it, as a reservation for
the clone's MAC address; a static address is reserved too, so that DHCP assigns it to no other machine.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from builder.clones.record import Vm, nat_name
from builder.vm import networks
from builder.vm.uri import kind_of


def with_name(network: str, uri: str) -> str:
    """Return a network with its name: `nat` alone means builder's own where `host prepare` made it, else `default`.

    Raises:
        HostError: libvirt does not answer.
    """
    # An ordinary user's libvirt has no networks; `request.check_network` refuses those.
    return f"nat:{networks.nat_network(uri)}" if network == "nat" and kind_of(uri) == "system" else network


def keep(vm: Vm, others: Iterable[Vm]) -> Vm:
    """Reserve the clone's address, or a free one, and return the clone with that address.

    Raises:
        HostError: libvirt refuses.
    """
    network = nat_name(vm.network)
    if network is None:
        return vm
    own = str(ipaddress.ip_interface(vm.address).ip) if vm.address else None
    taken = {str(ipaddress.ip_interface(other.address).ip) for other in others if other.address}
    reserved = networks.reserve(vm.uri, network, vm.mac, vm.name, own, taken)
    if own or reserved is None:
        return vm
    return vm.model_copy(update={"seen": reserved})


def drop(vm: Vm) -> None:
    """Release the reservation.

    Raises:
        HostError: libvirt refuses.
    """
    network = nat_name(vm.network)
    if network is not None:
        networks.release(vm.uri, network, vm.mac)
