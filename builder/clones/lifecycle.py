"""The one rule: what is changed about a clone is changed in its record and in libvirt alike, under one lock."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from builder import images
from builder.clones import delete as removal
from builder.clones import dhcp_reservation, ports, request
from builder.clones.record import DISK, RECORD, Vm, changing, damaged, find, list_vms, network, save, spec
from builder.errors import BuilderError, HostError, PublishError, UnreachableError
from builder.images import Image, User
from builder.system import host_devices, process
from builder.vm import hotplug
from builder.vm.domain_xml import UserNet
from builder.vm.domains import Domains, Found

REFUSED_FORWARD = "host forwarding"  # QEMU: "Could not set up host forwarding rule"


@dataclass(frozen=True)
class Seen:
    """A clone and what it does: `running`, `paused`, `off`, `crashed`, or `undefined` when libvirt lost it."""

    vm: Vm
    state: str


def look(vms: Path, known: Mapping[str, Found]) -> list[Seen]:
    """All clones with their states.

    Args:
        known: libvirt's domains, see `Domains.all`.
    """
    return [Seen(vm, state_of(vm, known.get(vm.name))) for vm in list_vms(vms)]


def state_of(vm: Vm, found: Found | None) -> str:
    """What the clone does; another machine of the same name is not it."""
    return found.state if found is not None and found.uuid == str(vm.uuid) else "undefined"


def start(vms: Path, domains: Domains, name: str) -> Vm:
    """Switch a clone on; one that runs is left alone. Its forward port is chosen anew when somebody has it.

    Raises:
        PublishError: there is no such clone, or its base is gone.
        HostError: libvirt refuses.
    """
    with changing(vms):
        vm = find(vms, name)
        found = domains.look(name)
        state = state_of(vm, found)
        if state == "running":
            return vm
        if found is not None and state == "undefined":
            raise PublishError(f"libvirt has another machine named {name}", hint=f"look at it: virsh dominfo {name}")
        if vm.base and not Path(vm.base).exists():
            raise PublishError(f"the base of {name} is gone: {vm.image}@{vm.version}", f"no such file: {vm.base}")
        for path in vm.host_disks:
            # It was nobody's when the clone was made; the host may have mounted it since.
            host_devices.require_unused(Path(path))
        if state == "paused":
            raise PublishError(f"{name} is paused", hint=f"virsh resume {name}")
        if state == "undefined":
            domains.define(spec(vm, vms / name))
        vm = _with_free_port(vms, domains, vm)
        try:
            domains.start(name)
        except HostError as fault:
            if vm.port is None or REFUSED_FORWARD not in fault.details:
                raise
            # Somebody took the port since we looked.
            vm = _change(vms, domains, request.with_port(vm, _taken(vms)))
            domains.start(name)
        return vm


def stop(vms: Path, domains: Domains, name: str, *, now: bool, within: float) -> None:
    """Switch a clone off; one that is off is left alone.

    Args:
        now: pull the plug instead of pressing the power button.
        within: seconds that the guest has to obey the button.

    Raises:
        UnreachableError: it does not obey.
    """
    vm = find(vms, name)
    if state_of(vm, domains.look(name)) in ("running", "paused"):
        switch_off(domains, name, now=now, within=within)


def switch_off(domains: Domains, name: str, *, now: bool, within: float) -> None:
    """Switch a machine of libvirt's off, whoever made it; see `stop`."""
    if now:
        domains.cut_power(name)
        return
    domains.press_power(name)
    if not domains.wait_off(name, within):
        raise UnreachableError(
            f"{name} did not switch itself off within {within:g} s",
            "the power button was pressed",
            f"builder vm stop {name} --now takes the power away",
        )


def change(vms: Path, domains: Domains, name: str, changes: Mapping[str, Any]) -> tuple[Vm, list[str]]:
    """Change memory (MiB), processors or network, at once where the clone runs and its guest follows.

    Returns:
        The clone, and what of the changes waits for its next start.

    Raises:
        PublishError: there is no such clone, or it runs and the network cannot be exchanged meanwhile.
        HostError: libvirt refuses.
    """
    with changing(vms):
        vm = find(vms, name)
        new = vm.model_copy(update=dict(changes))
        if new.network == "user" and new.port is None:
            new = request.with_port(new, _taken(vms))
        elif new.network != "user":
            new = new.model_copy(update={"port": None})
        runs = state_of(vm, domains.look(name)) not in ("off", "undefined")
        if new.network != vm.network:
            if runs:
                _require_movable(vm, new)
            new = dhcp_reservation.keep(new.model_copy(update={"seen": None}), list_vms(vms))
            wanted = network(new)
            try:
                if runs and not isinstance(wanted, UserNet):
                    hotplug.network(domains, vm.name, vm.mac, wanted)
            except BaseException:
                dhcp_reservation.drop(new)
                raise
            dhcp_reservation.drop(vm)
        new = _change(vms, domains, new)
        act = {"memory": hotplug.memory, "vcpus": hotplug.vcpus}
        waits = [kind for kind in act if runs and kind in changes and not act[kind](domains, name, changes[kind])]
        return new, waits


