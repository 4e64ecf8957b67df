"""The one rule: an install succeeded only if the guest powered itself off *and* reported our token on ttyS1."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

from builder.adapters import disk, host_facts, hypervisor
from builder.adapters.domain_xml import Disk, MachineSpec, UserNet, render
from builder.adapters.follow import LogFollower
from builder.adapters.machine import Ending, Machine
from builder.adapters.screen import cleaned
from builder.errors import InstallError
from builder.order import Order
from builder.stage import Inputs, Job, Stage
from builder.stages import answers, medium
from builder.stages.machines import identity, keep_picture, stretched, tail
from builder.stages.verdict import Verdict, judge

FILE = "disk.raw"
# The installer writes its log to a port of this name when there is one (Anaconda 21.48, anaconda_log.py).
LOG_PORT = "org.fedoraproject.anaconda.log.0"
MIB = 1 << 20
# Bytes of the console that are looked at for proof of a failure: a few screens.
SCREENFUL = 16384
PICTURE_EVERY = 15.0
SETTLED = 0.05
HINT = "see the console"
HINTS = {
    "reset": "end the kickstart with `poweroff`: a reboot would start the installer again",
    "time limit": "limits.install of the recipe sets the time",
    "watch": "look at screenshot.png: an installer that asks a question waits for ever",
}


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


def run(job: Job) -> None:
    """Boot the medium on an empty disk and wait for the installer to finish.

    Raises:
        HostError: no libvirt, no access, not enough room.
        InstallError: the guest ended in any other way than by powering itself off with our token said.
    """
    host_facts.require_space(job.out, job.inputs.disk_size, "the disk to install to")
    disk.create(job.out / FILE, job.inputs.disk_size, "raw")
    reports = job.scratch / "ttyS1.log"
    log = job.scratch / "anaconda.log"
    screen = job.scratch / "ttyS0.log"
    with hypervisor.connect(job.settings.uri) as host:
        accel = host.choose_accel(job.settings.accel, job.settings.require_kvm)
        job.progress.note(f"{accel.name.upper()}: {accel.why}")
        spec = _spec(job, accel.name, screen, reports, log)
        (job.evidence / "domain.xml").write_text(render(spec), encoding="utf-8")
        with (
            job.ledger.spend("guest"),
            LogFollower(reports, job.evidence / "ttyS1.log") as said,
            LogFollower(log, job.evidence / "anaconda.log") as logged,
            # Not the stream that is read for signs: a pty drops what nobody takes in time, the log daemon does not.
            LogFollower(screen, job.evidence / "console.log") as shown,
            host.boot(spec, job.scratch / "console.stream", keep=job.settings.keep_failed) as machine,
        ):
            limits = stretched(job.settings.patience, accel.name)
            picture = job.evidence / "screenshot.png"
            watch = Watch(machine, job.evidence / "anaconda.log", picture, limits.quiet)
            ending = machine.wait_off(limits.install, job.progress.beat, watch=watch.look)
            if ending.how != "shutdown":
                keep_picture(machine, picture)
            # libvirt's log daemon may still hold the last lines.
            for follower in (said, logged, shown):
                follower.settle(quiet=SETTLED)
        # With the machine gone, every byte of its logs is in the evidence.
        if ending.how != "shutdown":
            raise _failed(job, ending, watch.verdict)
    _require_token(job)


class Watch:
    """Notices an install that has failed but does not end: proof in its words, or no sign of life for too long."""

    def __init__(self, machine: Machine, log: Path, picture: Path, quiet: float) -> None:
        self.verdict: Verdict | None = None
        self._machine, self._log, self._picture, self._quiet = machine, log, picture, quiet
        self._pictured = 0.0
        self._seen: tuple[int, int, int] | None = None
        self._since = time.monotonic()

    def look(self) -> str | None:
        """The reason to give up; None while all may still go well."""
        log = self._log.stat().st_size if self._log.exists() else 0
        now = (self._machine.console.total, log, self._machine.disk_bytes())
        clock = time.monotonic()
        if clock - self._pictured >= PICTURE_EVERY:
            # A machine that is gone shows nothing any more, so the evidence has its last picture.
            keep_picture(self._machine, self._picture)
            self._pictured = clock
        if now != self._seen:
            self._seen, self._since = now, clock
            self.verdict = judge(cleaned(self._machine.console.tail[-SCREENFUL:])) or judge(tail(self._log))
            return self.verdict.cause if self.verdict else None
        if clock - self._since < self._quiet:
            return None
        return f"no sign of life for {self._quiet:.0f} s: console, installer log and disk are all quiet"


def _spec(job: Job, accel: Literal["kvm", "tcg"], screen: Path, reports: Path, log: Path) -> MachineSpec:
    who = identity(job.run_id, "install")
    given = job.inputs
    start = medium.boot(job.needs["medium"])
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
        disks=(Disk(job.out / FILE, "raw", answers.DISK_SERIAL),),
        cdroms=start.cdroms,
        kernel=start.kernel,
        boot="cdrom",
        serial1=reports,
        channels={LOG_PORT: log},
        network=UserNet(restrict=True),
        on_reboot="destroy",
    )


def _require_token(job: Job) -> None:
    """The guest powered off; it must have said that it came to the end of *these* answers."""
    said = (job.evidence / "ttyS1.log").read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in said.splitlines()]
    if f"BUILDER INSTALLED {job.digests['answers']}" in lines:
        return
    others = [line for line in lines if line.startswith("BUILDER INSTALLED ")]
    what = "reported another kickstart's token" if others else "never reported success"
    raise InstallError(
        f"the guest powered itself off, but {what}",
        "\n".join(others) or _last_words(job),
        f"the end of %post was not reached; see {job.evidence}/console.log",
    )


def _failed(job: Job, ending: Ending, verdict: Verdict | None) -> InstallError:
    where = f"evidence: {job.evidence}"
    if verdict is not None:
        return InstallError(f"install: {verdict.cause}", verdict.line, f"{verdict.hint}; {where}")
    return InstallError(f"install: {ending.reason}", _last_words(job), f"{HINTS.get(ending.how, HINT)}; {where}")


def _last_words(job: Job) -> str:
    return tail(job.evidence / "anaconda.log") or tail(job.evidence / "console.log")


STAGE = Stage("install", 1, ("medium", "answers"), inputs, run, "install unattended", drop=True)
