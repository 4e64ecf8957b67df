"""Connects a stage to libvirt and starts its machines; the time until they run is booked as `host`, not `guest`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from builder.stage import Inputs, Job
from builder.system.host_facts import Accel
from builder.vm import connection
from builder.vm.connection import Hypervisor
from builder.vm.machine import Machine
from builder.vm.machine_spec import MachineSpec


@dataclass(frozen=True)
class BackingDisk:
    """The disk that a test VM lies over.

    Args:
        size: bytes that its guest sees; None for the size of this disk.
        saved: a disk over it with a saved machine inside (`builder.vm.held`); the VM goes on from a copy of it.
    """

    path: Path
    format: Literal["raw", "qcow2"] = "qcow2"
    size: int | None = None
    saved: Path | None = None


@contextmanager
def connected(job: Job[Inputs]) -> Iterator[tuple[Hypervisor, Accel]]:
    """Open libvirt and choose the accelerator for the stage's machines.

    Raises:
        HostError: libvirt does not answer.
        KvmError: KVM was asked for and is not there.
    """
    with ExitStack() as opened:
        with job.ledger.spend("host"):
            host = opened.enter_context(connection.connect(job.host.uri))
            accel = host.choose_accel(job.host.accel, job.host.require_kvm)
        job.ledger.accel = accel.name
        yield host, accel


@contextmanager
def started(job: Job[Inputs], host: Hypervisor, spec: MachineSpec, console: Path) -> Iterator[Machine]:
    """Start a machine, see `Hypervisor.boot`; a failed one is kept if the settings say so."""
    with ExitStack() as running:
        with job.ledger.spend("host"):
            machine = running.enter_context(host.boot(spec, console, keep=job.host.keep_failed))
        yield machine
