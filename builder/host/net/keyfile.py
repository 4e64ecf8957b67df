"""The one rule: NetworkManager gets profiles in its own keyfile form, ours beside the old ones, which stay untouched.

Ours win by autoconnect-priority, so taking our files away brings the old ones back. Form: nm-settings-keyfile(5).
"""

from __future__ import annotations

import uuid
from pathlib import Path

from builder.host.net.plan import BridgePlan

FOLDER = Path("/etc/NetworkManager/system-connections")
PRIORITY = 100
_NAMESPACE = uuid.UUID("5a0f7c3e-5d43-4b52-9c1e-2f2d7c0d9a11")


def render(plan: BridgePlan) -> dict[Path, str]:
    """The two profiles of a bridge; NetworkManager ignores files that others than root may read."""
    name = f"builder-{plan.bridge}"
    port = f"builder-{plan.bridge}-{plan.uplink}"
    bridge = {
        "connection": {**_connection(name), "type": "bridge", "interface-name": plan.bridge},
        "ethernet": {},
        "bridge": {"mac-address": plan.mac.upper(), "stp": "false"},
        "ipv4": _ip(plan, 4),
        "ipv6": _ip(plan, 6),
    }
    uplink = {
        "connection": {
            **_connection(port),
            "type": "ethernet",
            "interface-name": plan.uplink,
            "master": plan.bridge,
            "slave-type": "bridge",
        },
        "ethernet": {},
        "bridge-port": {},
    }
    return {
        FOLDER / f"{name}.nmconnection": _text(bridge),
        FOLDER / f"{port}.nmconnection": _text(uplink),
    }


def _connection(name: str) -> dict[str, str]:
    return {"id": name, "uuid": str(uuid.uuid5(_NAMESPACE, name)), "autoconnect-priority": str(PRIORITY)}


def _ip(plan: BridgePlan, version: int) -> dict[str, str]:
    addresses, gateway, dns = plan.of(version)
    section = {f"address{number}": text for number, text in enumerate(addresses, 1)}
    if addresses and gateway:
        section["address1"] += f",{gateway}"
    if dns:
        section["dns"] = "".join(f"{server};" for server in dns)
    if addresses:
        section["method"] = "manual"
    else:
        section["method"] = "auto" if plan.dhcp or version == 6 else "disabled"
    return section


def _text(sections: dict[str, dict[str, str]]) -> str:
    blocks = [
        "".join([f"[{name}]\n", *(f"{key}={value}\n" for key, value in values.items())])
        for name, values in sections.items()
    ]
    return "\n".join(blocks)
