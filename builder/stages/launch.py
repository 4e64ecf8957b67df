"""Connects a stage to libvirt and starts its machines; the time until they run is booked as `host`, not `guest`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from builder.adapters import hypervisor
from builder.adapters.domain_xml import MachineSpec
from builder.adapters.host_facts import Accel
from builder.adapters.hypervisor import Hypervisor
from builder.adapters.machine import Machine
from builder.stage import Job


@contextmanager
def connected(job: Job) -> Iterator[tuple[Hypervisor, Accel]]:
    """Open libvirt and choose the accelerator for the stage's machines.

    Raises:
        HostError: libvirt does not answer.
        KvmError: KVM was asked for and is not there.
    """
    with ExitStack() as opened:
        with job.ledger.spend("host"):
            host = opened.enter_context(hypervisor.connect(job.settings.uri))
            accel = host.choose_accel(job.settings.accel, job.settings.require_kvm)
        job.ledger.accel = accel.name
        yield host, accel


@contextmanager
def started(job: Job, host: Hypervisor, spec: MachineSpec, console: Path) -> Iterator[Machine]:
    """Start a machine, see `Hypervisor.boot`; a failed one is kept if the settings say so."""
    with ExitStack() as running:
        with job.ledger.spend("host"):
            machine = running.enter_context(host.boot(spec, console, keep=job.settings.keep_failed))
        yield machine
