"""The one rule: a clone on a NAT network of libvirt's has one address there for as long as it lives.

The network keeps it, as a reservation for the clone's MAC address; a clone with a static address has that reserved, so
that DHCP gives it to nobody else.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from builder.clones.record import Vm, nat_name


def settled(network: str, uri: str) -> str:
    """The network with its name: `nat` alone means builder's own where `host prepare` made it, else libvirt's."""
    from builder.vm import networks

    # An ordinary user's libvirt has no networks, which is the request's to say.
    return f"nat:{networks.nat_network(uri)}" if network == "nat" and uri.endswith("/system") else network


def keep(vm: Vm, others: Iterable[Vm]) -> Vm:
    """Reserve the clone's address, or one that is free; the clone that is returned says which.

    Raises:
        HostError: libvirt refuses.
    """
    from builder.vm import networks

    network = nat_name(vm.network)
    if network is None:
        return vm
    own = str(ipaddress.ip_interface(vm.address).ip) if vm.address else None
    taken = {str(ipaddress.ip_interface(other.address).ip) for other in others if other.address}
    found = networks.reserve(vm.uri, network, vm.mac, vm.name, own, taken)
    if own or found is None:
        return vm
    return vm.model_copy(update={"seen": found})


def drop(vm: Vm) -> None:
    """Give the address back.

    Raises:
        HostError: libvirt refuses.
    """
    from builder.vm import networks

    network = nat_name(vm.network)
    if network is not None:
        networks.release(vm.uri, network, vm.mac)
