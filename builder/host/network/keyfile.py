"""Write NetworkManager profiles as keyfiles (nm-settings-keyfile(5)).

Invariant: existing profiles stay untouched. Ours win by autoconnect-priority, so removing them restores the old ones.
"""

from __future__ import annotations

import uuid
from pathlib import Path

from builder.host.network.validate import BridgePlan

FOLDER = Path("/etc/NetworkManager/system-connections")
PRIORITY = 100
_NAMESPACE = uuid.UUID("5a0f7c3e-5d43-4b52-9c1e-2f2d7c0d9a11")


def render(plan: BridgePlan) -> dict[Path, str]:
    """The two profiles of a bridge; NetworkManager ignores files that others than root may read."""
    name = f"builder-{plan.bridge}"
    port = f"builder-{plan.bridge}-{plan.uplink}"
    mtu = {"mtu": str(plan.mtu)} if plan.mtu else {}
    bridge = {
        "connection": {**_connection(name), "type": "bridge", "interface-name": plan.bridge},
        "ethernet": mtu,
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
        "ethernet": mtu,
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
    for number, route in enumerate((route for route in plan.routes if route.version == version), 1):
        words = [route.network, *([route.gateway] if route.gateway else [])]
        if route.priority:
            # A metric comes after a gateway, if need be one of nothing but zeros.
            words = [route.network, route.gateway or {4: "0.0.0.0", 6: "::"}[version], str(route.priority)]
        section[f"route{number}"] = ",".join(words)
        options = [f"{key}={value}" for key, value in sorted(route.options())]
        if options:
            section[f"route{number}_options"] = ",".join(options)
    if plan.dhcp if version == 4 else plan.auto6:
        section["method"] = "auto"
    elif addresses:
        section["method"] = "manual"
    else:
        # Without a word of its own, IPv6 is left to what routers advertise: that is NetworkManager's default.
        section["method"] = "auto" if version == 6 else "disabled"
    return section


def _text(sections: dict[str, dict[str, str]]) -> str:
    blocks = [
        "".join([f"[{name}]\n", *(f"{key}={value}\n" for key, value in values.items())])
        for name, values in sections.items()
    ]
    return "\n".join(blocks)
