"""Give the disk of a clone another base, or none.

Invariant: the guest sees the same bytes before and after. What the two bases differ in is copied first and the new base
named last, so a command that is killed in between leaves a disk that is right on either; run again, it is finished.
"""

from __future__ import annotations

from datetime import UTC, datetime

from builder import images
from builder.clones import ownership
from builder.clones.lifecycle import apply, require_base, require_disk, state_of
from builder.clones.record import DISK, Vm
from builder.clones.workspace import Workspace
from builder.errors import PublishError
from builder.images import User
from builder.vm import held, qemu_img


def rebase(workspace: Workspace, name: str, image: str | None) -> Vm:
    """Rebase the disk of a clone onto another image version.

    Args:
        image: `NAME` or `NAME@VERSION`; None is the latest version of the clone's image.

    Raises:
        PublishError: the clone runs, has snapshots (which need the old base), or a base is gone.
    """
    vm = ownership.find_clone(workspace, name)
    base = images.load_image(workspace.catalogue, image or vm.image)
    with workspace.lock(), images.using(base):
        vm = _stopped(workspace, name)
        if vm.base is not None and base.disk.samefile(vm.base):
            # Perhaps by another path: what would be entered and left is one reference.
            return vm
        target = workspace.path(name) / DISK
        old = require_disk(workspace, vm)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        images.enter(base, User(str(vm.uuid), "clone", name, str(target), since))
        qemu_img.rebase(target, old, base.disk.absolute())
        update = {"base": str(base.disk.absolute()), "image": base.name, "version": base.version}
        return _recorded(workspace, vm, vm.model_copy(update=update))


def flatten(workspace: Workspace, name: str) -> Vm:
    """Copy into the disk of a clone what it needs of its base, so that it needs none.

    Raises:
        PublishError: see `rebase`.
    """
    ownership.find_clone(workspace, name)
    with workspace.lock():
        vm = _stopped(workspace, name)
        target = workspace.path(name) / DISK
        qemu_img.rebase(target, require_disk(workspace, vm), None)
        return _recorded(workspace, vm, vm.model_copy(update={"base": None}))


def _stopped(workspace: Workspace, name: str) -> Vm:
    """Return a clone whose base can be exchanged."""
    vm = workspace.find(name)
    domains = workspace.libvirt(vm.uri)
    state = state_of(vm, domains.look(name))
    if state not in ("off", "undefined"):
        raise PublishError(f"{name} is running", hint=f"builder vm stop {name}")
    if vm.base is None:
        raise PublishError(f"{name} already has a disk of its own, without a base")
    require_base(vm)
    held.forget(domains, name, workspace.path(name) / DISK)
    if state == "off" and domains.snapshots(name):
        raise PublishError(f"{name} has snapshots, which need its base", hint=f"builder vm snapshot {name}")
    return vm


def _recorded(workspace: Workspace, old: Vm, new: Vm) -> Vm:
    apply(workspace, new)
    images.leave(workspace.catalogue / old.image, old.version, str(old.uuid))
    return new
