"""Snapshots of clones.

Invariant: a snapshot is inside the clone's own disk, and goes with it.
"""

from __future__ import annotations

from builder.clones import ownership
from builder.clones.workspace import Workspace
from builder.errors import PublishError
from builder.vm.domains import HELD, Domains


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
    domains.take_snapshot(name, snapshot)


def revert_snapshot(workspace: Workspace, name: str, snapshot: str) -> None:
    """Make a clone what it was when a snapshot was created.

    Raises:
        PublishError: there is no such snapshot.
    """
    _existing(workspace, name, snapshot).go_back(name, snapshot)


def delete_snapshot(workspace: Workspace, name: str, snapshot: str) -> None:
    """Delete a snapshot; the clone stays as it is.

    Raises:
        PublishError: there is no such snapshot.
    """
    _existing(workspace, name, snapshot).drop_snapshot(name, snapshot)


def _libvirt(workspace: Workspace, name: str) -> Domains:
    return workspace.libvirt(ownership.find_clone(workspace, name).uri)


def _existing(workspace: Workspace, name: str, snapshot: str) -> Domains:
    domains = _libvirt(workspace, name)
    names = _names(domains, name)
    if snapshot not in names:
        raise PublishError(f"{name} has no snapshot {snapshot}", f"its snapshots: {', '.join(names) or 'none'}")
    return domains


def _names(domains: Domains, name: str) -> list[str]:
    return [each for each, _ in domains.snapshots(name)]
