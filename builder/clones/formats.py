"""The one rule: what other tools read about clones follows from their records alone."""

from __future__ import annotations

import re
from pathlib import Path

from builder.clones.login import ssh_options
from builder.clones.record import Vm


def ssh_config(vms: Path, listed: list[Vm]) -> str:
    """A piece of ssh_config(5): one Host block a clone."""
    blocks = []
    for vm in listed:
        lines = [f"  {name} {_quoted(value)}" for name, value in ssh_options(vms, vm).items()]
        blocks.append("\n".join([f"Host {vm.name}", *lines, ""]))
    return "\n".join(blocks)


def ansible_inventory(vms: Path, listed: list[Vm]) -> str:
    """An inventory in Ansible's INI form: one group an image."""
    groups: dict[str, list[str]] = {}
    for vm in listed:
        options = ssh_options(vms, vm)
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
