"""The one rule: what was booted becomes an image only after the generalise script, and with nothing of ours on it.

The machine is an overlay of what the installer left, or of a published image (`from:`); both are only read. What comes
out stands alone again, and goes through the same search, sealing and proof as a disk that was never booted.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from builder import images
from builder.adapters import ansible, disk, guest, host_facts, hypervisor, provisions
from builder.adapters.guest import GuestSession
from builder.adapters.screen import last_line
from builder.adapters.secret_scan import Fingerprint
from builder.errors import BuilderError, HostError, InstallError, UnreachableError
from builder.order import Order
from builder.stage import Inputs, Job, Stage
from builder.stages import evidence, install
from builder.stages.machines import keep_picture, stretched
from builder.stages.twin import Base, Twin, boot_twin, entered, require_well

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


class ProvisionInputs(Inputs):
    """The machine, what it is made from, and what is done to it; sizes in bytes, contents by their SHA-256.

    Args:
        base: the published image that is built on, as `name@version`, and its SHA-256; None after an install.
        files: source, SHA-256, path in the guest, mode.
        scripts: source and SHA-256, in the order in which they are run.
        playbook: folder, its SHA-256, and the playbook in it.
        generalise: SHA-256 of the generalise script.
    """

    vcpus: int
    memory: int
    firmware: Literal["bios", "uefi"]
    devices: Literal["virtio", "emulated"]
    machine: Literal["q35", "pc"]
    disk_size: int
    base: tuple[str, str] | None
    files: tuple[tuple[str, str, str, int], ...]
    scripts: tuple[tuple[str, str], ...]
    playbook: tuple[str, str, str] | None
    generalise: str
    network: Literal["user"] = "user"
    network_name: None = None


def inputs(order: Order) -> ProvisionInputs:
    """Machine and provisioning of the recipe."""
    chosen, wanted, sha = order.recipe.machine, order.recipe.provision, order.provisions
    folder, _, playbook = (wanted.playbook or "").partition("/")
    return ProvisionInputs(
        vcpus=chosen.vcpus,
        memory=chosen.memory,
        firmware=chosen.firmware,
        devices=chosen.devices,
        machine=chosen.machine,
        disk_size=order.recipe.disk.size,
        base=(order.base.spec, order.base.sha256) if order.base else None,
        files=tuple((one.source, sha[one.source], one.path, int(one.mode, 8)) for one in wanted.files),
        scripts=tuple((name, sha[name]) for name in wanted.scripts),
        playbook=(folder, sha[folder], playbook) if playbook else None,
        generalise=hashlib.sha256(SCRIPT.read_bytes()).hexdigest(),
    )


def run(job: Job) -> None:
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
        size = max(job.inputs.disk_size, disk.info(base.path).virtual_size)
        _boot_and_provision(job, Base(base.path, base.format, size))
        overlay = job.scratch / f"{ROLE}.qcow2"
        with job.ledger.spend("convert", overlay.stat().st_blocks * 512):
            disk.convert(overlay, "qcow2", job.out / FILE, "raw")
            disk.grow(job.out / FILE, "raw", size)


@contextmanager
def _below(job: Job) -> Iterator[Base]:
    """What is built on; a published image stays where it is for as long as it is read."""
    if job.inputs.base is None:
        yield Base(job.needs["install"] / install.FILE, "raw")
        return
    spec, sha256 = job.inputs.base
    image = images.load_image(job.settings.images, spec)
    with images.using(image):
        if image.sha256 != sha256:
            raise InstallError(f"{spec} is not the image that was planned with", hint="run again")
        yield Base(image.disk, "qcow2")


def _boot_and_provision(job: Job, base: Base) -> None:
    secret = job.scratch / "key"
    secret.touch(mode=0o600)
    private = guest.make_private_key()
    secret.write_bytes(private)
    (job.out / RUN_KEY).write_text(json.dumps(asdict(Fingerprint.of(private.strip()))) + "\n", encoding="utf-8")
    key = guest.load_key(secret)
    with (
        job.ledger.spend("guest"),
        hypervisor.connect(job.settings.uri) as host,
        ThreadPoolExecutor(1, thread_name_prefix=ROLE) as pool,
        # Inside the pool: when anything fails the machine goes first, and what waits for it ends by itself.
        ExitStack() as machines,
    ):
        accel = host.choose_accel(job.settings.accel, job.settings.require_kvm)
        # What it does beyond booting is nobody's to guess: the recipe's own limits hold.
        limits = stretched(job.settings.patience, accel.name)
        job.ledger.accel = accel.name
        twin = boot_twin(job, host, accel, ROLE, base, (key, guest.public_line(key)), machines)
        work = pool.submit(_provision, job, twin, secret, limits.quiet)
        started = time.monotonic()
        try:
            while not wait([work], timeout=BEAT_EVERY).done:
                job.progress.beat(_pulse(twin, time.monotonic() - started))
                _require_well(job, twin, work)
            if work.exception():
                require_well(job, twin, InstallError, within=NEWS)
            work.result()
            ending = twin.machine.wait_off(limits.boot, job.progress.beat)
            if ending.how != "shutdown":
                raise InstallError(f"provision: the machine did not switch itself off: {ending.reason}")
        except BuilderError as fault:
            keep_picture(twin.machine, job.evidence / f"{ROLE}.png")
            evidence.keep_qemu_log(job, twin.machine.spec.name, f"{ROLE}.qemu.log")
            evidence.make_readable(twin.console)
            raise _told(fault) from fault


def _require_well(job: Job, twin: Twin, work: Future[None]) -> None:
    """A machine that is gone before its work was done will answer no more; its last work is to switch itself off."""
    if twin.machine.gone() is None or not wait([work], timeout=AFTERMATH).done:
        require_well(job, twin, InstallError)


def _provision(job: Job, twin: Twin, secret: Path, quiet: float) -> None:
    """All that happens inside the machine, to its last command."""
    evidence.write(job.evidence / LOG, "")
    with entered(job, twin) as door, (job.evidence / LOG).open("a", encoding="utf-8") as log:
        session = door.session

        def said(text: str) -> None:
            log.write(text)
            log.flush()

        for source, sha256, path, mode in job.inputs.files:
            said(f"== file {source} -> {path}\n")
            _put(session, path, _taken(job, source, sha256).read_bytes(), mode)
        for source, sha256 in job.inputs.scripts:
            job.progress.note(f"provision: {source}")
            _script(session, source, _taken(job, source, sha256).read_bytes(), said, quiet)
        if job.inputs.playbook:
            folder, sha256, playbook = job.inputs.playbook
            job.progress.note(f"provision: {folder}/{playbook}")
            tree = _taken(job, folder, sha256)
            port = twin.machine.ssh_port or 0
            said(f"== playbook {folder}/{playbook}\n")
            said(ansible.play(tree, playbook, port=port, key=secret, host_key=session.host_key, work=job.scratch))
        said("== generalise\n")
        reply = session.run("sh -s", stdin=SCRIPT.read_bytes(), timeout=quiet)
        said(reply.out + reply.err)
        if reply.status != 0 or DONE not in reply.out:
            raise InstallError("provision: the generalise script failed", (reply.out + reply.err).strip())
        # Once: processes end and file systems are unmounted, but no service gets to write down a state again
        # (systemctl(1), --force), such as a random seed that all copies would share.
        with suppress(UnreachableError):
            session.run("systemctl --force poweroff", timeout=quiet)


def _taken(job: Job, name: str, sha256: str) -> Path:
    target = job.scratch / "sources" / name
    return target if target.exists() else provisions.take(name, sha256, job.settings.provisions, target)


def _put(session: GuestSession, path: str, content: bytes, mode: int) -> None:
    parent = str(Path(path).parent)
    made = session.run(f"mkdir -p '{parent}'")
    if made.status != 0:
        raise InstallError(f"provision: {parent} cannot be made in the guest", made.err.strip())
    session.put(path, content, mode)
    session.run(f"command -v restorecon > /dev/null && restorecon '{path}'")


def _script(session: GuestSession, source: str, text: bytes, said: Callable[[str], None], quiet: float) -> None:
    place = f"{FOLDER}/{Path(source).name}"
    _put(session, place, text, 0o700)
    reply = session.run(f"cd / && '{place}' 2>&1", timeout=quiet)
    said(f"== script {source}: exit status {reply.status}\n{reply.out}{reply.err}")
    if reply.status != 0:
        words = "\n".join((reply.out + reply.err).strip().splitlines()[-20:])
        raise InstallError(f"provision: {source} failed (exit status {reply.status})", words)
    session.run(f"rm -f '{place}'")


def _pulse(twin: Twin, elapsed: float) -> str:
    minutes, seconds = divmod(int(elapsed), 60)
    return f"{minutes}:{seconds:02d} · {last_line(twin.machine.console.tail[-LAST_WORDS:])}"


def _told(fault: BuilderError) -> BuilderError:
    """What failed in the machine is a failed build, whoever noticed it."""
    if isinstance(fault, HostError | InstallError):
        return fault
    return InstallError(re.sub(r"^(provision: )?", "provision: ", fault.brief), fault.details, fault.hint)


STAGE = Stage("provision", 2, ("install",), inputs, run, "provision the installed system", drop=True)
ON_BASE = Stage("provision", 2, (), inputs, run, "provision a published image", drop=True)
