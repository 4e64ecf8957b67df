"""The request for a bridge over an uplink, as an administrator makes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Name = Literal["networkmanager", "ifcfg", "runtime"]


@dataclass(frozen=True)
class BridgeRequest:
    """Requested bridge; of a family without addresses the uplink's own move, static or leased as they are."""

    bridge: str
    uplink: str
    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    backend: Name | Literal["auto"] = "auto"
    confirm: bool = False
    within: float = 60.0
