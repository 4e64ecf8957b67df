"""Delete clones, and remove what interrupted commands left.

Invariant: a clone is removed with exactly the files that it owned, its record first.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from builder.clones import dhcp_reservation, ownership
from builder.clones.record import RECORD, Vm
from builder.clones.workspace import Workspace
from builder.errors import PublishError
from builder.images import references
from builder.system.atomic_file import sync_folder
from builder.vm.domains import Domains


def delete(workspace: Workspace, name: str) -> list[Path]:
    """Delete a clone, running or not, also one whose record is damaged.

    Returns:
        Files in its folder that do not belong to it; they are kept.

    Raises:
        PublishError: there is no such clone.
        HostError: libvirt refuses.
    """
    with workspace.lock():
        if name in workspace.damaged():
            (workspace.path(name) / RECORD).unlink()
            repair(workspace, workspace.libvirt())
            return sorted(workspace.path(name).iterdir()) if workspace.path(name).is_dir() else []
        vm = workspace.find(name)
        repair(workspace, workspace.libvirt(vm.uri))
        return remove(workspace, vm)


def delete_each(workspace: Workspace, names: Iterable[str]) -> list[Path]:
    """Delete several clones; none is deleted if one of the names belongs to a machine that builder did not make."""
    names = list(dict.fromkeys(names))
    for name in names:
        ownership.require_known(workspace, name)
    return [path for name in names for path in delete(workspace, name)]


def delete_all(workspace: Workspace, vms: Iterable[Vm]) -> None:
    """Delete clones that were just created; one that cannot be deleted does not keep the others."""
    with ExitStack() as stack:
        for vm in vms:
            stack.callback(delete, workspace, vm.name)


def remove(workspace: Workspace, vm: Vm) -> list[Path]:
    """Remove a clone, running or not. Call it with the lock held.

    Returns:
        Files in its folder that do not belong to it; they are kept.

    Raises:
        PublishError: libvirt has another machine under its UUID.
        HostError: libvirt refuses.
    """
    folder = workspace.path(vm.name)
    workspace.libvirt(vm.uri).undefine(vm.name, str(vm.uuid))
    dhcp_reservation.drop(vm)
    if (folder / RECORD).exists():
        (folder / RECORD).unlink()
        sync_folder(folder)
    references.leave(workspace.catalogue / vm.image, vm.version, str(vm.uuid))
    return _clear(workspace, vm.name)


def repair(workspace: Workspace, domains: Domains) -> None:
    """Remove what killed processes left: folders without a record, their machines and their references to images.

    Call it with the lock held.
    """
    incomplete = {name for name in workspace.names() if not (workspace.path(name) / RECORD).exists()}
    if not incomplete:
        return
    known = domains.all()
    for name in incomplete:
        folder, machine = workspace.path(name), known.get(name)
        if machine is not None and machine.keepsake is not None and machine.keepsake.get("folder") == str(folder):
            domains.undefine(name, machine.uuid)
        _drop_references(workspace.catalogue, folder)
        _clear(workspace, name)


def require_free(workspace: Workspace, domains: Domains, names: Iterable[str]) -> None:
    """Make sure that these names are free.

    Raises:
        PublishError: a clone, a folder or a machine of libvirt has one of them.
    """
    known = domains.all()
    for name in names:
        folder = workspace.path(name)
        if (folder / RECORD).exists():
            hint = f"choose another name, or: builder vm delete {name}"
            raise PublishError(f"there is already a VM {name}", hint=hint)
        if os.path.lexists(folder):
            raise PublishError(f"{folder} contains files that do not belong to a VM", hint="move them away first")
        if name in known:
            raise PublishError(
                f"libvirt already has a machine {name}, which builder did not make",
                hint="choose another name, or look at it: virsh dominfo " + name,
            )


def _clear(workspace: Workspace, name: str) -> list[Path]:
    """Remove the files of a clone without a record, and its folder; return the files that do not belong to it."""
    for path in workspace.own_files(name):
        path.unlink(missing_ok=True)
    folder = workspace.path(name)
    kept = sorted(folder.iterdir()) if folder.is_dir() else []
    if not kept and folder.is_dir():
        folder.rmdir()
        sync_folder(folder.parent)
    return kept


def _drop_references(catalogue: Path, folder: Path) -> None:
    for entry in catalogue.glob(f"*/{references.FOLDER}/*/*.json"):
        user = references.look(entry).user
        if user is not None and Path(user.disk).parent == folder:
            entry.unlink(missing_ok=True)
