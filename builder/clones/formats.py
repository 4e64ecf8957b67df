"""Lists of clones for other programs, from the records alone: JSON, ssh_config(5), inventories of Ansible."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from builder.clones.login import ssh_options
from builder.clones.record import Vm
from builder.clones.workspace import Workspace


def as_dict(workspace: Workspace, vm: Vm) -> dict[str, Any]:
    """Return a clone for programs."""
    return {**vm.model_dump(mode="json"), "folder": str(workspace.path(vm.name))}


def ssh_config(workspace: Workspace, vms: Iterable[Vm]) -> str:
    """Return one Host block of ssh_config(5) for each clone."""
    blocks = []
    for vm in vms:
        lines = [f"  {name} {_quoted(value)}" for name, value in ssh_options(workspace, vm).items()]
        blocks.append("\n".join([f"Host {vm.name}", *lines, ""]))
    return "\n".join(blocks)


def ansible_inventory(workspace: Workspace, vms: Iterable[Vm]) -> str:
    """Return an inventory in Ansible's INI form, with one group for each image."""
    groups: dict[str, list[str]] = {}
    for vm in vms:
        options = ssh_options(workspace, vm)
        facts = {
            "ansible_host": options["HostName"],
            "ansible_port": options["Port"],
            "ansible_user": options["User"],
            **({"ansible_ssh_private_key_file": options["IdentityFile"]} if "IdentityFile" in options else {}),
            "ansible_ssh_common_args": " ".join(
                f"-o {name}={options[name]}" for name in ("HostKeyAlias", "UserKnownHostsFile", "StrictHostKeyChecking")
            ),
        }
        words = [vm.name, *(f"{name}={_ini(value)}" for name, value in facts.items())]
        groups.setdefault(re.sub(r"[^A-Za-z0-9_]", "_", vm.image), []).append(" ".join(words))
    return "\n".join("\n".join([f"[{group}]", *hosts, ""]) for group, hosts in groups.items())


def _quoted(value: str) -> str:
    return f'"{value}"' if " " in value else value


def _ini(value: str) -> str:
    return f"'{value}'" if re.search(r"[\s#;=]", value) else value
