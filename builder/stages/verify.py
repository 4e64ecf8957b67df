"""Boot two copies of the sealed disk side by side, and see that they let root in and differ where they must.

One of them says whose files the private keys on the disk are in (`builder.stages.key_owners`).

Invariant: the copies are throw-away overlays; the sealed file is never written to, and is hashed again at the end.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from builder.adapters import guest, hypervisor
from builder.adapters.guest import GuestSession
from builder.adapters.screen import last_line
from builder.errors import BuilderError, Proof, VerifyError
from builder.hashing import sha256_file
from builder.order import Order
from builder.stage import Inputs, Job, Stage
from builder.stages import evidence, seal
from builder.stages.key_owners import KeyOwner, trace
from builder.stages.machines import keep_picture
from builder.stages.twin import Base, Twin, TwinReport, boot_twin, examine, require_well

FILE = "verify.json"
# Evidence: every private key on the disk, and the file that holds it.
KEYS = "private_keys.txt"
ROLES = ("twin-a", "twin-b")
BEAT_EVERY = 1.0
# Seconds between a door that broke off and the news of why: a dying QEMU closes its sockets before it is gone.
AFTERMATH = 0.5
LAST_WORDS = 4096


class VerifyInputs(Inputs):
    """The machines that the copies run on (memory in bytes), what they must show, and which paths may hold keys."""

    vcpus: int
    memory: int
    firmware: Literal["bios", "uefi"]
    devices: Literal["virtio", "emulated"]
    machine: Literal["q35", "pc"]
    checks: tuple[tuple[str, str], ...]
    allow_private_keys: tuple[str, ...] = ()
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
        allow_private_keys=order.recipe.verify.allow_private_keys,
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
    accel, owners, first, second = _boot_and_examine(job, sealed)
    _compare(first, second)
    with job.ledger.spend("hash", sealed.stat().st_size):
        found = sha256_file(sealed)
    if found != expected:
        raise VerifyError("the sealed image changed while its copies ran", f"sealed as {expected}\nfound     {found}")
    record = {
        "sealed": found,
        "accel": accel,
        "private_keys": kept_keys(owners),
        "twins": {report.role: report.as_dict() for report in (first, second)},
    }
    (job.out / FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _boot_and_examine(job: Job, sealed: Path) -> tuple[str, list[KeyOwner], TwinReport, TwinReport]:
    """Return how the copies were run (`kvm` or `tcg`), who owns the private keys on the disk, and what they showed."""
    key = guest.make_keypair()
    owners: list[KeyOwner] = []

    def inspect(session: GuestSession) -> None:
        owners.extend(trace(session, seal.private_keys(job.needs["seal"]), job.inputs.allow_private_keys))
        require_harmless(job, owners)

    with (
        job.ledger.spend("guest"),
        hypervisor.connect(job.settings.uri) as host,
        ThreadPoolExecutor(len(ROLES), thread_name_prefix="twin") as pool,
        # Inside the pool: when anything fails the machines go first, and what waits for them ends by itself.
        ExitStack() as machines,
    ):
        accel = host.choose_accel(job.settings.accel, job.settings.require_kvm)
        job.ledger.accel = accel.name
        job.progress.note(f"booting two copies with {accel.name.upper()}")
        twins = [boot_twin(job, host, accel, role, Base(sealed), key, machines) for role in ROLES]
        # The disk is the same below both: it is enough that one says what is on it.
        examined = [
            pool.submit(examine, job, twins[0], inspect),
            *(pool.submit(examine, job, one) for one in twins[1:]),
        ]
        try:
            _watch(job, twins, examined)
        except BuilderError:
            for twin in twins:
                keep_picture(twin.machine, job.evidence / f"{twin.role}.png")
                evidence.keep_qemu_log(job, twin.machine.spec.name, f"{twin.role}.qemu.log")
                evidence.make_readable(job.evidence / f"{twin.role}.console.log")
            raise
        first, second = (future.result() for future in examined)
    return accel.name, owners, first, second


def require_harmless(job: Job, owners: Sequence[KeyOwner]) -> None:
    """Refuse private keys that are neither in an unchanged file of a package nor in a file that the recipe names.

    Raises:
        VerifyError: the first of them, and the others in its details; all of them are in the evidence.
    """
    secret = [one for one in owners if not one.harmless]
    if not secret:
        for kept in kept_keys(owners):
            job.progress.note(f"private keys in the image: {kept['keys']} in {kept['path']} ({kept['source']})")
        return
    evidence.write(job.evidence / KEYS, "".join(f"{one}\n" for one in owners))
    first = secret[0]
    hint = "remove it at the end of %post, or name it in verify.allow_private_keys if everybody may have it"
    if not first.path:
        hint = "let %post end with `fstrim`, or write zeros over free space and swap: deleted files are still there"
    fault = VerifyError(
        f"the image holds a private key: {first.path or f'byte {first.offset} of the disk, in no file'}",
        "\n".join(map(str, secret[:10])),
        hint,
    )
    fault.proof = Proof("secret in image", str(first), KEYS)
    raise fault


def kept_keys(owners: Sequence[KeyOwner]) -> list[dict[str, object]]:
    """List the files of the image that hold private keys, each with the reason and the number of keys."""
    counts = Counter((one.path, one.package if one.intact else "allowed by the recipe") for one in owners)
    return [{"path": path, "source": source, "keys": number} for (path, source), number in sorted(counts.items())]


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
        )


STAGE = Stage("verify", 5, ("seal",), inputs, run, "boot two copies and log in as root")
