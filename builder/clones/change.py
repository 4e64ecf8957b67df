"""Change memory, processors and networks of a clone.

Invariant: what is refused has changed nothing; what a running guest does not follow waits for its next start.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

from builder.clones import dhcp_reservation, ownership, request
from builder.clones.cards import CardRequest, check_cards_fit, check_network_names
from builder.clones.lifecycle import apply, state_of, taken_ports, with_port
from builder.clones.record import Vm, network
from builder.clones.request import MIB
from builder.clones.workspace import Workspace
from builder.errors import HostError, PublishError, RecipeError
from builder.vm import hotplug
from builder.vm.domains import Domains
from builder.vm.machine_spec import UserNet


@dataclass(frozen=True)
class VmChanges:
    """Changes of a clone; None leaves a value as it is.

    Args:
        memory: bytes.
        networks: of all its cards, in their order: `user`, `nat`, `nat:<name>` or `bridge:<name>`.

    Raises:
        RecipeError: a value is not valid, or there is none.
    """

    memory: int | None = None
    vcpus: int | None = None
    networks: tuple[str, ...] | None = None

    @property
    def kinds(self) -> list[str]:
        """Return the names of the values that change."""
        return [kind for kind, value in asdict(self).items() if value is not None]

    def __post_init__(self) -> None:
        if not self.kinds:
            raise RecipeError("nothing to change", hint="--memory, --vcpus or --network")
        request.check_memory(self.memory)
        check_network_names(self.networks or ())


@dataclass(frozen=True)
class ChangedVm:
    """A clone after a change.

    Args:
        waits: names of the changed values that take effect at the next start only.
        running: the clone ran.
    """

    vm: Vm
    waits: tuple[str, ...]
    running: bool


def change(workspace: Workspace, name: str, changes: VmChanges) -> ChangedVm:
    """Change a clone, at once where it runs and its guest follows.

    Raises:
        PublishError: there is no such clone, its network cannot be changed while it runs, or its address is taken.
        RecipeError: its address lies outside the network.
        HostError: there is no such network, or libvirt refuses.
    """
    domains = workspace.libvirt(ownership.find_clone(workspace, name).uri)
    if changes.networks is not None:
        networks = tuple(dhcp_reservation.with_name(each, domains.host.uri) for each in changes.networks)
        changes = replace(changes, networks=networks)
    with workspace.lock():
        old = workspace.find(name)
        running = state_of(old, domains.look(name)) not in ("off", "undefined")
        new = _changed(old, changes, taken_ports(workspace))
        if new.networks != old.networks:
            new = _move(workspace, domains, old, new, running=running)
        new = apply(workspace, new)
        waits = []
        if running and changes.memory is not None and not hotplug.memory(domains, name, new.memory):
            waits.append("memory")
        if running and changes.vcpus is not None and not hotplug.vcpus(domains, name, new.vcpus):
            waits.append("vcpus")
        return ChangedVm(new, tuple(waits), running)


def _changed(vm: Vm, changes: VmChanges, taken_ports: Collection[int]) -> Vm:
    """Return the changed record of a clone."""
    networks = changes.networks or vm.networks
    if len(networks) != len(vm.cards):
        raise RecipeError(
            f"network cards of {vm.name}: {len(vm.cards)}; --network is there {_times(len(networks))}",
            "--network names the network of each card, in their order",
            f"now: {' '.join(f'--network {network}' for network in vm.networks)}",
        )
    moved = zip(vm.cards, networks, strict=True)
    new = vm.model_copy(
        update={
            "memory": changes.memory // MIB if changes.memory is not None else vm.memory,
            "vcpus": changes.vcpus if changes.vcpus is not None else vm.vcpus,
            "cards": tuple(card.model_copy(update={"network": network}) for card, network in moved),
        }
    )
    if "user" in new.networks:
        return new if new.port is not None else with_port(new, taken_ports)
    return new.model_copy(update={"port": None})


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _move(workspace: Workspace, domains: Domains, old: Vm, new: Vm, *, running: bool) -> Vm:
    """Take cards of a clone from one network to another; return it with the addresses that are reserved there."""
    moved = [number for number, card in enumerate(old.cards) if card.network != new.cards[number].network]
    for number in moved:
        networks = old.cards[number].network, new.cards[number].network
        if running and "user" in networks:
            # The card can be plugged into another network, but user-mode networking is part of QEMU itself.
            raise PublishError(
                f"the network of {old.name} cannot be changed from {networks[0]} to {networks[1]} while it runs",
                hint=f"builder vm stop {old.name}",
            )
    others = [vm for vm in workspace.vms() if vm.name != old.name]
    asked = [CardRequest(card.network, card.setup) for card in (new.cards[number] for number in moved)]
    check_cards_fit(asked, domains, others)
    taken = dhcp_reservation.static_addresses(others)
    plugged: list[int] = []
    try:
        for number in moved:
            new = dhcp_reservation.keep_card(new.with_card(number, seen=None), number, taken)
            plugged.append(number)
            _plug(domains, new, number, running=running)
    except BaseException:
        for number in plugged:
            dhcp_reservation.drop_card(new.uri, new.cards[number])
            with suppress(HostError):
                _plug(domains, old, number, running=running)
        raise
    for number in moved:
        dhcp_reservation.drop_card(old.uri, old.cards[number])
    return new


def _plug(domains: Domains, vm: Vm, number: int, *, running: bool) -> None:
    """Put a card of a running clone into its network."""
    card = vm.cards[number]
    target = network(vm, card)
    if running and not isinstance(target, UserNet):
        hotplug.network(domains, vm.name, card.mac, target)
