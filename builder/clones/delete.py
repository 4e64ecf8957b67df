"""The one rule: a clone takes with it exactly what it owned, its record first."""

from __future__ import annotations

import json
import os
from pathlib import Path

from builder.clones import dhcp_reservation
from builder.clones.record import RECORD, Vm, folders, own_files
from builder.errors import PublishError
from builder.images import references
from builder.system.atomic_file import sync_folder
from builder.vm.domains import Domains


def remove(vms: Path, catalogue: Path, domains: Domains, vm: Vm) -> list[Path]:
    """Remove a clone, running or not; files in its folder that are not its own are returned and stay.

    Call it with the lock held.

    Raises:
        PublishError: libvirt has another machine under its UUID.
        HostError: libvirt refuses.
    """
    folder = vms / vm.name
    domains.undefine(vm.name, str(vm.uuid))
    dhcp_reservation.drop(vm)
    if (folder / RECORD).exists():
        (folder / RECORD).unlink()
        sync_folder(folder)
    references.leave(catalogue / vm.image, vm.version, str(vm.uuid))
    return clear(folder)


def clear(folder: Path) -> list[Path]:
    """Remove the files of a clone without a record, and its folder; what is not its own is returned and stays."""
    for path in own_files(folder):
        path.unlink(missing_ok=True)
    left = sorted(folder.iterdir()) if folder.is_dir() else []
    if not left and folder.is_dir():
        folder.rmdir()
        sync_folder(folder.parent)
    return left


def mend(vms: Path, catalogue: Path, domains: Domains) -> None:
    """Remove what killed processes left: folders without a record, machines that point to them, entries of users.

    Call it with the lock held.
    """
    torn = {name for name in folders(vms) if not (vms / name / RECORD).exists()}
    if not torn:
        return
    known = domains.all()
    for name in torn:
        found = known.get(name)
        if found is not None and found.keepsake is not None and found.keepsake.get("folder") == str(vms / name):
            domains.undefine(name, found.uuid)
        _leave_all(catalogue, vms / name)
        clear(vms / name)


def _leave_all(catalogue: Path, folder: Path) -> None:
    for entry in catalogue.glob(f"*/{references.FOLDER}/*/*.json"):
        try:
            disk = str(json.loads(entry.read_bytes())["disk"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if Path(disk).parent == folder:
            entry.unlink(missing_ok=True)


def require_free(vms: Path, domains: Domains, names: list[str]) -> None:
    """Make sure that nobody bears these names.

    Raises:
        PublishError: a clone, a folder or a machine of libvirt's does.
    """
    known = domains.all()
    for name in names:
        if (vms / name / RECORD).exists():
            raise PublishError(f"there is a VM {name} already", hint=f"take another name, or: builder vm delete {name}")
        if os.path.lexists(vms / name):
            raise PublishError(f"{vms / name} holds files that are no clone's", hint="move them away first")
        if name in known:
            raise PublishError(
                f"libvirt has a machine {name} already, which is not a clone of these images",
                hint="take another name, or look at it: virsh dominfo " + name,
            )
