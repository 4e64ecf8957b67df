"""The stage that runs the unattended installation.

Invariant: an install succeeded only if the guest powered itself off *and* reported our token on ttyS1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from builder.diagnosis import evidence
from builder.diagnosis.classify import Verdict, of_ending
from builder.diagnosis.watchdog import Watch
from builder.errors import Cause, InstallError, Source
from builder.guest.report import read_report
from builder.recipe.build_spec import BuildSpec
from builder.settings import Settings
from builder.stage import Job, Stage, added
from builder.stages import launch, remaster
from builder.stages.machine_inputs import MachineInputs, machine_of, require_cpu
from builder.system import host_facts, process
from builder.system.tail import last_lines
from builder.vm import networks, qemu_img
from builder.vm.domain_xml import render
from builder.vm.log_follower import LogFollower, settle
from builder.vm.machine import Ending
from builder.vm.machine_spec import SYSTEM_DISK_SERIAL, Disk, MachineSpec, Network, UserNet
from builder.vm.names import machine_names

FILE = "disk.raw"
# The installer writes its log to a port of this name when there is one (Anaconda 21.48, anaconda_log.py).
LOG_PORT = "org.fedoraproject.anaconda.log.0"
MIB = 1 << 20
SETTLED = 0.05
EVERY = 1.0  # seconds between two looks at what the guest said


class InstallInputs(MachineInputs):
    """The machine that is installed, and the network that its installer may use; sizes in bytes."""

    disk_size: int
    network: Literal["none", "user", "nat", "bridge"] = added("none")
    network_name: str | None = added(None)


def inputs(spec: BuildSpec) -> InstallInputs:
    """Take machine, disk and network from the recipe."""
    given, vms = spec.recipe.install, spec.recipe.network
    # A name is that of a network of its mode.
    name = vms.name if vms.mode == given.network else None
    return InstallInputs(**machine_of(spec), disk_size=spec.recipe.disk.size, network=given.network, network_name=name)


def preflight(inputs: InstallInputs, settings: Settings) -> None:
    """Look for what would otherwise be missed after an hour of fetching.

    Raises:
        HostError: no qemu-img, no room for the disk, no such network, or a CPU that is too old for what is installed.
    """
    process.find("qemu-img")
    require_cpu(inputs, settings)
    host_facts.require_space(settings.store, inputs.disk_size, "the disk to install to")
    _network(inputs, settings.uri)


def run(job: Job[InstallInputs]) -> None:
    """Boot the medium on an empty disk and wait for the installer to finish.

    Raises:
        HostError: no libvirt, no access, not enough room.
        InstallError: the guest ended in any other way than by powering itself off with our token reported.
    """
    host_facts.require_space(job.out, job.inputs.disk_size, "the disk to install to")
    qemu_img.create(job.out / FILE, job.inputs.disk_size, "raw")
    evidence.keep_kickstart(job)
    reports = job.scratch / "ttyS1.log"
    log = job.scratch / "anaconda.log"
    screen = job.scratch / "ttyS0.log"
    console = job.evidence / evidence.CONSOLE
    with launch.connected(job) as (host, accel):
        job.progress.note(f"{accel.name.upper()}: {accel.why}")
        if job.inputs.network != "none":
            job.progress.note("not hermetic: the installer may fetch from a network, and fetch something else tomorrow")
        spec = _spec(job, accel.name, screen, reports, log)
        evidence.write(job.evidence / evidence.DOMAIN, render(spec))
        killed = host_facts.oom_kills()
        with (
            LogFollower(reports, job.evidence / "ttyS1.log") as said,
            LogFollower(log, job.evidence / evidence.LOG) as logged,
            # Not the stream that is logged in through: a pty drops what nobody takes in time, the log daemon does not.
            LogFollower(screen, console) as shown,
            launch.started(job, host, spec, job.scratch / "console.stream") as machine,
            job.ledger.spend("guest"),
        ):
            limits = job.build.timeouts.scaled_for(accel.name)
            picture = job.evidence / evidence.PICTURE
            kept = job.evidence / "ttyS1.log"
            watch = Watch(machine, console, job.evidence / evidence.LOG, kept, picture, limits.quiet)
            ending = machine.wait_off(limits.install, job.progress.beat, every=EVERY, watch=watch.look)
            if ending.how != "shutdown":
                machine.keep_screenshot(picture)
            # libvirt's log daemon may still hold the last lines.
            settle(said, logged, shown, quiet=SETTLED)
    # With the machine gone, every byte of its logs is in the evidence.
    evidence.make_readable(console)
    evidence.keep_qemu_log(job, spec.name)
    if ending.how != "shutdown":
        raise _failed(job, ending, watch.verdict, oom=host_facts.oom_kills() > killed)
    _require_token(job, ending)


def _spec(job: Job[InstallInputs], accel: Literal["kvm", "tcg"], screen: Path, reports: Path, log: Path) -> MachineSpec:
    names = machine_names(job.run_id, "install")
    hardware = job.inputs
    start = remaster.boot(job.needs["remaster"])
    return MachineSpec(
        name=names.name,
        uuid=names.uuid,
        run_id=job.run_id,
        role="install",
        mac=names.mac,
        console_log=screen,
        machine=hardware.machine,
        vcpus=hardware.vcpus,
        memory=hardware.memory // MIB,
        accel=accel,
        host_phys_bits=host_facts.phys_bits(),
        firmware=hardware.firmware,
        nvram=job.scratch / "nvram.fd" if hardware.firmware == "uefi" else None,
        devices=hardware.devices,
        disks=(Disk(job.out / FILE, "raw", SYSTEM_DISK_SERIAL),),
        cdroms=start.cdroms,
        kernel=start.kernel,
        boot="cdrom",
        serial1=reports,
        channels={LOG_PORT: log},
        network=_network(job.inputs, job.host.uri),
        on_reboot="destroy",
    )


def _network(given: InstallInputs, uri: str) -> Network:
    """The network of the installing machine; without one, QEMU's own with no way out."""
    if given.network == "none":
        return UserNet(restrict=True)
    return networks.network_of(given.network, given.network_name, uri)


def _require_token(job: Job[InstallInputs], ending: Ending) -> None:
    """The guest powered off; it must have reported that it came to the end of *this* kickstart."""
    installed = read_report(job.evidence / "ttyS1.log").installed
    if job.digests["kickstart"] in installed:
        return
    if installed:
        found = Verdict(Cause.FOREIGN_MARKER, f"BUILDER INSTALLED {installed[0]}", Source.GUEST_REPORT)
    else:
        found = of_ending(ending, evidence.texts(job), "")
    details = found.words if installed or found.cause is not Cause.NO_MARKER else _last_words(job)
    raise found.to_error(InstallError, "install", details)


def _failed(job: Job[InstallInputs], ending: Ending, seen: Verdict | None, *, oom: bool) -> InstallError:
    found = seen or of_ending(ending, evidence.texts(job), evidence.qemu_words(job), oom=oom)
    proved = seen is not None and found.cause is not Cause.STALLED
    details = found.words if proved else f"{found.words}\n{_last_words(job)}".strip()
    return found.to_error(InstallError, "install", details)


def _last_words(job: Job[InstallInputs]) -> str:
    return last_lines(job.evidence / evidence.LOG) or last_lines(job.evidence / evidence.CONSOLE)


STAGE = Stage(
    "install",
    1,
    ("remaster", "kickstart"),
    inputs,
    run,
    "install unattended",
    intermediate=True,
    preflight=preflight,
)
