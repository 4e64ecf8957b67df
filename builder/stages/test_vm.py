"""Throw-away virtual machines over a disk that is only read: started, watched, and logged in to.

`verify` proves an image with two of them; `provision` changes one and keeps its disk.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from builder.diagnosis import evidence
from builder.diagnosis.classify import classify, of_ending
from builder.diagnosis.patterns import Origin
from builder.diagnosis.watchdog import flooded, read_texts
from builder.errors import BuilderError, Source, VerifyError, failed_machine
from builder.guest import login, ssh
from builder.guest.cards import CardSetup
from builder.guest.login import AddressLookup, Endpoint, Guest, Login
from builder.guest.seed import RANDOM, Identity, files
from builder.iso import seed_cd
from builder.stage import Inputs, Job
from builder.stages import launch
from builder.stages.launch import BackingDisk
from builder.stages.machine_inputs import MachineInputs
from builder.system import host_facts, reflink, retry
from builder.system.host_facts import Accel
from builder.system.tail import last_lines
from builder.vm import held, qemu_img
from builder.vm.connection import Hypervisor
from builder.vm.domain_xml import render
from builder.vm.domains import HELD
from builder.vm.log_follower import LogFollower
from builder.vm.machine import Machine
from builder.vm.machine_spec import SYSTEM_DISK_SERIAL, BridgeNet, Disk, Layer, MachineSpec, Network, UserNet
from builder.vm.names import machine_names

MIB = 1 << 20
CONSOLE_END = 16384


@dataclass(frozen=True)
class TestVm:
    """A test VM that was started.

    Args:
        reports: the text of its ttyS1.
        console: the text of its ttyS0.
        limit: seconds from the start until root must be in.
        started: when, by the monotonic clock.
        stop: set when the machine is being taken away, for those who wait for it.
    """

    role: str
    instance: str
    machine: Machine
    reports: Path
    console: Path
    key: ssh.PrivateKey
    limit: float
    started: float
    stop: threading.Event

    @property
    def left(self) -> float:
        """Seconds that are left until root must be in."""
        return max(1.0, self.limit - (time.monotonic() - self.started))


def boot_test_vm(
    job: Job[MachineInputs],
    host: Hypervisor,
    accel: Accel,
    role: str,
    backing: BackingDisk,
    network: Network,
    key: ssh.KeyPair,
    machines: ExitStack,
) -> TestVm:
    """Start one test VM: a throw-away overlay of the disk, and a seed of its own.

    Args:
        role: names it, and its files in the evidence.
        key: root accepts it.
        machines: takes the machine away when it is closed.
    """
    instance = f"{job.run_id}-{role}"
    overlay = job.scratch / f"{role}.qcow2"
    if backing.saved is None:
        qemu_img.create(overlay, backing.size, "qcow2", backing=(backing.path, backing.format))
    else:
        reflink.take(backing.saved, overlay)
    seed = job.scratch / f"{role}.iso"
    identity = Identity(instance, role, (key.public,), (CardSetup(machine_names(job.run_id, role).mac),))
    random = os.urandom(RANDOM) if backing.saved is not None else b""
    seed_cd.write_iso(seed, seed_cd.IDENTITY_LABEL, files(identity, random), mode=0o444)
    spec = _spec(job, accel, role, backing, network)
    reports, console = job.evidence / f"{role}.ttyS1.log", job.evidence / f"{role}.console.log"
    evidence.write(job.evidence / f"{role}.xml", render(spec))
    machines.enter_context(LogFollower(job.scratch / f"{role}.ttyS1", reports))
    # Not the stream that is logged in through: a pty drops what nobody takes in time, the log daemon does not.
    machines.enter_context(LogFollower(job.scratch / f"{role}.ttyS0", console))
    stop = threading.Event()
    machine = machines.enter_context(launch.started(job, host, spec, job.scratch / f"{role}.stream"))
    started = time.monotonic()
    machines.callback(stop.set)
    limit = job.build.timeouts.scaled_for(accel.name).boot
    return TestVm(role, instance, machine, reports, console, key.private, limit, started, stop)


def _spec(job: Job[MachineInputs], accel: Accel, role: str, backing: BackingDisk, network: Network) -> MachineSpec:
    names = machine_names(job.run_id, role)
    hardware = job.inputs
    layer = Layer(backing.path, backing.format)
    return MachineSpec(
        name=names.name,
        uuid=names.uuid,
        run_id=job.run_id,
        role=role,
        mac=names.mac,
        console_log=job.scratch / f"{role}.ttyS0",
        machine=hardware.machine,
        # Two translated machines share the host's processors; more virtual ones would only take turns.
        vcpus=hardware.vcpus if accel.name == "kvm" else max(1, min(hardware.vcpus, host_facts.cpu_count() // 2)),
        memory=hardware.memory // MIB,
        accel=accel.name,
        host_phys_bits=host_facts.phys_bits(),
        firmware=hardware.firmware,
        nvram=job.scratch / f"{role}.nvram" if hardware.firmware == "uefi" else None,
        devices=hardware.devices,
        disks=(Disk(job.scratch / f"{role}.qcow2", "qcow2", SYSTEM_DISK_SERIAL, backing=(layer,)),),
        cdroms=(job.scratch / f"{role}.iso",),
        serial1=job.scratch / f"{role}.ttyS1",
        network=network,
        saved=HELD if backing.saved is not None else None,
        on_reboot="restart",
    )


def save_held(job: Job[MachineInputs], host: Hypervisor, accel: Accel, backing: BackingDisk, network: Network) -> Path:
    """Boot an overlay until it waits for an identity, and save its machine inside that overlay, which is returned.

    Raises:
        VerifyError: it does not wait, or does not boot.
        HostError: libvirt or QEMU cannot save it.
    """
    role = "held"
    overlay = job.scratch / f"{role}.qcow2"
    qemu_img.create(overlay, backing.size, "qcow2", backing=(backing.path, backing.format))
    spec = replace(_spec(job, accel, role, backing, network), hold=True, mac="", cdroms=())
    evidence.write(job.evidence / f"{role}.xml", render(spec))
    reports, console = job.evidence / f"{role}.ttyS1.log", job.evidence / f"{role}.console.log"
    with (
        LogFollower(job.scratch / f"{role}.ttyS1", reports),
        LogFollower(job.scratch / f"{role}.ttyS0", console),
        launch.started(job, host, spec, job.scratch / f"{role}.stream") as machine,
        job.ledger.spend("guest"),
        failed_machine(role),
    ):
        limit = job.build.timeouts.scaled_for(accel.name).boot
        login.wait_held(reports, console, within=limit, over=machine.gone, error=VerifyError)
        held.save(host, spec.uuid)
    return overlay


def require_running(job: Job[Inputs], vm: TestVm, error: type[BuilderError], *, within: float = 0.0) -> None:
    """Make sure that a test VM runs, and that its console does not show that it will never come up.

    Args:
        within: seconds in which it may still turn out that it is gone.

    Raises:
        BuilderError: (`error`) with the cause that its end or its console shows.
        HostError: libvirt went away.
    """
    ending = retry.until(vm.machine.gone, within=within)
    if ending is None:
        text = "".join(read_texts({Source.CONSOLE: vm.console}, CONSOLE_END).values())
        verdict = (
            classify(text, Source.CONSOLE, Origin.GUEST)
            or flooded(vm.console.stat().st_size, Source.CONSOLE)
            or flooded(vm.reports.stat().st_size, Source.GUEST_REPORT)
        )
    else:
        log = f"{vm.role}.qemu.log"
        evidence.keep_qemu_log(job, vm.machine.spec.name, log)
        texts = read_texts({Source.CONSOLE: vm.console})
        verdict = of_ending(ending, texts, evidence.qemu_words(job, log), origin=Origin.GUEST)
    if verdict is not None:
        raise verdict.to_error(error, vm.role, f"{verdict.line}\n{last_lines(vm.console)}".strip())


def keep_evidence(job: Job[Inputs], vm: TestVm) -> None:
    """Keep what a test VM leaves that failed: its screen, QEMU's log, its console as text."""
    vm.machine.keep_screenshot(job.evidence / f"{vm.role}.png")
    evidence.keep_qemu_log(job, vm.machine.spec.name, f"{vm.role}.qemu.log")
    evidence.make_readable(vm.console)


@contextmanager
def ssh_session(job: Job[Inputs], vm: TestVm, error: type[BuilderError]) -> Iterator[Login]:
    """Log in over SSH, with the host key that the test VM reported on ttyS1.

    Raises:
        BuilderError: (`error`) it reported none, has no address, or does not let root in.
    """
    guest = Guest(vm.role, vm.instance, vm.reports, vm.console, _where(vm), error, f"see {vm.console}")
    wait = login.Wait(vm.left, stop=vm.stop.is_set, note=job.progress.note)
    with failed_machine(vm.role), login.log_in(guest, vm.key, wait) as opened:
        yield opened


def _where(vm: TestVm) -> Endpoint | AddressLookup:
    network = vm.machine.spec.network
    if isinstance(network, UserNet):
        return Endpoint("127.0.0.1", vm.machine.ssh_port or 0)
    bridge = network.name if isinstance(network, BridgeNet) else None
    return AddressLookup(vm.machine.spec.mac, bridge, vm.machine.address)
