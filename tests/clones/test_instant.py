"""Clones that go on from a saved boot: boot sectors say when they boot, so a clone that says nothing has gone on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from builder import images
from builder.clones import create, rebase, warm
from builder.clones.change import VmChanges
from builder.clones.create import CreateOptions
from builder.clones.record import DISK, REPORTS, Vm
from builder.clones.request import CloneRequest
from builder.clones.warm import WarmState
from builder.errors import HostError
from builder.pipeline.warm_up import warm_up
from builder.settings import Settings
from builder.store import gc
from builder.store.objects import FileRecord
from builder.store.store import RECORD, Store
from builder.system import retry
from builder.system.digests import sha256_file
from builder.vm import held, qemu_img
from builder.vm.domains import HELD, Domains
from tests.clones.conftest import ROOT, CloneEnv

pytestmark = pytest.mark.vm
SAYS = b"BUILDER HELD\r\n"


@pytest.fixture
def said() -> list[str]:
    """What was told to people."""
    return []


@pytest.fixture
def paths(house: CloneEnv) -> Settings:
    """Where the store is."""
    return Settings(artifacts=house.folder, recipes=(), templates=())


@pytest.fixture
def instant(house: CloneEnv, host: Domains, paths: Settings, said: list[str]) -> Callable[..., list[Vm]]:
    """Make clones of `held`, an image that says on ttyS1 that it waits for an identity."""
    house.publish(name="held", ttys1=SAYS)

    def make(name: str, *, image: str = "held", **changes: object) -> list[Vm]:
        request = CloneRequest(house.name(name), **changes)  # type: ignore[arg-type]
        options = CreateOptions(accel="tcg", warm=paths, report=said.append)
        return house.store(host).create(images.load_image(house.catalogue, image), request, options)

    return make


def booted(house: CloneEnv, vm: Vm) -> bool:
    """Whether a clone's boot sector has said what it says when it boots, within some seconds."""
    log = house.vms / vm.name / REPORTS
    return bool(retry.until(lambda: (log.exists() and log.read_bytes() == SAYS) or None, within=10, every=0.1))


def went_on(house: CloneEnv, host: Domains, vm: Vm) -> bool:
    """Whether a clone runs and has not booted: it would have said so by now."""
    found = host.look(vm.name)
    return found is not None and found.state == "running" and not (house.vms / vm.name / REPORTS).read_bytes()


def states(paths: Settings) -> list[warm.StoredState]:
    return list(warm.states(Store(paths.store)))


def machines(host: Domains, paths: Settings, *states: str) -> list[str]:
    """The machines of the runs that are under way in this store; in these states, if any are named."""
    marks = [mark.name for mark in Store(paths.store).marks.glob("*")]
    found = {name: one.state for name, one in host.all().items() if any(mark in name for mark in marks)}
    return [name for name, state in found.items() if not states or state in states]


def test_clones_go_on_from_one_state_and_are_ordinary_afterwards(
    house: CloneEnv, host: Domains, paths: Settings, instant: Callable[..., list[Vm]], said: list[str]
) -> None:
    one, two = instant("a", count=2)
    [state] = states(paths)
    [three] = instant("b")
    assert states(paths) == [state]
    assert [line for line in said if "making" in line] == [said[0]]
    for vm in (one, two, three):
        assert went_on(house, host, vm)
        assert host.snapshots(vm.name) == []
        assert qemu_img.snapshots(house.vms / vm.name / DISK) == []
    store = house.store(host)
    store.create_snapshot(one.name, "mine")
    store.stop(one.name, now=True)
    store.start(one.name)
    assert booted(house, one)
    store.revert_snapshot(one.name, "mine")
    store.delete_snapshot(one.name, "mine")
    store.stop(two.name, now=True)
    assert rebase.flatten(store, two.name).base is None
    store.start(two.name)
    assert booted(house, two)
    assert went_on(house, host, three)


