"""Names of the machines of a run, by which they are found again after a crash."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass

_NAMESPACE = uuid.UUID("6f7f9f5e-6a3f-5f0e-9d0c-7d3b0c6a1e55")


@dataclass(frozen=True)
class MachineNames:
    """Names of one machine of a run; the same run and role always give the same ones."""

    name: str
    uuid: uuid.UUID
    mac: str


def machine_names(run_id: str, role: str) -> MachineNames:
    """Return domain name, UUID and MAC address (in QEMU's 52:54:00 range) of one machine."""
    spoken = f"{run_id}/{role}"
    tail = hashlib.sha256(spoken.encode()).hexdigest()[:6]
    mac = ":".join(("52", "54", "00", tail[:2], tail[2:4], tail[4:]))
    return MachineNames(f"builder-{run_id}-{role}", uuid.uuid5(_NAMESPACE, spoken), mac)
