"""The one rule: an install succeeded only if the guest powered itself off *and* reported our token on ttyS1."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from builder.diagnosis import evidence
from builder.diagnosis.classify import Verdict, of_ending
from builder.diagnosis.limits import identity, keep_picture, stretched, tail, tightened
from builder.diagnosis.watchdog import Watch
from builder.errors import Cause, InstallError, Source
from builder.recipe.build_spec import Order
from builder.settings import Settings
from builder.stage import Inputs, Job, Stage
from builder.stages import kickstart, remaster
from builder.system import host_facts, process
from builder.vm import connection, qemu_img
from builder.vm.domain_xml import Disk, MachineSpec, UserNet, render
from builder.vm.log_follower import LogFollower
from builder.vm.machine import Ending

FILE = "disk.raw"
# The installer writes its log to a port of this name when there is one (Anaconda 21.48, anaconda_log.py).
LOG_PORT = "org.fedoraproject.anaconda.log.0"
MIB = 1 << 20
SETTLED = 0.05
EVERY = 1.0  # seconds between two looks at what the guest said


class InstallInputs(Inputs):
    """The machine that is installed; sizes in bytes."""

    vcpus: int
    memory: int
    firmware: Literal["bios", "uefi"]
    devices: Literal["virtio", "emulated"]
    machine: Literal["q35", "pc"]
    disk_size: int


def inputs(order: Order) -> InstallInputs:
    """Machine and disk of the recipe."""
    chosen = order.recipe.machine
    return InstallInputs(
        vcpus=chosen.vcpus,
        memory=chosen.memory,
        firmware=chosen.firmware,
        devices=chosen.devices,
        machine=chosen.machine,
        disk_size=order.recipe.disk.size,
    )


def ahead(given: InstallInputs, settings: Settings) -> None:
    """What an hour of fetching would otherwise come before.

    Raises:
        HostError: no qemu-img, or no room for the disk.
    """
    process.find("qemu-img")
    host_facts.require_space(settings.store, given.disk_size, "the disk to install to")


def run(job: Job) -> None:
    """Boot the medium on an empty disk and wait for the installer to finish.

    Raises:
        HostError: no libvirt, no access, not enough room.
        InstallError: the guest ended in any other way than by powering itself off with our token said.
    """
    host_facts.require_space(job.out, job.inputs.disk_size, "the disk to install to")
    qemu_img.create(job.out / FILE, job.inputs.disk_size, "raw")
    evidence.keep_kickstart(job)
    reports = job.scratch / "ttyS1.log"
    log = job.scratch / "anaconda.log"
    screen = job.scratch / "ttyS0.log"
    console = job.evidence / evidence.CONSOLE
    with connection.connect(job.settings.uri) as host:
        accel = host.choose_accel(job.settings.accel, job.settings.require_kvm)
        job.ledger.accel = accel.name
        job.progress.note(f"{accel.name.upper()}: {accel.why}")
        spec = _spec(job, accel.name, screen, reports, log)
        evidence.write(job.evidence / evidence.DOMAIN, render(spec))
        killed = host_facts.oom_kills()
        with (
            job.ledger.spend("guest"),
            LogFollower(reports, job.evidence / "ttyS1.log") as said,
            LogFollower(log, job.evidence / evidence.LOG) as logged,
            # Not the stream that is logged in through: a pty drops what nobody takes in time, the log daemon does not.
            LogFollower(screen, console) as shown,
            host.boot(spec, job.scratch / "console.stream", keep=job.settings.keep_failed) as machine,
        ):
            limits = tightened(job.settings, accel.name)
            if limits != stretched(job.settings.patience, accel.name):
                job.progress.note(
                    f"given up after {limits.install:.0f} s, or {limits.quiet:.0f} s quiet: earlier runs needed less"
                )
            picture = job.evidence / evidence.PICTURE
            watch = Watch(machine, console, job.evidence / evidence.LOG, picture, limits.quiet)
            ending = machine.wait_off(limits.install, job.progress.beat, every=EVERY, watch=watch.look)
            job.ledger.waited("quiet", watch.quietest)
            if ending.how != "shutdown":
                keep_picture(machine, picture)
            # libvirt's log daemon may still hold the last lines.
            for follower in (said, logged, shown):
                follower.settle(quiet=SETTLED)
    # With the machine gone, every byte of its logs is in the evidence.
    evidence.make_readable(console)
    evidence.keep_qemu_log(job, spec.name)
    if ending.how != "shutdown":
        raise _failed(job, ending, watch.verdict, oom=host_facts.oom_kills() > killed)
    _require_token(job, ending)


def _spec(job: Job, accel: Literal["kvm", "tcg"], screen: Path, reports: Path, log: Path) -> MachineSpec:
    who = identity(job.run_id, "install")
    given = job.inputs
    start = remaster.boot(job.needs["medium"])
    return MachineSpec(
        name=who.name,
        uuid=who.uuid,
        run_id=job.run_id,
        role="install",
        mac=who.mac,
        console_log=screen,
        machine=given.machine,
        vcpus=given.vcpus,
        memory=given.memory // MIB,
        accel=accel,
        host_phys_bits=host_facts.phys_bits(),
        firmware=given.firmware,
        nvram=job.scratch / "nvram.fd" if given.firmware == "uefi" else None,
        devices=given.devices,
        disks=(Disk(job.out / FILE, "raw", kickstart.DISK_SERIAL),),
        cdroms=start.cdroms,
        kernel=start.kernel,
        boot="cdrom",
        serial1=reports,
        channels={LOG_PORT: log},
        network=UserNet(restrict=True),
        on_reboot="destroy",
    )


def _require_token(job: Job, ending: Ending) -> None:
    """The guest powered off; it must have said that it came to the end of *these* answers."""
    said = (job.evidence / "ttyS1.log").read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in said.splitlines()]
    if f"BUILDER INSTALLED {job.digests['answers']}" in lines:
        return
    others = [line for line in lines if line.startswith("BUILDER INSTALLED ")]
    if others:
        found = Verdict(Cause.FOREIGN_MARKER, others[0], Source.GUEST_REPORT)
    else:
        found = of_ending(ending, evidence.texts(job), "")
    details = found.words if others or found.cause is not Cause.NO_MARKER else _last_words(job)
    raise found.to_error(InstallError, "install", details)


def _failed(job: Job, ending: Ending, seen: Verdict | None, *, oom: bool) -> InstallError:
    found = seen or of_ending(ending, evidence.texts(job), evidence.qemu_words(job), oom=oom)
    proved = seen is not None and found.cause is not Cause.STALLED
    details = found.words if proved else f"{found.words}\n{_last_words(job)}".strip()
    return found.to_error(InstallError, "install", details)


def _last_words(job: Job) -> str:
    return tail(job.evidence / evidence.LOG) or tail(job.evidence / evidence.CONSOLE)


STAGE = Stage("install", 1, ("medium", "answers"), inputs, run, "install unattended", drop=True, ahead=ahead)
