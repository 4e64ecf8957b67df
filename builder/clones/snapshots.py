"""Snapshots of clones.

Invariant: a snapshot is inside the clone's own disk, and goes with it. It has the clone's record of then, for libvirt
takes back what `builder vm set` has changed since, and the record has to say what the machine is.
"""

from __future__ import annotations

from pydantic import ValidationError

from builder.clones import change, ownership, ports
from builder.clones.lifecycle import apply, state_of
from builder.clones.record import Vm
from builder.clones.workspace import Workspace
from builder.errors import HostError, PublishError
from builder.vm.domains import HELD, Domains

CHANGES = ("memory", "vcpus", "cards", "port")  # while a clone has snapshots


def snapshots(workspace: Workspace, name: str) -> list[tuple[str, str]]:
    """List names of snapshots, each with the state that the clone was in, the oldest first."""
    return _libvirt(workspace, name).snapshots(name)


def create_snapshot(workspace: Workspace, name: str, snapshot: str) -> None:
    """Create a snapshot of a clone's disk and, if it runs, of its memory.

    Raises:
        PublishError: there is one of this name, or builder keeps it for itself.
    """
    domains = _libvirt(workspace, name)
    if snapshot == HELD:
        raise PublishError(f"builder keeps the name {HELD} for itself", hint="choose another name")
    if snapshot in _names(domains, name):
        raise PublishError(f"{name} already has a snapshot {snapshot}", hint="choose another name")
    with workspace.lock():
        domains.take_snapshot(name, snapshot, workspace.find(name).model_dump_json())


def revert_snapshot(workspace: Workspace, name: str, snapshot: str) -> None:
    """Make a clone what it was when a snapshot was created, with its memory, processors and network cards.

    Raises:
        PublishError: there is no such snapshot, or an address that the clone had is in use by another.
        HostError: a network that it had is gone, its forward port is taken and it ran, or libvirt refuses.
    """
    domains = _existing(workspace, name, snapshot)
    with workspace.lock():
        now = workspace.find(name)
        then = _then(domains.description(name, snapshot), now)
        if dict(domains.snapshots(name)).get(snapshot) != "shutoff":
            _require_port(then, now, state_of(now, domains.look(name)))
        if then.cards != now.cards:
            then = change.give_cards(workspace, domains, now, then, running=False)
        try:
            domains.go_back(name, snapshot)
        except HostError:
            # libvirt may have taken the definition back all the same.
            if then.cards != now.cards:
                now = change.give_cards(workspace, domains, then, now, running=False)
            apply(workspace, now)
            raise
        except BaseException:
            # An interrupt is seen when libvirt has answered.
            apply(workspace, then)
            raise
        apply(workspace, then)


def delete_snapshot(workspace: Workspace, name: str, snapshot: str) -> None:
    """Delete a snapshot; the clone stays as it is.

    Raises:
        PublishError: there is no such snapshot.
    """
    _existing(workspace, name, snapshot).drop_snapshot(name, snapshot)


def _libvirt(workspace: Workspace, name: str) -> Domains:
    return workspace.libvirt(ownership.find_clone(workspace, name).uri)


def _require_port(then: Vm, now: Vm, state: str) -> None:
    """Make sure that a machine can have the forward port that it ran with: libvirt ends what runs now, then looks."""
    known = then is not now and then.port is not None
    if not known or (state == "running" and then.port == now.port) or ports.free(then.port or 0):
        return
    raise HostError(
        f"{now.name} ran with the forward port {then.port}, which another program has",
        hint=f"end that program: ss -ltnp 'sport = :{then.port}' names it",
    )


def _then(description: str, now: Vm) -> Vm:
    """Return the record of a clone at a snapshot; a snapshot that is not builder's, or of old, has none."""
    try:
        recorded = Vm.model_validate_json(description)
    except ValidationError:
        return now
    return now.model_copy(update={name: getattr(recorded, name) for name in CHANGES})


def _existing(workspace: Workspace, name: str, snapshot: str) -> Domains:
    domains = _libvirt(workspace, name)
    names = _names(domains, name)
    if snapshot not in names:
        raise PublishError(f"{name} has no snapshot {snapshot}", f"its snapshots: {', '.join(names) or 'none'}")
    return domains


def _names(domains: Domains, name: str) -> list[str]:
    return [each for each, _ in domains.snapshots(name)]
