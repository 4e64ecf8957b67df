"""Warm states: machines that were booted once and saved before they had an identity, for clones to go on from.

Invariant: a state is an object of the store, complete or not there, and only copies of it are opened. Its digest has
all that decides whether a machine can go on from it: the image, the machine, QEMU and libvirt, and the host's CPU.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree as ET

from pydantic import ValidationError

from builder import images
from builder.clones.record import DISK, Vm, spec
from builder.errors import HostError
from builder.guest import login
from builder.images import Image
from builder.settings import TCG_FACTOR, Paths, Timeouts
from builder.stage import Inputs, Job, Ledger, ReasonKind, Stage, Step, digest
from builder.store import gc, runs
from builder.store.store import Record, Store
from builder.system import host_facts, reflink
from builder.vm import domain_xml, held, qemu_img
from builder.vm.connection import Hypervisor
from builder.vm.machine_spec import Disk, MachineSpec, UserNet
from builder.vm.names import machine_names

_NOWHERE = Path("/")


class WarmInputs(Inputs):
    """All that decides a state, and whether a machine can go on from it.

    Args:
        sha256: of the image's disk.
        base: its file, which the disk of the state names.
        disk_size: bytes that the guest sees.
        machine: the machine that is saved, as libvirt's XML; names and files are left out.
        qemu, libvirt: versions, as numbers (major · 1000000 + minor · 1000 + release).
        cpu: name and features of the host's.
    """

    image: str
    version: str
    sha256: str
    base: str
    disk_size: int
    machine: str
    qemu: int
    libvirt: int
    cpu: str


def _not_a_stage(_job: Job[WarmInputs]) -> None:
    raise AssertionError("a warm state is made by `opened`")


def _inputs_of(given: WarmInputs) -> WarmInputs:
    return given


STAGE = Stage("warm", 1, (), _inputs_of, _not_a_stage, "boot once, and save")


@dataclass(frozen=True)
class StoredState:
    """A state as the store has it.

    Args:
        created: UTC, ISO 8601.
        bytes: that it takes on the host.
    """

    inputs: WarmInputs
    digest: str
    created: str
    bytes: int

    @property
    def shape(self) -> str:
        """Return what clones have to be like to go on from it, for people."""
        machine = ET.fromstring(self.inputs.machine)
        vcpus = machine.find("vcpu")
        count = vcpus.get("current", vcpus.text) if vcpus is not None else "?"
        kind = "TCG" if machine.get("type") == "qemu" else "KVM"
        return f"{count} vCPUs, {machine.findtext('memory')} MiB, {kind}"


@dataclass
class WarmState:
    """A state that is there.

    Args:
        report: told people's lines.
        seconds: that it took to be made, just now; None for one that was there.
        refused: nobody can go on from it.
    """

    digest: str
    record: Record
    folder: Path
    report: Callable[[str], None]
    seconds: float | None = None
    refused: bool = False

    @property
    def bytes(self) -> int:
        """Bytes that it takes on the host."""
        return (self.folder / DISK).stat().st_blocks * 512

    def copy(self, target: Path) -> bool:
        """Give a clone its disk, with blocks that are shared where the file system can; whether the state is sound.

        Raises:
            HostError: it cannot be written.
        """
        if self.refused:
            return False
        sha256, _ = reflink.take(self.folder / DISK, target)
        target.chmod(0o600)
        if sha256 == self.record.files[DISK].sha256:
            return True
        target.unlink()
        self.refuse("it is damaged")
        return False

    def refuse(self, why: str) -> None:
        """Have it dropped when the block of `opened` ends."""
        self.refused = True
        self.report(f"not instant, booting: the warm state is thrown away, for {why}")


def inputs(image: Image, vm: Vm, versions: tuple[int, int]) -> WarmInputs:
    """Return what decides the state from which a clone would go on.

    Args:
        versions: of QEMU and of libvirt, see `held.versions`.
    """
    pattern = _machine(vm, _NOWHERE, "held", uuid.UUID(int=0), "")
    cpu = host_facts.cpu()
    return WarmInputs(
        image=image.name,
        version=image.version,
        sha256=image.sha256,
        base=str(image.disk.absolute()),
        disk_size=vm.disk_size,
        machine=domain_xml.render(pattern),
        qemu=versions[0],
        libvirt=versions[1],
        cpu=" ".join([cpu.model, *sorted(cpu.flags)]),
    )


@contextmanager
def opened(paths: Paths, image: Image, vm: Vm, host: Hypervisor, report: Callable[[str], None]) -> Iterator[WarmState]:
    """Keep the state from which clones like this one can go on for the length of the block; it is made if need be.

    Nothing is left of one that cannot be made, or is killed while it is made.

    Args:
        report: called with lines of progress for people.

    Raises:
        HostError: there can be none: because of the firmware, the image or this host.
    """
    if vm.firmware == "uefi":
        raise HostError("QEMU cannot save a running machine with UEFI inside its disk")
    if image.facts.has_cloud_init:
        raise HostError("cloud-init gives the image its identity, and cannot wait for one")
    store = Store(paths.store)
    given = inputs(image, vm, held.versions(host))
    step = Step(STAGE, given, digest(STAGE, given, {}), "run", "asked for", ReasonKind.FIRST_RUN)
    run_id = runs.new_id()
    gc.sweep(store, paths.runs, host.sweep)
    state = None
    try:
        with runs.register(store, run_id, {step.digest}):
            with images.using(image):
                state = _found_or_made(store, step, run_id, image, vm, host, report)
            yield state
    finally:
        if state is not None and state.refused:
            gc.drop(store, step.digest)


def states(store: Store) -> Iterator[StoredState]:
    """Yield all states of the store."""
    try:
        folders = sorted(store.objects.iterdir())
    except (FileNotFoundError, PermissionError):
        # None yet; or another user's store, which may be entered and not listed.
        return
    for folder in folders:
        record = store.load(folder.name)
        if record is not None and record.stage == STAGE.name:
            with suppress(ValidationError, OSError):
                given = WarmInputs.model_validate(record.inputs)
                yield StoredState(given, record.digest, record.created, (folder / DISK).stat().st_blocks * 512)


def orphans(store: Store) -> frozenset[str]:
    """Return the digests of the states whose image version is gone."""
    return frozenset(state.digest for state in states(store) if not Path(state.inputs.base).exists())


def drop_orphans(store: Store) -> int:
    """Remove the states whose image version is gone; returns the bytes freed."""
    return sum(gc.drop(store, name) for name in orphans(store))


def _found_or_made(
    store: Store,
    step: Step,
    run_id: str,
    image: Image,
    vm: Vm,
    host: Hypervisor,
    report: Callable[[str], None],
) -> WarmState:
    def waiting(holder: str) -> None:
        report(f"waiting for the warm state that {holder or 'somebody'} makes")

    with store.building(step, run_id, {}, on_wait=waiting) as build:
        seconds = None
        record = build.found
        if record is None:
            report(f"making a warm state of {image.name}@{image.version}: booting it once")
            start = time.monotonic()
            _make(image, vm, host, run_id, build.out, build.scratch)
            seconds = time.monotonic() - start
            record = build.finish(Ledger(accel=vm.accel), seconds)
            report(f"the warm state is made, after {seconds:.0f} s")
    return WarmState(step.digest, record, store.path(step.digest), report, seconds)


def _make(image: Image, vm: Vm, host: Hypervisor, run_id: str, out: Path, scratch: Path) -> None:
    names = machine_names(run_id, "warm")
    disk = out / DISK
    qemu_img.create(disk, vm.disk_size, "qcow2", backing=(image.disk, "qcow2"))
    disk.chmod(0o600)
    machine = _machine(vm, scratch, names.name, names.uuid, run_id)
    machine = replace(machine, disks=(replace(machine.disks[0], path=disk),))
    within = Timeouts().boot * (TCG_FACTOR if vm.accel == "tcg" else 1)
    with host.boot(machine, scratch / "stream") as running:
        login.wait_held(scratch / "ttyS1", scratch / "ttyS0", within=within, over=running.gone, error=HostError)
        held.save(host, names.uuid)


def _machine(vm: Vm, folder: Path, name: str, own: uuid.UUID, run_id: str) -> MachineSpec:
    """Return the machine that is saved for clones like this one."""
    like = spec(vm, folder)
    disk = Disk(folder / DISK, "qcow2", like.disks[0].serial, backing=like.disks[0].backing, cache="unsafe")
    return replace(
        like,
        name=name,
        uuid=own,
        run_id=run_id,
        role="warm",
        mac="",
        disks=(disk,),
        cdroms=(),
        console_log=folder / "ttyS0",
        serial1=folder / "ttyS1",
        network=next((card.network for card in like.cards if not isinstance(card.network, UserNet)), UserNet()),
        other_cards=(),
        hold=True,
        keepsake=None,
    )
