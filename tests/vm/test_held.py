"""A machine that ends with its stage goes on from where another one was saved."""

from __future__ import annotations

import dataclasses
import shutil
import uuid
from pathlib import Path

import pytest

from builder.errors import HostError
from builder.iso import seed_cd
from builder.system import retry
from builder.vm import held, qemu_img
from builder.vm.connection import Hypervisor
from builder.vm.domains import HELD
from builder.vm.machine_spec import Disk, Layer, MachineSpec
from tests.vm.conftest import MakeSpec

pytestmark = pytest.mark.vm
SAYS = b"BUILDER HELD\r\n"


@pytest.fixture
def saved(hypervisor: Hypervisor, make_spec: MakeSpec, place: Path) -> MachineSpec:
    """A machine whose boot sector said that it can be saved, which was done; it has a card, and a seed in its drive."""
    made = make_spec({"ttys1": SAYS, "end": "hang"}, on_reboot="restart")
    base = made.disks[0].path
    base.chmod(0o444)
    disk = Disk(place / "held.qcow2", "qcow2", "BUILDER", backing=(Layer(base, "raw"),))
    qemu_img.create(disk.path, None, "qcow2", backing=(base, "raw"))
    seed = place / "seed.iso"
    seed_cd.write_iso(seed, seed_cd.IDENTITY_LABEL, {"builder.conf": b""}, mode=0o444)
    spec = dataclasses.replace(made, disks=(disk,))
    with hypervisor.boot(dataclasses.replace(spec, hold=True), place / "held.stream"):
        assert spec.serial1 is not None
        log = spec.serial1
        assert retry.until(lambda: (log.exists() and log.read_bytes() == SAYS) or None, within=30)
        held.save(hypervisor, spec.uuid)
    return dataclasses.replace(spec, cdroms=(seed,), saved=HELD)


def another(spec: MachineSpec, place: Path, name: str) -> MachineSpec:
    disk = dataclasses.replace(spec.disks[0], path=place / f"{name}.qcow2")
    shutil.copyfile(spec.disks[0].path, disk.path)
    own, log = uuid.uuid4(), place / f"{name}.ttyS1"
    return dataclasses.replace(spec, name=f"builder-test-{own}", uuid=own, disks=(disk,), serial1=log)


def test_two_machines_go_on_beside_each_other(hypervisor: Hypervisor, saved: MachineSpec, place: Path) -> None:
    one, two = another(saved, place, "one"), another(saved, place, "two")
    with hypervisor.boot(one, place / "one.stream") as first, hypervisor.boot(two, place / "two.stream") as second:
        for machine in (first, second):
            assert machine.wait_off(2, lambda _: None).how == "time limit"
            assert machine.spec.serial1 is not None
            # A machine that boots says so within that time.
            assert machine.spec.serial1.read_bytes() == b""
    assert not {one.name, two.name} & hypervisor.machines().keys()


def test_a_disk_without_a_saved_machine_is_refused(hypervisor: Hypervisor, saved: MachineSpec, place: Path) -> None:
    spec = another(saved, place, "empty")
    qemu_img.drop_snapshot(spec.disks[0].path, HELD)
    with pytest.raises(HostError, match="could not start"), hypervisor.boot(spec, place / "stream"):
        pass
    assert spec.name not in hypervisor.machines()
