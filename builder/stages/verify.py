"""The one rule: an image is good when two copies of it, booted side by side, let root in and differ where they must.

The copies are throw-away overlays; the sealed file is never written to, and is hashed again at the end.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from builder.diagnosis import evidence
from builder.diagnosis.limits import keep_picture
from builder.errors import BuilderError, Cause, VerifyError
from builder.guest import ssh
from builder.recipe.build_spec import Order
from builder.stage import Inputs, Job, Stage
from builder.stages import seal
from builder.stages.test_vm import Base, Twin, TwinReport, boot_twin, examine, require_well
from builder.system.digests import sha256_file
from builder.vm import connection
from builder.vm.screen import last_line

FILE = "verify.json"
ROLES = ("twin-a", "twin-b")
BEAT_EVERY = 1.0
# Seconds between a door that broke off and the news of why: a dying QEMU closes its sockets before it is gone.
AFTERMATH = 0.5
LAST_WORDS = 4096


class VerifyInputs(Inputs):
    """The machines that the copies run on (memory in bytes), and what they must show."""

    vcpus: int
    memory: int
    firmware: Literal["bios", "uefi"]
    devices: Literal["virtio", "emulated"]
    machine: Literal["q35", "pc"]
    checks: tuple[tuple[str, str], ...]
    network: Literal["user", "nat", "bridge"] = "user"
    network_name: str | None = None


def inputs(order: Order) -> VerifyInputs:
    """Machine and checks of the recipe."""
    chosen = order.recipe.machine
    return VerifyInputs(
        vcpus=chosen.vcpus,
        memory=chosen.memory,
        firmware=chosen.firmware,
        devices=chosen.devices,
        machine=chosen.machine,
        checks=tuple((check.name, check.run) for check in order.recipe.verify.checks),
        network=order.recipe.network.mode,
        network_name=order.recipe.network.name,
    )


def run(job: Job) -> None:
    """Boot the twins, log in on both ways, compare them, and see that the sealed file is what it was.

    Raises:
        VerifyError: naming the twin and what it failed; nothing is published.
    """
    sealed = job.needs["seal"] / seal.FILE
    expected = json.loads((job.needs["seal"] / seal.FACTS).read_text(encoding="utf-8"))["sha256"]
    accel, first, second = _boot_and_examine(job, sealed)
    _compare(first, second)
    with job.ledger.spend("hash", sealed.stat().st_size):
        found = sha256_file(sealed)
    if found != expected:
        details = f"sealed as {expected}\nfound     {found}"
        raise VerifyError("the sealed image changed while its copies ran", details, cause=Cause.CORRUPT)
    record = {"sealed": found, "accel": accel, "twins": {report.role: report.as_dict() for report in (first, second)}}
    (job.out / FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _boot_and_examine(job: Job, sealed: Path) -> tuple[str, TwinReport, TwinReport]:
    """How the copies were run (`kvm` or `tcg`), and what they showed."""
    key = ssh.make_keypair()
    with (
        job.ledger.spend("guest"),
        connection.connect(job.settings.uri) as host,
        ThreadPoolExecutor(len(ROLES), thread_name_prefix="twin") as pool,
        # Inside the pool: when anything fails the machines go first, and what waits for them ends by itself.
        ExitStack() as machines,
    ):
        accel = host.choose_accel(job.settings.accel, job.settings.require_kvm)
        job.ledger.accel = accel.name
        job.progress.note(f"booting two copies with {accel.name.upper()}")
        twins = [boot_twin(job, host, accel, role, Base(sealed), key, machines) for role in ROLES]
        examined = [pool.submit(examine, job, twin) for twin in twins]
        try:
            _watch(job, twins, examined)
        except BuilderError:
            for twin in twins:
                keep_picture(twin.machine, job.evidence / f"{twin.role}.png")
                evidence.keep_qemu_log(job, twin.machine.spec.name, f"{twin.role}.qemu.log")
                evidence.make_readable(job.evidence / f"{twin.role}.console.log")
            raise
        first, second = (future.result() for future in examined)
    return accel.name, first, second


def _watch(job: Job, twins: list[Twin], examined: list[Future[TwinReport]]) -> None:
    """Tell how the copies come up until both are examined; the first that fails raises what it found."""
    start = time.monotonic()
    pending: set[Future[TwinReport]] = set(examined)
    while pending:
        done, pending = wait(pending, timeout=BEAT_EVERY, return_when=FIRST_EXCEPTION)
        # First: a machine that is gone is why nobody answers at its doors.
        failed = any(future.exception() for future in done)
        for twin in twins:
            require_well(job, twin, VerifyError, within=AFTERMATH if failed else 0.0)
        for future in done:
            future.result()
        minutes, seconds = divmod(int(time.monotonic() - start), 60)
        twin = twins[seconds // 2 % len(twins)]
        line = last_line(twin.machine.console.tail[-LAST_WORDS:])
        job.progress.beat(f"{minutes}:{seconds:02d} · {twin.role}: {line}")


def _compare(first: TwinReport, second: TwinReport) -> None:
    same = [name for name in ("machine_id", "hostname", "mac") if getattr(first, name) == getattr(second, name)]
    if first.address and first.address == second.address:
        same.append("address")
    if set(first.host_keys) & set(second.host_keys):
        same.append("host_keys")
    if same:
        values = "\n".join(f"{name}: {getattr(first, name)}" for name in same)
        raise VerifyError(
            f"two copies of the image have the same {' and '.join(same).replace('_', ' ')}",
            values,
            "what makes a machine this machine must not be in the image: see the end of the kickstart's %post",
            cause=Cause.COPIES_ALIKE,
        )


STAGE = Stage("verify", 4, ("seal",), inputs, run, "boot two copies and log in as root")
