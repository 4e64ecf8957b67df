"""The stage that boots a disk, changes it as the recipe says, and generalises it.

Invariant: a disk that was booted becomes an image only after the generalise script, with nothing of builder's on it.
The machine is an overlay of what the installer left, or of a published image (`from:`); both are only read. The result
has no backing file, and is searched, sealed and verified like a disk that was never booted.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from builder import images
from builder.diagnosis import evidence
from builder.errors import BuilderError, Cause, HostError, InstallError, Source, UnreachableError
from builder.guest import ansible, ssh
from builder.guest.ssh import GuestSession
from builder.recipe import provision_files
from builder.recipe.build_spec import BuildSpec
from builder.stage import Job, Stage
from builder.stages import install, launch
from builder.stages.machine_inputs import MachineInputs, machine_of
from builder.stages.secret_scan import Fingerprint
from builder.stages.test_vm import BackingDisk, TestVm, boot_test_vm, keep_evidence, require_running, ssh_session
from builder.system import host_facts
from builder.system.screen import last_line
from builder.vm import qemu_img
from builder.vm.machine_spec import UserNet

FILE = install.FILE
# How `seal` recognises the private key of this run on the disk.
RUN_KEY = "run_key.json"
ROLE = "provision"
FOLDER = "/var/tmp/builder-provision"
SCRIPT = Path(__file__).with_name("generalise.sh")
DONE = "BUILDER-GENERALISED"
LOG = "provision.log"
BEAT_EVERY = 1.0
# Seconds that the last command has to notice that the machine was switched off.
AFTERMATH = 10.0
# Seconds between a session that broke off and the news of why.
NEWS = 0.5
LAST_WORDS = 4096


class ProvisionInputs(MachineInputs):
    """The machine, what it is made from, and what is done to it; sizes in bytes, contents by their SHA-256.

    Args:
        base: the published image that is built on, as `name@version`, and its SHA-256; None after an install.
        files: source, SHA-256, path in the guest, mode.
        scripts: source and SHA-256, in the order in which they are run.
        playbook: folder, its SHA-256, and the playbook in it.
        generalise: SHA-256 of the generalise script.
    """

    disk_size: int
    base: tuple[str, str] | None
    files: tuple[tuple[str, str, str, int], ...]
    scripts: tuple[tuple[str, str], ...]
    playbook: tuple[str, str, str] | None
    generalise: str


def inputs(spec: BuildSpec) -> ProvisionInputs:
    """Take machine and provisioning from the recipe."""
    wanted, sha = spec.recipe.provision, spec.provisions
    folder, _, playbook = (wanted.playbook or "").partition("/")
    return ProvisionInputs(
        **machine_of(spec),
        disk_size=spec.recipe.disk.size,
        base=(spec.base.spec, spec.base.sha256) if spec.base else None,
        files=tuple((one.source, sha[one.source], one.path, int(one.mode, 8)) for one in wanted.files),
        scripts=tuple((name, sha[name]) for name in wanted.scripts),
        playbook=(folder, sha[folder], playbook) if playbook else None,
        generalise=hashlib.sha256(SCRIPT.read_bytes()).hexdigest(),
    )


def run(job: Job[ProvisionInputs]) -> None:
    """Boot an overlay, do to it what the recipe says, generalise it, switch it off, and write it as one disk.

    Raises:
        HostError: no libvirt, no access, no ansible-playbook, not enough room.
        InstallError: a script or the playbook failed, or the machine did not come up or go down as it should.
        PublishError: the image that is built on is gone.
    """
    if job.inputs.playbook:
        ansible.require()
    host_facts.require_space(job.out, job.inputs.disk_size, "the disk to provision")
    with _below(job) as base:
        size = max(job.inputs.disk_size, qemu_img.info(base.path, base.format).virtual_size)
        _boot_and_provision(job, BackingDisk(base.path, base.format, size))
        overlay = job.scratch / f"{ROLE}.qcow2"
        with job.ledger.spend("convert", overlay.stat().st_blocks * 512):
            qemu_img.convert(overlay, "qcow2", job.out / FILE, "raw", below=(base.path, base.format))
            qemu_img.grow(job.out / FILE, "raw", size)


@contextmanager
def _below(job: Job[ProvisionInputs]) -> Iterator[BackingDisk]:
    """Hold the base image for as long as it is read."""
    if job.inputs.base is None:
        yield BackingDisk(job.needs["install"] / install.FILE, "raw")
        return
    spec, sha256 = job.inputs.base
    image = images.load_image(job.paths.images, spec)
    with images.using(image):
        if image.sha256 != sha256:
            raise InstallError(f"{spec} is not the image that was planned with", hint="run again")
        yield BackingDisk(image.disk, "qcow2")


def _boot_and_provision(job: Job[ProvisionInputs], base: BackingDisk) -> None:
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
        reply = session.run("sh -s", stdin=SCRIPT.read_bytes(), timeout=quiet)
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


STAGE = Stage("provision", 2, ("install",), inputs, run, "provision the installed system", intermediate=True)
ON_BASE = Stage("provision", 2, (), inputs, run, "provision a published image", intermediate=True)
