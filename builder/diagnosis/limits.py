"""The one rule: what a machine is called and how long it may take follow from run, role and host alone."""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from dataclasses import dataclass
from pathlib import Path

from builder.errors import HostError
from builder.settings import Patience, Settings
from builder.vm.machine import Machine

# Limits are written for KVM; a guest whose every instruction is translated gets this much more.
TCG_FACTOR = 4.0
# What earlier runs needed never takes more than this from a limit: a host may be busier tonight than it ever was.
LEAST = 0.25
_NAMESPACE = uuid.UUID("6f7f9f5e-6a3f-5f0e-9d0c-7d3b0c6a1e55")


@dataclass(frozen=True)
class Identity:
    """Names of one machine of a run; the same run and role always give the same ones."""

    name: str
    uuid: uuid.UUID
    mac: str


def identity(run_id: str, role: str) -> Identity:
    """Domain name, UUID and MAC address (in QEMU's 52:54:00 range) of one machine."""
    spoken = f"{run_id}/{role}"
    tail = hashlib.sha256(spoken.encode()).hexdigest()[:6]
    mac = ":".join(("52", "54", "00", tail[:2], tail[2:4], tail[4:]))
    return Identity(f"builder-{run_id}-{role}", uuid.uuid5(_NAMESPACE, spoken), mac)


def stretched(given: Patience, accel: str) -> Patience:
    """The recipe's limits for this accelerator."""
    factor = TCG_FACTOR if accel == "tcg" else 1.0
    return Patience(given.install * factor, given.quiet * factor, given.boot * factor)


def tightened(settings: Settings, accel: str) -> Patience:
    """The same, and no more than earlier runs have shown to be needed, but at least a quarter of the recipe's."""
    wide = stretched(settings.patience, accel)
    seen = settings.learned.get(accel, wide)

    def least(given: float, learned: float) -> float:
        return max(LEAST * given, min(given, learned))

    return Patience(least(wide.install, seen.install), least(wide.quiet, seen.quiet), wide.boot)


def keep_picture(machine: Machine, path: Path) -> None:
    """A screenshot for the evidence, if the machine still is there to give one."""
    with contextlib.suppress(HostError):
        machine.screenshot(path)


def tail(path: Path, lines: int = 8) -> str:
    """The last lines of a log, for an error message; empty when there is none."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 8192))
        text = file.read().decode("utf-8", "replace")
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])
