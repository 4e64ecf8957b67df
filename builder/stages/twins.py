"""Two test VMs of a sealed image, side by side: booted, watched, examined and compared.

It is imported when `verify` runs, for no plan needs it. One VM shows which files hold the private keys on the disk
(`builder.stages.key_owners`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from builder.diagnosis import evidence
from builder.errors import BuilderError, Cause, Diagnosis, Source, VerifyError
from builder.guest import ssh
from builder.guest.ssh import GuestSession
from builder.stage import Job
from builder.stages import launch, seal
from builder.stages.examine import GuestFacts, examine
from builder.stages.key_owners import KeyOwner, trace
from builder.stages.launch import BackingDisk
from builder.stages.machine_inputs import VerifyInputs
from builder.stages.test_vm import TestVm, boot_test_vm, keep_evidence, require_running, save_held
from builder.system.host_facts import Accel
from builder.system.screen import last_line
from builder.vm import networks
from builder.vm.connection import Hypervisor
from builder.vm.machine_spec import Network

# Evidence: every private key on the disk, and the file that holds it.
KEYS = "private_keys.txt"
ROLES = ("twin-a", "twin-b")
INSTANT = ("instant-a", "instant-b")
BEAT_EVERY = 1.0
# Seconds between a connection that broke off and the news of why: a dying QEMU closes its sockets before it is gone.
AFTERMATH = 0.5
LAST_WORDS = 4096


def prove(job: Job[VerifyInputs], sealed: Path) -> tuple[str, list[KeyOwner], list[GuestFacts]]:
    """Boot, examine and compare two copies; where the recipe says `warm`, two instant clones of the image as well.

    Returns:
        How they were run (`kvm` or `tcg`), who owns the private keys on the disk, and what each of them showed.
    """
    owners: list[KeyOwner] = []

    def inspect(session: GuestSession) -> None:
        owners.extend(trace(session, seal.private_keys(job.needs["seal"]), job.inputs.allow_private_keys))
        require_harmless(job, owners)

    with launch.connected(job) as (host, accel):
        job.progress.note(f"booting two copies with {accel.name.upper()}")
        network = networks.network_of(job.inputs.network, job.inputs.network_name, job.host.uri)
        backing = BackingDisk(sealed)
        # The disk below both is the same: one of them is enough to look at it.
        examined = _side_by_side(job, host, accel, ROLES, backing, network, inspect)
        compare(*examined)
        if job.inputs.warm:
            job.progress.note("booting a third copy, to save it while it waits for an identity")
            saved = save_held(job, host, accel, backing, network)
            job.progress.note("two instant clones go on from it")
            instant = _side_by_side(job, host, accel, INSTANT, replace(backing, saved=saved), network)
            compare(*instant)
            examined += instant
    return accel.name, owners, examined


def _side_by_side(
    job: Job[VerifyInputs],
    host: Hypervisor,
    accel: Accel,
    roles: Sequence[str],
    backing: BackingDisk,
    network: Network,
    inspect: Callable[[GuestSession], None] | None = None,
) -> list[GuestFacts]:
    """Start test VMs beside each other, and examine them; `inspect` looks at the first of them."""
    key = ssh.make_keypair()
    with (
        ThreadPoolExecutor(len(roles), thread_name_prefix="verify") as pool,
        # Inside the pool: when anything fails the machines go first, and what waits for them ends by itself.
        ExitStack() as machines,
    ):
        vms = [boot_test_vm(job, host, accel, role, backing, network, key, machines) for role in roles]
        machines.enter_context(job.ledger.spend("guest"))
        examined = [
            pool.submit(examine, job, vms[0], job.inputs.checks, inspect),
            *(pool.submit(examine, job, vm, job.inputs.checks) for vm in vms[1:]),
        ]
        try:
            _watch(job, vms, examined)
        except BuilderError:
            for vm in vms:
                keep_evidence(job, vm)
            raise
        return [future.result() for future in examined]


def require_harmless(job: Job[VerifyInputs], owners: Sequence[KeyOwner]) -> None:
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
    error = VerifyError(
        f"the image holds a private key: {first.path or f'byte {first.offset} of the disk, in no file'}",
        "\n".join(map(str, secret[:10])),
        hint,
    )
    error.diagnosis = Diagnosis(Cause.SECRET_IN_IMAGE, str(first), Source.PRIVATE_KEYS)
    raise error


def kept_keys(owners: Sequence[KeyOwner]) -> list[dict[str, object]]:
    """List the files of the image that hold private keys, each with the reason and the number of keys."""
    counts = Counter((one.path, one.package if one.intact else "allowed by the recipe") for one in owners)
    return [{"path": path, "source": source, "keys": number} for (path, source), number in sorted(counts.items())]


def _watch(job: Job[VerifyInputs], vms: list[TestVm], examined: list[Future[GuestFacts]]) -> None:
    """Report how the copies come up until both are examined; the first that fails raises what it found."""
    start = time.monotonic()
    pending: set[Future[GuestFacts]] = set(examined)
    while pending:
        done, pending = wait(pending, timeout=BEAT_EVERY, return_when=FIRST_EXCEPTION)
        # First: a machine that is gone is why nothing answers any more.
        failed = any(future.exception() for future in done)
        for vm in vms:
            require_running(job, vm, VerifyError, within=AFTERMATH if failed else 0.0)
        for future in done:
            future.result()
        minutes, seconds = divmod(int(time.monotonic() - start), 60)
        vm = vms[seconds // 2 % len(vms)]
        line = last_line(vm.machine.console.tail[-LAST_WORDS:])
        job.progress.beat(f"{minutes}:{seconds:02d} · {vm.role}: {line}")


def compare(first: GuestFacts, second: GuestFacts) -> None:
    """Make sure that what makes a machine this machine differs between two of one image.

    Raises:
        VerifyError: naming what is the same.
    """
    names = ("machine_id", "hostname", "mac", "random_bytes")
    same = [name for name in names if getattr(first, name) == getattr(second, name)]
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