def test_a_clone_that_somebody_started_meanwhile_keeps_its_disk(
    house: CloneEnv, host: Domains, instant: Callable[..., list[Vm]], said: list[str]
) -> None:
    [vm] = instant("a")
    store, disk = house.store(host), house.vms / vm.name / DISK
    store.stop(vm.name, now=True)
    subprocess.run(["qemu-img", "snapshot", "-c", "somebody's", disk], check=True)
    refused = WarmState("", record=None, folder=disk.parent, report=said.append, refused=True)  # type: ignore[arg-type]
    create._start(store, images.load_image(house.catalogue, "held"), vm, refused)
    assert qemu_img.snapshots(disk) == ["somebody's"]


def test_each_shape_has_a_state_of_its_own_and_it_goes_with_its_image(
    house: CloneEnv, host: Domains, paths: Settings, instant: Callable[..., list[Vm]]
) -> None:
    vms = [*instant("small"), *instant("large", memory=128 << 20)]
    assert len(states(paths)) == 2
    shown = json.loads(house.run("images", "show", "held", "--json").stdout)["warm"]
    assert {one["digest"] for one in shown} == {state.digest for state in states(paths)}
    house.store(host).delete([vm.name for vm in vms])
    assert house.run("gc").returncode == 0
    assert len(states(paths)) == 2
    shutil.rmtree(house.catalogue / "held")
    assert house.run("gc").returncode == 0
    assert states(paths) == []


class Noted(list[str]):
    """What is worth telling people."""

    def note(self, text: str) -> None:
        self.append(text)

    def beat(self, text: str) -> None:
        """Nothing."""


def test_what_is_published_gets_its_state_once(house: CloneEnv, host: Domains, paths: Settings) -> None:
    settings, noted = replace(paths, accel="tcg", connect=host.host.uri), Noted()
    for name, words in (("held", SAYS), ("old", b"BUILDER READY none\r\n")):
        house.publish(name=name, ttys1=words)
    for _ in range(2):
        warm_up(images.load_image(house.catalogue, "held"), settings, noted)
    assert len(states(paths)) == 1
    assert len([line for line in noted if line.startswith("making a warm state of held@")]) == 1
    warm_up(images.load_image(house.catalogue, "old"), settings, noted)
    assert noted[-1].startswith("published without a warm state: the image does not wait for an identity")
    assert len(states(paths)) == 1


@pytest.mark.parametrize("harm", ["other bytes", "no state in it"])
def test_a_state_that_cannot_be_used_is_thrown_away_and_the_clone_boots(
    house: CloneEnv,
    host: Domains,
    paths: Settings,
    instant: Callable[..., list[Vm]],
    said: list[str],
    harm: str,
) -> None:
    instant("first")
    [state] = states(paths)
    folder = Store(paths.store).path(state.digest)
    disk = folder / DISK
    before = disk.stat()
    disk.chmod(0o600)
    if harm == "other bytes":
        with disk.open("r+b") as file:
            file.seek(before.st_size - 1)
            file.write(b"x")
        os.utime(disk, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        # As that of another QEMU: sound for the store, and nothing that this QEMU can load.
        qemu_img.drop_snapshot(disk, HELD)
        record = Store(paths.store).load(state.digest)
        assert record is not None
        facts = disk.stat()
        files = {DISK: FileRecord(size=facts.st_size, mtime_ns=facts.st_mtime_ns, sha256=sha256_file(disk))}
        (folder / RECORD).chmod(0o600)
        (folder / RECORD).write_text(record.model_copy(update={"files": files}).model_dump_json())
    vms = instant("second", count=2)
    assert all(booted(house, vm) for vm in vms)
    assert [line for line in said if "the warm state is thrown away" in line]
    assert states(paths) == []
    assert went_on(house, host, instant("third")[0])


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (b"BUILDER READY none\r\n", "does not wait for an identity"),
        (b"BUILDER WARNING no python\r\nBUILDER READY none\r\n", "no python"),
    ],
)
def test_an_image_that_cannot_be_held_boots_and_says_why(
    house: CloneEnv,
    host: Domains,
    paths: Settings,
    instant: Callable[..., list[Vm]],
    said: list[str],
    words: bytes,
    why: str,
) -> None:
    house.publish(name="old", ttys1=words)
    [vm] = instant("old", image="old")
    assert [line for line in said if line.startswith("not instant, booting: ") and why in line]
    found = host.look(vm.name)
    assert found is not None
    assert found.state == "running"
    assert states(paths) == []
    assert list(Store(paths.store).tmp.iterdir()) == []
    refused = house.run("images", "warm", "old", "--accel", "tcg")
    assert refused.returncode == 3
    assert why in refused.stderr


