"""What the stage `provision` does in its machine. It is imported when the stage runs, for no plan needs it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path

from builder.diagnosis import evidence
from builder.errors import BuilderError, Cause, HostError, InstallError, Source, UnreachableError
from builder.guest import ansible, ssh
from builder.guest.ssh import GuestSession
from builder.recipe import provision_files
from builder.stage import Job
from builder.stages import launch
from builder.stages.launch import BackingDisk
from builder.stages.machine_inputs import GENERALISE, ProvisionInputs
from builder.stages.secret_scan import RUN_KEY, Fingerprint
from builder.stages.test_vm import TestVm, boot_test_vm, keep_evidence, require_running, ssh_session
from builder.system.screen import last_line
from builder.vm.machine_spec import UserNet

ROLE = "provision"
FOLDER = "/var/tmp/builder-provision"
DONE = "BUILDER-GENERALISED"
LOG = "provision.log"
BEAT_EVERY = 1.0
# Seconds that the last command has to notice that the machine was switched off.
AFTERMATH = 10.0
# Seconds between a session that broke off and the news of why.
NEWS = 0.5
LAST_WORDS = 4096


def boot_and_provision(job: Job[ProvisionInputs], base: BackingDisk) -> None:
    """Boot an overlay of the disk, do to it what the recipe says, and wait until it has switched itself off.

    Raises:
        HostError, InstallError: the machine, or what it was to do, failed.
    """
    secret = job.scratch / "key"
    secret.touch(mode=0o600)
    content = ssh.make_private_key()
    secret.write_bytes(content)
    (job.out / RUN_KEY).write_text(json.dumps(asdict(Fingerprint.of(content.strip()))) + "\n", encoding="utf-8")
    private = ssh.load_key(secret)
    key = ssh.KeyPair(private, ssh.public_line(private))
    with (
        launch.connected(job) as (host, accel),
        ThreadPoolExecutor(1, thread_name_prefix=ROLE) as pool,
        # Inside the pool: when anything fails the machine goes first, and what waits for it ends by itself.
        ExitStack() as machines,
    ):
        # What it does beyond booting is nobody's to guess: the recipe's own limits hold.
        limits = job.build.timeouts.scaled_for(accel.name)
        vm = boot_test_vm(job, host, accel, ROLE, base, UserNet(), key, machines)
        machines.enter_context(job.ledger.spend("guest"))
        work = pool.submit(_provision, job, vm, secret, limits.quiet)
        started = time.monotonic()
        try:
            while not wait([work], timeout=BEAT_EVERY).done:
                job.progress.beat(_pulse(vm, time.monotonic() - started))
                _require_alive(job, vm, work)
            if work.exception():
                require_running(job, vm, InstallError, within=NEWS)
            work.result()
            ending = vm.machine.wait_off(limits.boot, job.progress.beat)
            if ending.how != "shutdown":
                raise InstallError(f"provision: the machine did not switch itself off: {ending.reason}")
        except BuilderError as fault:
            keep_evidence(job, vm)
            raise _as_install_error(fault) from fault


def _require_alive(job: Job[ProvisionInputs], vm: TestVm, work: Future[None]) -> None:
    """A machine that is gone before its work was done will answer no more; its last work is to switch itself off."""
    if vm.machine.gone() is None or not wait([work], timeout=AFTERMATH).done:
        require_running(job, vm, InstallError)


def _provision(job: Job[ProvisionInputs], vm: TestVm, secret: Path, quiet: float) -> None:
    """All that happens inside the machine, to its last command."""
    evidence.write(job.evidence / LOG, "")
    with ssh_session(job, vm, UnreachableError) as login, (job.evidence / LOG).open("a", encoding="utf-8") as log:
        session = login.session

        def record(text: str) -> None:
            log.write(text)
            log.flush()

        for source, sha256, path, mode in job.inputs.files:
            record(f"== file {source} -> {path}\n")
            _put(session, path, _taken(job, source, sha256).read_bytes(), mode)
        for source, sha256 in job.inputs.scripts:
            job.progress.note(f"provision: {source}")
            _script(session, source, _taken(job, source, sha256).read_bytes(), record, quiet)
        if job.inputs.playbook:
            folder, sha256, playbook = job.inputs.playbook
            job.progress.note(f"provision: {folder}/{playbook}")
            tree = _taken(job, folder, sha256)
            port = vm.machine.ssh_port or 0
            record(f"== playbook {folder}/{playbook}\n")
            record(ansible.play(tree, playbook, port=port, key=secret, host_key=session.host_key, work=job.scratch))
        record("== generalise\n")
        reply = session.run("sh -s", stdin=GENERALISE.read_bytes(), timeout=quiet)
        record(reply.out + reply.err)
        if reply.status != 0 or DONE not in reply.out:
            brief = "provision: the generalise script failed"
            output = (reply.out + reply.err).strip()
            raise InstallError(brief, output, cause=Cause.PROVISION_FAILED, source=Source.PROVISION_LOG)
        # Once: processes end and file systems are unmounted, but no service gets to write down a state again
        # (systemctl(1), --force), such as a random seed that all copies would share.
        with suppress(UnreachableError):
            session.run("systemctl --force poweroff", timeout=quiet)


def _taken(job: Job[ProvisionInputs], name: str, sha256: str) -> Path:
    target = job.scratch / "sources" / name
    return target if target.exists() else provision_files.take(name, sha256, job.paths.provisions, target)


def _put(session: GuestSession, path: str, content: bytes, mode: int) -> None:
    parent = str(Path(path).parent)
    made = session.run(f"mkdir -p '{parent}'")
    if made.status != 0:
        raise InstallError(f"provision: {parent} cannot be made in the guest", made.err.strip())
    session.put(path, content, mode)
    session.run(f"command -v restorecon > /dev/null && restorecon '{path}'")


def _script(session: GuestSession, source: str, text: bytes, record: Callable[[str], None], quiet: float) -> None:
    place = f"{FOLDER}/{Path(source).name}"
    _put(session, place, text, 0o700)
    reply = session.run(f"cd / && '{place}' 2>&1", timeout=quiet)
    record(f"== script {source}: exit status {reply.status}\n{reply.out}{reply.err}")
    if reply.status != 0:
        words = "\n".join((reply.out + reply.err).strip().splitlines()[-20:])
        brief = f"provision: {source} failed (exit status {reply.status})"
        raise InstallError(brief, words, cause=Cause.PROVISION_FAILED, source=Source.PROVISION_LOG)
    session.run(f"rm -f '{place}'")


def _pulse(vm: TestVm, elapsed: float) -> str:
    minutes, seconds = divmod(int(elapsed), 60)
    return f"{minutes}:{seconds:02d} · {last_line(vm.machine.console.tail[-LAST_WORDS:])}"


def _as_install_error(fault: BuilderError) -> BuilderError:
    """Make a failed build of whatever failed in the machine."""
    if isinstance(fault, HostError | InstallError):
        return fault
    error = InstallError(f"provision: {fault.brief}", fault.details, fault.hint, output=fault.output)
    error.diagnosis = fault.diagnosis
    return error
