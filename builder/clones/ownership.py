"""Find the machine that a name means: a clone, or with force one that builder did not make.

Invariant: a machine that builder did not make is touched only with force.
"""

from __future__ import annotations

from builder.clones.record import Vm
from builder.clones.workspace import Workspace
from builder.errors import PublishError
from builder.vm.domains import Domains


def find_clone(workspace: Workspace, name: str) -> Vm:
    """Return the clone of this name.

    Raises:
        PublishError: there is no such clone, or its record is damaged; a machine that builder did not make gets a
            message of its own.
    """
    require_known(workspace, name)
    return workspace.find(name)


def resolve(workspace: Workspace, name: str, *, force: bool) -> tuple[Domains, Vm | None]:
    """Return the libvirt that a machine is on, and its record; None for one that builder did not make.

    Args:
        force: accept a machine that builder did not make.

    Raises:
        PublishError: see `find_clone`.
    """
    try:
        vm = workspace.find(name)
    except PublishError:
        if force and workspace.libvirt().look(name) is not None:
            return workspace.libvirt(), None
        vm = find_clone(workspace, name)
    return workspace.libvirt(vm.uri), vm


def require_known(workspace: Workspace, name: str) -> None:
    """Make sure that builder knows a VM of this name, be its record damaged.

    Raises:
        PublishError: it does not; a machine that builder did not make gets a message of its own.
    """
    if name in workspace.damaged():
        return
    try:
        workspace.find(name)
    except PublishError:
        if workspace.libvirt().look(name) is not None:
            raise PublishError(
                f"{name} was not made by builder and is left alone",
                f"it is a machine of libvirt at {workspace.uri}",
                "use virsh, or --force with start, stop and console",
            ) from None
        raise