def test_a_start_that_was_killed_leaves_a_clone_that_boots(
    house: CloneEnv, host: Domains, instant: Callable[..., list[Vm]], paths: Settings
) -> None:
    [vm] = instant("a")
    store = house.store(host)
    store.stop(vm.name, now=True)
    # As after a kill between the start and the last step: the state is in the disk, and libvirt knows of it.
    disk = house.vms / vm.name / DISK
    shutil.copyfile(Store(paths.store).path(states(paths)[0].digest) / DISK, disk)
    held.load(host, vm.name)
    assert store.snapshots(vm.name) == []
    store.stop(vm.name, now=True)
    store.start(vm.name)
    assert booted(house, vm)
    assert qemu_img.snapshots(disk) == []
    with pytest.raises(HostError):
        host.drop_snapshot(vm.name, HELD)


def test_a_clone_that_was_changed_before_its_start_boots_and_the_state_stays(
    house: CloneEnv, host: Domains, paths: Settings, instant: Callable[..., list[Vm]], said: list[str]
) -> None:
    instant("a")
    image, store = images.load_image(house.catalogue, "held"), house.store(host)
    options = CreateOptions(accel="tcg", warm=paths, report=said.append, start=False)
    request = CloneRequest(house.name("b"))
    [vm] = store.create(image, request, options)
    store.change(vm.name, VmChanges(memory=128 << 20))
    with store.warm_state(image, request, options, paths) as state:
        create._start(store, image, vm, state)
    assert booted(house, vm)
    assert len(states(paths)) == 1


def test_a_network_that_is_not_there_is_no_reason_to_boot(house: CloneEnv, host: Domains) -> None:
    refused = house.run("clone", "toy", house.name("a"), "--instant", "--network", "bridge:nope")
    assert refused.returncode == 3
    assert refused.stderr.startswith("error: this host has no bridge nope\n")


@pytest.mark.process
def test_a_machine_that_ends_before_it_can_be_saved(house: CloneEnv, host: Domains, paths: Settings) -> None:
    house.publish(name="never", ttys1=b"")
    name = house.name("a")
    log = house.folder / "log"
    command = [sys.executable, "-m", "builder", "--artifacts", str(house.folder), "clone", "never", name, "--instant"]
    with log.open("wb") as file:
        making = subprocess.Popen(
            [*command, "--accel", "tcg"], env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=file
        )
    ours = retry.until(lambda: machines(host, paths, "running") or None, within=60, every=0.1)
    assert ours is not None
    host.cut_power(ours[0])
    assert making.wait(60) == 0
    why = "the guest did not come up to be saved: the machine was ended from outside"
    assert f"not instant, booting: {why}\n" in log.read_text()


@pytest.mark.process
def test_nothing_is_left_when_the_making_of_a_state_is_killed(house: CloneEnv, host: Domains, paths: Settings) -> None:
    house.publish(name="never", ttys1=b"")
    name = house.name("a")
    command = [sys.executable, "-m", "builder", "--artifacts", str(house.folder), "clone", "never", name, "--instant"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    making = subprocess.Popen(
        [*command, "--accel", "tcg"], env=environment, cwd=house.folder, stderr=subprocess.DEVNULL
    )
    assert retry.until(lambda: machines(host, paths) or None, within=60, every=0.1)
    making.send_signal(signal.SIGKILL)
    making.wait()
    assert retry.until(lambda: machines(host, paths) == [] or None, within=30, every=0.1)
    assert not (house.vms / name).exists()
    assert gc.sweep(Store(paths.store), paths.runs, host.host.sweep).runs
    assert list(Store(paths.store).tmp.iterdir()) == []
    assert states(paths) == []
