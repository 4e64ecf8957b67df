"""Lists of clones for other programs, from the records alone: JSON, ssh_config(5), inventories of Ansible."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from builder.clones.login import ssh_options
from builder.clones.record import Vm
from builder.clones.workspace import Workspace
from builder.guest import ssh_words


def as_dict(workspace: Workspace, vm: Vm) -> dict[str, Any]:
    """Return a clone for programs."""
    return {**vm.model_dump(mode="json"), "folder": str(workspace.path(vm.name))}


def where(vm: Vm) -> str:
    """Return where its sshd is, for people; the network of that card where its address is not known yet."""
    address = vm.ssh_address
    if address is None:
        return vm.cards[vm.way_in].network
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def ssh_config(workspace: Workspace, vms: Iterable[Vm]) -> str:
    """Return one Host block of ssh_config(5) for each clone; a comment for one whose address is not known yet."""
    blocks = (
        ssh_words.config(vm.name, ssh_options(workspace, vm)) if vm.ssh_address else f"{_unknown(vm)}\n" for vm in vms
    )
    return "\n".join(blocks)


def _unknown(vm: Vm) -> str:
    return f"# the address of {vm.name} is not known yet; builder vm ssh {vm.name} finds it"


def ansible_inventory(workspace: Workspace, vms: Iterable[Vm]) -> str:
    """Return an inventory in Ansible's INI form, with one group for each image; comments as in `ssh_config`."""
    groups: dict[str, list[str]] = {}
    for vm in vms:
        line = ssh_words.inventory_line(vm.name, ssh_options(workspace, vm)) if vm.ssh_address else _unknown(vm)
        groups.setdefault(re.sub(r"[^A-Za-z0-9_]", "_", vm.image), []).append(line)
    return "\n".join("\n".join([f"[{group}]", *hosts, ""]) for group, hosts in groups.items())
