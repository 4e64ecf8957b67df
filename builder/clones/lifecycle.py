"""Start and stop clones, and machines that builder did not make where that is forced.

Invariant: libvirt and the record of a clone are changed together, under one lock, libvirt first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from builder import images
from builder.clones import ownership, ports
from builder.clones.record import DISK, Vm, spec
from builder.clones.workspace import Workspace
from builder.errors import HostError, PublishError, UnreachableError
from builder.images import references
from builder.system import host_devices
from builder.vm import held, qcow2
from builder.vm.domains import Domains, FoundDomain

REFUSED_FORWARD = "host forwarding"  # QEMU: "Could not set up host forwarding rule"


@dataclass(frozen=True)
class VmStatus:
    """A clone and its state.

    Args:
        state: `running`, `paused`, `off`, `crashed`, or `undefined` when libvirt does not know it.
        newer: the latest version of its image, if the clone was created from another one.
    """

    vm: Vm
    state: str
    newer: str | None = None


@dataclass(frozen=True)
class Started:
    """A machine that runs.

    Args:
        port: the forward port on 127.0.0.1; None without one, and for a machine that builder did not make.
        moved: the port is another one than before, for another program had taken it.
    """

    name: str
    port: int | None = None
    moved: bool = False


def statuses(workspace: Workspace) -> list[VmStatus]:
    """List all complete clones with their states."""
    vms = workspace.vms()
    known = {uri: workspace.libvirt(uri).all() for uri in sorted({vm.uri for vm in vms})}
    newer = _newer(workspace.catalogue, vms)
    return [VmStatus(vm, state_of(vm, known[vm.uri].get(vm.name)), newer.get(vm.name)) for vm in vms]


def _newer(catalogue: Path, vms: Iterable[Vm]) -> dict[str, str]:
    """Return the latest version of each clone's image, where the clone was created from another one."""
    latest = {
        image.name: image.version
        for name in {vm.image for vm in vms}
        for image in images.list_images(catalogue, name)
        if image.latest
    }
    return {vm.name: latest[vm.image] for vm in vms if latest.get(vm.image, vm.version) != vm.version}


def state_of(vm: Vm, machine: FoundDomain | None) -> str:
    """Return the state of a clone; another machine of the same name does not count."""
    return machine.state if machine is not None and machine.uuid == str(vm.uuid) else "undefined"


def _switch_on(domains: Domains, name: str) -> None:
    domains.start(name)


def start(workspace: Workspace, name: str, *, how: Callable[[Domains, str], None] = _switch_on) -> Vm:
    """Start a clone; one that runs is left alone. Its forward port is chosen again if another program has it.

    Args:
        how: switches its machine on.

    Raises:
        PublishError: there is no such clone, or its base is gone.
        HostError: libvirt refuses.
    """
    with workspace.lock():
        vm = workspace.find(name)
        domains = workspace.libvirt(vm.uri)
        machine = domains.look(name)
        state = state_of(vm, machine)
        if state == "running":
            return vm
        if machine is not None and state == "undefined":
            raise PublishError(f"libvirt has another machine named {name}", hint=f"look at it: virsh dominfo {name}")
        require_base(vm)
        for path in vm.host_disks:
            # It was unused when the clone was created; the host may have mounted it since.
            host_devices.require_unused(Path(path))
        if state == "paused":
            raise PublishError(f"{name} is paused", hint=f"virsh resume {name}")
        # With a libvirt that works for this user as root does, the disk may belong to QEMU's user.
        if os.access(workspace.path(vm.name) / DISK, os.R_OK):
            require_disk(workspace, vm)
            if how is not held.go_on:
                held.forget(domains, name, workspace.path(name) / DISK)
        if state == "undefined":
            domains.define(spec(vm, workspace.path(name)))
        if vm.port is not None and not ports.free(vm.port):
            vm = apply(workspace, with_port(vm, taken_ports(workspace)))
        try:
            how(domains, name)
        except HostError as error:
            if vm.port is None or REFUSED_FORWARD not in error.output:
                raise
            # Another program took the port since we looked.
            vm = apply(workspace, with_port(vm, taken_ports(workspace)))
            how(domains, name)
        return vm


