"""Each check before publishing refuses what it is there for: the golden image is broken on purpose, once for each."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from builder.errors import Cause, VerifyError
from builder.guest import ssh
from builder.guest.seed import Identity, files
from builder.iso import seed_cd
from builder.settings import BuildOptions, HostOptions, Paths, Settings
from builder.stage import Job, Ledger
from builder.stages import install, machine_inputs, seal, verify
from builder.store.secrets import StoredSecrets
from builder.store.store import Store
from builder.system import retry
from builder.system.digests import sha256_file
from builder.vm import qemu_img
from builder.vm.connection import Hypervisor, connect
from builder.vm.log_follower import LogFollower
from builder.vm.machine_spec import SYSTEM_DISK_SERIAL, Disk, Layer, MachineSpec
from tests.conftest import Silent
from tests.e2e.conftest import Person

pytestmark = [pytest.mark.e2e, pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(2400)]
Alter = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def place(person: Person) -> Path:
    folder = person.folder / "gates"
    folder.mkdir(mode=0o711)
    return folder


@pytest.fixture(scope="module")
def hypervisor() -> Iterator[Hypervisor]:
    with connect(Settings(Path(), (), ()).uri) as opened:
        yield opened


@pytest.fixture(scope="module")
def alter(place: Path, hypervisor: Hypervisor, golden: Any) -> Alter:
    """Boot a copy of the golden image, run a script in it as root, shut it down; the copy, flattened."""

    def change(name: str, script: str) -> Path:
        base = Path(golden["image"]["disk"])
        overlay, cd = place / f"{name}.overlay", place / f"{name}.iso"
        qemu_img.create(overlay, None, "qcow2", backing=(base, "qcow2"))
        key, public = ssh.make_keypair()
        seed_cd.write_iso(cd, seed_cd.IDENTITY_LABEL, files(Identity(name, name, (public,))), mode=0o444)
        own = uuid.uuid4()
        spec = MachineSpec(
            name=f"builder-test-{own}",
            uuid=own,
            run_id=f"test-{own}",
            role="altered",
            mac="52:54:00:" + ":".join(f"{byte:02x}" for byte in own.bytes[:3]),
            console_log=place / f"{name}.ttyS0",
            vcpus=2,
            disks=(Disk(overlay, "qcow2", SYSTEM_DISK_SERIAL, backing=(Layer(base, "qcow2"),)),),
            cdroms=(cd,),
            serial1=place / f"{name}.ttyS1",
        )
        told = place / f"{name}.told"
        with ExitStack() as stack:
            stack.enter_context(LogFollower(place / f"{name}.ttyS1", told))
            machine = stack.enter_context(hypervisor.boot(spec, place / f"{name}.console"))
            retry.until(lambda: f"READY {name}" in told.read_text() or None, within=400)
            prints = re.findall(r"HOSTKEY (SHA256:\S+)", told.read_text())
            with ssh.connect(machine.ssh_port or 0, key, prints, within=300) as session:
                reply = session.run(script)
                assert reply.status == 0, reply.err
            machine.press_power()
            assert machine.wait_off(200, lambda _: None).how == "shutdown"
        flat = place / f"{name}.qcow2"
        qemu_img.convert(overlay, "qcow2", flat, "qcow2", below=(base, "qcow2"))
        flat.chmod(0o444)
        return flat

    return change


@pytest.fixture
def job_for(place: Path, person: Person, golden: Any) -> Callable[..., Job[Any]]:
    """A job of the verify or seal stage on a given disk."""

    def make(
        kind: str, name: str, needs: dict[str, Path], inputs: Any, secrets: StoredSecrets | None = None
    ) -> Job[Any]:
        work = place / f"{name}-{kind}"
        folders = {part: work / part for part in ("out", "scratch", "evidence")}
        for folder in folders.values():
            folder.mkdir(parents=True, mode=0o711)
        store = Store(person.folder / "artifacts" / ".store")
        return Job(
            run_id=f"gates-{name}",
            digest="d" * 64,
            inputs=inputs,
            needs=needs,
            digests={},
            out=folders["out"],
            scratch=folders["scratch"],
            evidence=folders["evidence"],
            paths=Paths(person.folder / "artifacts", (), ()),
            host=HostOptions(accel="tcg"),
            build=BuildOptions(),
            secrets=secrets or StoredSecrets(store, "centos7-minimal"),
            progress=Silent(),
            ledger=Ledger(),
        )

    return make


def verify_inputs() -> machine_inputs.VerifyInputs:
    return machine_inputs.VerifyInputs(
        vcpus=2, memory=1 << 30, firmware="bios", devices="virtio", machine="q35", checks=()
    )


def as_sealed(place: Path, name: str, image: Path) -> dict[str, Path]:
    """The image as if the seal stage had made it."""
    folder = place / f"{name}-sealed"
    folder.mkdir(mode=0o711)
    (folder / seal.FILE).hardlink_to(image)
    (folder / seal.FACTS).write_text(json.dumps({"sha256": sha256_file(image)}))
    (folder / seal.KEYS).write_text("[]")
    return {"seal": folder}


def test_an_image_that_was_booted_is_refused_twice(alter: Alter, place: Path, job_for: Any, golden: Any) -> None:
    """Its host keys are found by the search and come from no package; its machine-id is the same in both copies."""
    used = alter("used", "test -s /etc/machine-id && test -s /etc/ssh/ssh_host_ed25519_key && sync")
    raw = place / "installed"
    raw.mkdir()
    qemu_img.convert(used, "qcow2", raw / install.FILE, "raw")
    job = job_for("seal", "used", {"install": raw}, seal.SealInputs(compression="zstd"))
    seal.run(job)
    with pytest.raises(VerifyError, match="the image holds a private key: ") as caught:
        verify.run(job_for("verify", "used", {"seal": job.out}, verify_inputs()))
    assert caught.value.diagnosis.cause is Cause.SECRET_IN_IMAGE
    with pytest.raises(VerifyError, match="two copies of the image have the same machine id"):
        verify.run(job_for("verify", "used-again", as_sealed(place, "used", used), verify_inputs()))


def test_a_failed_unit_is_refused(alter: Alter, place: Path, job_for: Any) -> None:
    broken = alter(
        "broken",
        "printf '[Service]\\nType=oneshot\\nExecStart=/bin/false\\n[Install]\\nWantedBy=multi-user.target\\n'"
        " > /etc/systemd/system/broken-on-purpose.service && systemctl enable broken-on-purpose"
        " && : > /etc/machine-id && sync",
    )
    with pytest.raises(VerifyError, match=r"failed unit: broken-on-purpose\.service"):
        verify.run(job_for("verify", "broken", as_sealed(place, "broken", broken), verify_inputs()))


def test_a_bit_that_flipped_is_found(place: Path, job_for: Any, golden: Any) -> None:
    """Copies of it may boot all the same: what is published has to be what was sealed, to the last bit."""
    sealed = as_sealed(place, "flipped", Path(golden["image"]["disk"]))
    (sealed["seal"] / seal.FACTS).write_text(json.dumps({"sha256": "0" * 64}))
    with pytest.raises(VerifyError, match="the sealed image changed while its copies ran"):
        verify.run(job_for("verify", "flipped", sealed, verify_inputs()))


def test_a_wrong_console_password_is_refused(place: Path, job_for: Any, golden: Any, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("not-the-one-in-the-image\n")
    secrets = StoredSecrets(Store(tmp_path / ".store"), "wrong", password)
    sealed = as_sealed(place, "wrong", Path(golden["image"]["disk"]))
    job = job_for("verify", "wrong", sealed, verify_inputs(), secrets)
    with pytest.raises(VerifyError, match="the console refuses root's password"):
        verify.run(job)
    for file in job.evidence.iterdir():
        assert b"not-the-one-in-the-image" not in file.read_bytes(), file
