"""What decides a warm state: a clone never goes on from one that was saved on another machine."""

from __future__ import annotations

import json
import os
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from builder.cli.main import app
from builder.cli.state import State
from builder.clones import warm
from builder.clones.record import DISK, Vm, VmCard
from builder.errors import HostError
from builder.images import Image
from builder.images.manifest import CopyFacts, VerifiedFacts
from builder.settings import Settings
from builder.stage import Ledger, ReasonKind, Step, digest
from builder.store.objects import bytes_freed
from builder.store.store import Store
from builder.vm.connection import Hypervisor
from tests.images.test_images import other_disk, publish

pytestmark = pytest.mark.unit

VM = Vm(
    name="web",
    uuid=uuid.UUID(int=7),
    cards=(VmCard(mac="52:54:00:00:00:07", network="user"),),
    image="toy",
    version="1",
    base="/images/toy/1/toy.qcow2",
    created="2026-01-01T00:00:00+00:00",
    uri="qemu:///system",
    accel="tcg",
    host_phys_bits=46,
    vcpus=2,
    memory=1024,
    disk_size=1 << 30,
    devices="virtio",
    machine="q35",
    firmware="bios",
    port=2222,
    hostname="web",
    dns=(),
    key=None,
)


def bridged(network: str = "bridge:br0") -> VmCard:
    """A card on a network of libvirt's, or on a bridge."""
    return VmCard(mac="52:54:00:00:00:09", network=network)


@pytest.fixture
def image(tmp_path: Path) -> Image:
    """An image."""
    return publish(tmp_path, other_disk(tmp_path, b"one"))


def named(image: Image, versions: tuple[int, int] = (7002000, 9000000), **changes: Any) -> str:
    inputs = warm.inputs(image, VM.model_copy(update=changes), versions)
    return digest(warm.STAGE, inputs, {})


@pytest.mark.parametrize(
    "changes",
    [
        {"memory": 2048},
        {"vcpus": 1},
        {"disk_size": 2 << 30},
        {"accel": "kvm"},
        {"devices": "emulated"},
        {"machine": "pc"},
        {"cards": (*VM.cards, bridged())},
        {"base": "/elsewhere/toy.qcow2"},
        {"versions": (7002001, 9000000)},
        {"versions": (7002000, 9001000)},
    ],
)
def test_another_machine_has_another_state(image: Image, changes: dict[str, Any]) -> None:
    assert named(image, **changes) != named(image)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other", "hostname": "other", "uuid": uuid.UUID(int=8)},
        {"port": 2223, "key": "/root/.ssh/id"},
        {"cards": (VmCard(mac="52:54:00:00:00:08", network="user", addresses=("10.0.2.20/24",), dhcp=False),)},
    ],
)
def test_who_a_clone_is_does_not_matter(image: Image, changes: dict[str, Any]) -> None:
    assert named(image, **changes) == named(image)


def test_a_network_of_libvirts_is_as_good_as_another(image: Image) -> None:
    assert named(image, cards=(bridged("nat:one"),)) == named(image, cards=(bridged(),))
    assert named(image, cards=(bridged("nat:one"), bridged())) == named(image, cards=(bridged(),))


def test_another_version_of_the_image_has_another_state(image: Image, tmp_path: Path) -> None:
    assert named(publish(tmp_path, other_disk(tmp_path, b"two"))) != named(image)


def test_uefi_is_refused_before_anything_is_started(image: Image, tmp_path: Path) -> None:
    paths = Settings(artifacts=tmp_path, recipes=(), templates=())
    uefi = VM.model_copy(update={"firmware": "uefi"})
    with pytest.raises(HostError, match="UEFI"), warm.opened(paths, image, uefi, cast(Hypervisor, None), print):
        pass
    assert not paths.store.exists()


def test_a_copy_whose_identity_is_cloud_inits_is_not_held(image: Image, tmp_path: Path) -> None:
    shown = VerifiedFacts(twins={"twin-a": CopyFacts(packages=("cloud-init 19.4-7",))})
    cloud = replace(image, facts=image.facts.model_copy(update={"verified": shown}))
    paths = Settings(artifacts=tmp_path, recipes=(), templates=())
    with pytest.raises(HostError, match="cloud-init"), warm.opened(paths, cloud, VM, cast(Hypervisor, None), print):
        pass
    assert not paths.store.exists()


@pytest.mark.parametrize("days", [0, 31])
def test_a_state_whose_image_is_gone_goes_once_whatever_its_age(
    image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    monkeypatch.setenv("BUILDER_ARTIFACTS", str(tmp_path))
    given = warm.inputs(image, VM, (1, 1)).model_copy(update={"base": str(tmp_path / "gone.qcow2")})
    step = Step(warm.STAGE, given, digest(warm.STAGE, given, {}), "run", "asked for", ReasonKind.FIRST_RUN)
    store = Store(tmp_path / ".store")
    with store.building(step, "run", {}) as build:
        (build.out / DISK).write_bytes(b"x" * 100_000)
        build.finish(Ledger(), 1.0)
    folder = store.path(step.digest)
    os.utime(folder, (time.time() - days * 86400,) * 2)
    taken = bytes_freed(folder)

    def freed(*words: str) -> int:
        ran = CliRunner().invoke(app, ["gc", "--json", *words], obj=State(), catch_exceptions=False)
        return int(json.loads(ran.stdout)["bytes"])

    assert freed("--dry-run") == taken >= 100_000
    assert freed() == taken
    assert not folder.exists()
    assert freed("--dry-run") == 0


def test_a_state_knows_no_name_and_no_card(image: Image) -> None:
    machine = warm.inputs(image, VM, (1, 1)).machine
    assert "web" not in machine
    assert VM.cards[0].mac not in machine
    assert str(VM.uuid) not in machine
    assert "commandline" not in machine