def start_any(workspace: Workspace, name: str, *, force: bool = False) -> Started:
    """Start a clone, or with force a machine that builder did not make; see `start`."""
    domains, before = ownership.resolve(workspace, name, force=force)
    if before is None:
        domains.start(name)
        return Started(name)
    vm = start(workspace, name)
    return Started(name, vm.port, vm.port != before.port)


def stop(workspace: Workspace, name: str, *, now: bool, within: float, force: bool = False) -> None:
    """Stop a clone, or with force a machine that builder did not make; a clone that is off is left alone.

    Args:
        now: cut the power instead of pressing the power button.
        within: seconds that the guest has to switch itself off.

    Raises:
        UnreachableError: the guest does not switch itself off.
    """
    domains, vm = ownership.resolve(workspace, name, force=force)
    if vm is not None and state_of(vm, domains.look(name)) not in ("running", "paused"):
        return
    if now:
        domains.cut_power(name)
        return
    domains.press_power(name)
    if not domains.wait_off(name, within):
        raise UnreachableError(
            f"{name} did not switch itself off within {within:g} s",
            "the power button was pressed",
            f"builder vm stop {name} --now cuts the power",
        )


def require_base(vm: Vm) -> None:
    """Make sure that the image below a clone's disk exists.

    Raises:
        PublishError: it does not.
    """
    if vm.base and not Path(vm.base).exists():
        raise PublishError(f"the base of {vm.name} is gone: {vm.image}@{vm.version}", f"no such file: {vm.base}")


def require_disk(workspace: Workspace, vm: Vm) -> Path | None:
    """Make sure that the headers of a clone's disk and of its base name no file that is not its own.

    Returns:
        The base that the disk names. It is not the one in the record if a rebase was killed half-way.

    Raises:
        VerifyError: one of them names another file.
        PublishError: one of them cannot be read.
    """
    try:
        # Each version that it rests on, or may rest on, lists it.
        entries = workspace.catalogue.absolute().glob(f"*/{references.FOLDER}/*/{vm.uuid}.json")
        listed = [(entry.parents[2], entry.parent.name) for entry in entries]
        known = {folder / version / f"{folder.name}.qcow2": f"{folder.name}@{version}" for folder, version in listed}
        if vm.base:
            known[Path(vm.base)] = f"{vm.image}@{vm.version}"
            qcow2.require_image(Path(vm.base), known[Path(vm.base)])
        base = qcow2.require_overlay(workspace.path(vm.name) / DISK, known, vm.name)
        if base is not None:
            qcow2.require_image(base, known[base])
        return base
    except OSError as error:
        raise PublishError(f"the disk of {vm.name} cannot be read: {error.strerror}", str(error)) from error


def require_on(domains: Domains, name: str) -> None:
    """Make sure that a machine is switched on.

    Raises:
        PublishError: it is off.
    """
    machine = domains.look(name)
    if machine is None or machine.state == "off":
        raise PublishError(f"{name} is off", hint=f"builder vm start {name}")


def apply(workspace: Workspace, vm: Vm) -> Vm:
    """Change a clone in libvirt, which may refuse, and then its record; call it with the lock held.

    A command that is killed in between has changed the clone from its next start on.
    """
    workspace.libvirt(vm.uri).define(spec(vm, workspace.path(vm.name)))
    workspace.save(vm)
    return vm


def with_port(vm: Vm, taken: Collection[int]) -> Vm:
    """Return the same clone with another forward port."""
    return vm.model_copy(update={"port": ports.choose(taken)})


def taken_ports(workspace: Workspace) -> set[int]:
    """Return the forward ports of all clones."""
    return {vm.port for vm in workspace.vms() if vm.port is not None}
