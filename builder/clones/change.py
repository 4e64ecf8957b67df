"""Change memory, processors and network of a clone.

Invariant: what is refused has changed nothing; what a running guest does not follow waits for its next start.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace

from builder.clones import dhcp_reservation, ownership, request
from builder.clones.lifecycle import apply, state_of, taken_ports, with_port
from builder.clones.record import Vm, network
from builder.clones.request import MIB
from builder.clones.workspace import Workspace
from builder.errors import PublishError, RecipeError
from builder.vm import hotplug
from builder.vm.domains import Domains
from builder.vm.machine_spec import UserNet


@dataclass(frozen=True)
class VmChanges:
    """Changes of a clone; None leaves a value as it is.

    Args:
        memory: bytes.
        network: `user`, `nat`, `nat:<name>` or `bridge:<name>`.

    Raises:
        RecipeError: a value is not valid, or there is none.
    """

    memory: int | None = None
    vcpus: int | None = None
    network: str | None = None

    @property
    def kinds(self) -> list[str]:
        """Return the names of the values that change."""
        return [kind for kind, value in asdict(self).items() if value is not None]

    def __post_init__(self) -> None:
        if not self.kinds:
            raise RecipeError("nothing to change", hint="--memory, --vcpus or --network")
        request.check_memory(self.memory)
        if self.network is not None:
            request.check_network_name(self.network)


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
    if changes.network is not None:
        changes = replace(changes, network=dhcp_reservation.with_name(changes.network, domains.host.uri))
    with workspace.lock():
        old = workspace.find(name)
        running = state_of(old, domains.look(name)) not in ("off", "undefined")
        new = _changed(old, changes, taken_ports(workspace))
        if new.network != old.network:
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
    new = vm.model_copy(
        update={
            "memory": changes.memory // MIB if changes.memory is not None else vm.memory,
            "vcpus": changes.vcpus if changes.vcpus is not None else vm.vcpus,
            "network": changes.network if changes.network is not None else vm.network,
        }
    )
    if new.network == "user":
        return new if new.port is not None else with_port(new, taken_ports)
    return new.model_copy(update={"port": None})


def _move(workspace: Workspace, domains: Domains, old: Vm, new: Vm, *, running: bool) -> Vm:
    """Take a clone from one network to another; return it with the address that is reserved there."""
    if running and "user" in (old.network, new.network):
        # The card can be plugged into another network, but user-mode networking is part of QEMU itself.
        raise PublishError(
            f"the network of {old.name} cannot be changed from {old.network} to {new.network} while it runs",
            hint=f"builder vm stop {old.name}",
        )
    others = [vm for vm in workspace.vms() if vm.name != old.name]
    request.check_network(new.network, [new.address], domains, others)
    new = dhcp_reservation.keep(new.model_copy(update={"seen": None}), workspace.vms())
    target = network(new)
    try:
        if running and not isinstance(target, UserNet):
            hotplug.network(domains, new.name, new.mac, target)
    except BaseException:
        dhcp_reservation.drop(new)
        raise
    dhcp_reservation.drop(old)
    return new