def _require_movable(vm: Vm, new: Vm) -> None:
    """The card of a running clone can be put into another network, but user-mode networking is part of QEMU itself."""
    if "user" in (vm.network, new.network):
        raise PublishError(
            f"{vm.name} runs, and meanwhile its network {vm.network} cannot be exchanged for {new.network}",
            hint=f"builder vm stop {vm.name}",
        )


def rest_on(vms: Path, catalogue: Path, domains: Domains, name: str, base: Image | None) -> Vm:
    """Give a clone's disk another base, or none; the guest sees the same bytes as before.

    What the two bases differ in is copied first and the new one named last, so a process that is killed between
    leaves a disk that is right on either; done again, it is finished.

    Raises:
        PublishError: the clone runs, has snapshots (which rest on the old base), or a base is gone.
    """
    with changing(vms), images.using(base) if base else nullcontext():
        vm = find(vms, name)
        old = vm.base
        if state_of(vm, domains.look(name)) not in ("off", "undefined"):
            raise PublishError(f"{name} is running", hint=f"builder vm stop {name}")
        if old is None:
            raise PublishError(f"{name} has a disk of its own already, without a base")
        if not Path(old).exists():
            raise PublishError(f"the base of {name} is gone: {vm.image}@{vm.version}", f"no such file: {old}")
        if state_of(vm, domains.look(name)) == "off" and domains.snapshots(name):
            raise PublishError(f"{name} has snapshots, which rest on its base", hint=f"builder vm snapshot {name}")
        if base is not None and str(base.disk.absolute()) == old:
            return vm
        target = vms / name / DISK
        words: list[str | Path] = ["qemu-img", "rebase", "-q", "-f", "qcow2", "-b"]
        if base is not None:
            since = datetime.now(UTC).isoformat(timespec="seconds")
            images.enter(base, User(str(vm.uuid), "clone", name, str(target), since))
            changes: dict[str, str | None] = {
                "base": str(base.disk.absolute()),
                "image": base.name,
                "version": base.version,
            }
            process.run([*words, base.disk.absolute(), "-F", "qcow2", target])
        else:
            changes = {"base": None}
            process.run([*words, "", target])
        new = _change(vms, domains, vm.model_copy(update=changes))
        images.leave(catalogue / vm.image, vm.version, str(vm.uuid))
        return new


def delete(vms: Path, catalogue: Path, domains: Domains, name: str) -> list[Path]:
    """Remove a clone, running or not, with its entry in the base's list of users; also one whose record is damaged.

    Returns:
        Files in its folder that are not its own, and stay.
    """
    with changing(vms):
        if name in damaged(vms):
            (vms / name / RECORD).unlink()
            removal.mend(vms, catalogue, domains)
            return sorted((vms / name).iterdir()) if (vms / name).is_dir() else []
        removal.mend(vms, catalogue, domains)
        return removal.remove(vms, catalogue, domains, find(vms, name))


def start_all(vms: Path, domains: Domains, names: list[str]) -> tuple[list[Vm], dict[str, BuilderError]]:
    """Start several; those that run, and why the others do not."""
    started: list[Vm] = []
    failed: dict[str, BuilderError] = {}
    for name in names:
        try:
            started.append(start(vms, domains, name))
        except BuilderError as fault:
            failed[name] = fault
    return started, failed


def _with_free_port(vms: Path, domains: Domains, vm: Vm) -> Vm:
    if vm.port is None or ports.free(vm.port):
        return vm
    return _change(vms, domains, request.with_port(vm, _taken(vms)))


def _change(vms: Path, domains: Domains, vm: Vm) -> Vm:
    """First libvirt, which may refuse, then the record; whoever is killed between sees the change at the next start."""
    domains.define(spec(vm, vms / vm.name))
    save(vms, vm)
    return vm


def _taken(vms: Path) -> set[int]:
    return {one.port for one in list_vms(vms) if one.port is not None}


def place(vm: Vm) -> tuple[str, int] | None:
    """Host and port at which its SSH answers, as far as the record knows."""
    if vm.network == "user":
        return (ports.HOST, vm.port) if vm.port else None
    known = vm.address.partition("/")[0] if vm.address else vm.seen
    return (known, 22) if known else None
