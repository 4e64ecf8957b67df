"""Snapshots of clones.

Invariant: a snapshot is inside the clone's own disk, and goes with it. It has the clone's record of then, for libvirt
takes back what `builder vm set` has changed since, and the record has to say what the machine is. It has what the guest
reported of its identity, too: a guest that goes on does not say it again, and its log begins anew.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import suppress

from pydantic import BaseModel, ValidationError

from builder.clones import change, ownership, ports
from builder.clones.lifecycle import apply, state_of
from builder.clones.record import REPORTS, Vm
from builder.clones.workspace import Workspace
from builder.errors import HostError, PublishError
from builder.guest.report import read_report
from builder.vm.domains import HELD, Domains

CHANGES = ("memory", "vcpus", "cards", "port")  # while a clone has snapshots


class _SnapshotRecord(BaseModel):
    """A clone at a snapshot: its record, and the lines in which its guest had reported its identity; None: unknown."""

    vm: Vm
    said: tuple[str, ...] | None


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
        vm = workspace.find(name)
        said: tuple[str, ...] = ()
        # The log of an ordinary user's clone on the system's libvirt is root's.
        with suppress(PermissionError):
            said = read_report(workspace.path(name) / REPORTS).identity
        # In ASCII: what a guest says may be characters that XML has not.
        domains.take_snapshot(name, snapshot, json.dumps({"vm": vm.model_dump(mode="json"), "said": said}))


def revert_snapshot(workspace: Workspace, name: str, snapshot: str) -> None:
    """Make a clone what it was when a snapshot was created, with its memory, processors and network cards.

    Raises:
        PublishError: there is no such snapshot, or an address that the clone had is in use by another.
        HostError: a network that it had is gone, its forward port is taken and it ran, or libvirt refuses.
    """
    domains = _existing(workspace, name, snapshot)
    with workspace.lock():
        now = workspace.find(name)
        kept = _kept(domains.description(name, snapshot), now)
        ran = dict(domains.snapshots(name)).get(snapshot) != "shutoff"
        if ran and kept.said is not None:
            _require_port(kept.vm, now, state_of(now, domains.look(name)))
        then = kept.vm
        if then.cards != now.cards:
            then = change.give_cards(workspace, domains, now, then, running=False)
        said = (kept.said or ()) if ran else ()
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
            _record(workspace, then, said)
            raise
        _record(workspace, then, said)


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
    if then.port is None or (state == "running" and then.port == now.port) or ports.free(then.port):
        return
    raise HostError(
        f"{now.name} ran with the forward port {then.port}, which another program has",
        hint=f"end that program: ss -ltnp 'sport = :{then.port}' names it",
    )


def _kept(description: str, now: Vm) -> _SnapshotRecord:
    """Return what was kept of a clone with a snapshot; of one that is not builder's, the clone as it is."""
    try:
        kept = _SnapshotRecord.model_validate_json(description)
    except ValidationError:
        return _SnapshotRecord(vm=now, said=None)
    return kept.model_copy(update={"vm": now.model_copy(update={each: getattr(kept.vm, each) for each in CHANGES})})


def _record(workspace: Workspace, vm: Vm, said: Collection[str]) -> None:
    apply(workspace, vm)
    if not said:
        return
    with (workspace.path(vm.name) / REPORTS).open("a", encoding="utf-8") as log:
        log.writelines(f"{line}\n" for line in said)


def _existing(workspace: Workspace, name: str, snapshot: str) -> Domains:
    domains = _libvirt(workspace, name)
    names = _names(domains, name)
    if snapshot not in names:
        raise PublishError(f"{name} has no snapshot {snapshot}", f"its snapshots: {', '.join(names) or 'none'}")
    return domains


def _names(domains: Domains, name: str) -> list[str]:
    return [each for each, _ in domains.snapshots(name)]
