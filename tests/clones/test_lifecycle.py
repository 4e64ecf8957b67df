"""Commands on clones, with machines that boot a boot sector of ours."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from builder import images
from builder.clones import formats, login, ports, record
from builder.clones.change import VmChanges
from builder.clones.lifecycle import Started
from builder.clones.request import MIB
from builder.clones.store import CloneStore
from builder.errors import BuilderError, PublishError, RecipeError, UnreachableError
from builder.guest import ssh
from builder.guest.report import read_report
from builder.iso import seed_cd
from builder.system import retry
from builder.vm import hotplug, qemu_img
from builder.vm.domains import Domains
from tests.clones.conftest import ROOT, CloneEnv
from tests.pipeline import processes

pytestmark = pytest.mark.vm


def test_a_clone_is_started_stopped_and_deleted(
    house: CloneEnv, host: Domains, store: CloneStore, tmp_path: Path
) -> None:
    done = house.run("clone", "toy", house.name("web"), "--json")
    assert done.returncode == 0, done.stderr
    (made,) = json.loads(done.stdout)
    name = made["name"]
    vm = house.store().find(name)
    found = host.look(name)
    assert found is not None
    assert found.state == "running"
    assert store.start(name) == Started(name, vm.port)
    # QEMU listens on the stored port.
    with socket.create_connection(("127.0.0.1", vm.port or 0), timeout=5):
        pass
    rows = house.run("vm", "list").stdout.splitlines()
    assert rows[1].split() == [name, "running", f"127.0.0.1:{vm.port}", f"toy@{vm.version}"]
    picture = host.screenshot(name, tmp_path / "screen.png")
    assert picture.read_bytes().startswith((b"\x89PNG", b"P6"))
    # The sector never obeys the power button.
    with pytest.raises(UnreachableError, match=r"did not switch itself off within 0.5 s"):
        store.stop(name, within=0.5)
    assert house.run("vm", "stop", name, "--now").stdout == f"{name}: off\n"
    with (
        pytest.raises(UnreachableError, match="is off") as caught,
        login.session(store, _with_key(vm, house), 5),
    ):
        pass
    # Who ended it is said, in libvirt's words.
    assert caught.value.details.endswith("shutting down, reason=destroyed")
    store.start(name)
    assert house.run("vm", "delete", name).stdout == f"{name}: deleted\n"
    assert host.look(name) is None
    assert not (house.vms / name).exists()


def test_a_machine_that_goes_while_it_is_listed_is_left_out(house: CloneEnv, host: Domains) -> None:
    """As transient ones do, on a host where builds run."""
    [vm] = house.make(host, "gone")

    class ThenGone:
        def listAllDomains(self, flags: int) -> list[object]:  # noqa: N802 (libvirt's name)
            listed: list[object] = host.host.connection.listAllDomains(flags)
            host.host.connection.lookupByName(vm.name).undefine()
            return listed

    looking = Domains(host.host)
    looking._connection = ThenGone()
    assert vm.name not in looking.all()


def _with_key(vm: record.Vm, house: CloneEnv) -> record.Vm:
    return vm.model_copy(update={"key": str(house.folder / ".store" / "secrets" / "clone_ed25519")})


def test_a_forward_port_that_somebody_took_is_chosen_again(house: CloneEnv, host: Domains, store: CloneStore) -> None:
    (vm,) = house.make(host, "web")
    with socket.socket() as thief:
        thief.bind(("127.0.0.1", vm.port or 0))
        thief.listen()
        assert not ports.free(vm.port or 0)
        started = store.start(vm.name)
    assert started.moved
    assert started.port == store.find(vm.name).port != vm.port
    with socket.create_connection(("127.0.0.1", started.port or 0), timeout=5):
        pass


def test_a_machine_that_libvirt_lost_is_defined_again(house: CloneEnv, host: Domains, store: CloneStore) -> None:
    (vm,) = house.make(host, "web")
    host.undefine(vm.name, str(vm.uuid))
    assert [status.state for status in store.statuses()] == ["undefined"]
    store.start(vm.name)
    assert [status.state for status in store.statuses()] == ["running"]


def test_changes_are_kept_in_record_and_machine(house: CloneEnv, host: Domains, store: CloneStore) -> None:
    (vm,) = house.make(host, "web")
    assert house.run("vm", "set", vm.name, "--memory", "64MiB").stdout == f"{vm.name}: memory 64 MiB\n"
    store.start(vm.name)
    # A processor is plugged in at once; memory of less than a block of Linux's cannot be.
    done = house.run("vm", "set", vm.name, "--memory", "96MiB", "--vcpus", "2")
    assert done.stdout.splitlines() == [f"{vm.name}: memory 96 MiB from its next start on", f"{vm.name}: vcpus 2 now"]
    assert house.store().find(vm.name).memory == 96
    assert running(host, vm.name) == (64 << 10, 2)
    # Those that a machine was started with stay; what is beyond its sockets waits.
    told = json.loads(house.run("vm", "set", vm.name, "--vcpus", "40", "--json").stdout)
    assert (told["vcpus"], told["restart"], told["waits"]) == (40, True, ["vcpus"])
    assert running(host, vm.name) == (64 << 10, 2)
    house.run("vm", "set", vm.name, "--vcpus", "2")
    store.stop(vm.name, now=True)
    store.start(vm.name)
    assert running(host, vm.name) == (96 << 10, 2)
    assert house.run("vm", "set", vm.name).returncode == 2
    assert house.run("vm", "set", vm.name, "--memory", "12").returncode == 2


def running(host: Domains, name: str) -> tuple[int, int]:
    """KiB that a running machine has, and its processors."""
    info = host.host.connection.lookupByName(name).info()
    return info[2], info[3]


def test_a_guest_that_does_not_follow_gets_its_memory_at_the_next_start(
    house: CloneEnv, host: Domains, store: CloneStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hotplug, "FOLLOWS", 1.0)
    (vm,) = house.make(host, "web", memory=256 << 20)
    store.start(vm.name)
    # The sector has no driver for a balloon: nothing is tried that it would not notice.
    for size in (128, 384):
        changed = store.change(vm.name, VmChanges(memory=size * MIB))
        assert (changed.vm.memory, changed.waits) == (size, ("memory",))
        assert running(host, vm.name)[0] == 256 << 10
    store.stop(vm.name, now=True)
    store.start(vm.name)
    assert running(host, vm.name)[0] == 384 << 10


def test_the_network_inside_qemu_is_not_exchanged_under_a_guest(
    house: CloneEnv, host: Domains, store: CloneStore
) -> None:
    (vm,) = house.make(host, "web")
    store.start(vm.name)
    before = store.find(vm.name)
    with pytest.raises(PublishError, match="cannot be changed from user to bridge:br7 while it runs") as caught:
        store.change(vm.name, VmChanges(cards=(("--network", "bridge:br7"),)))
    assert caught.value.hint == f"builder vm stop {vm.name}"
    assert store.find(vm.name) == before
    store.stop(vm.name, now=True)
    with pytest.raises(BuilderError, match=r"no bridge br7|needs qemu:///system"):
        store.change(vm.name, VmChanges(cards=(("--network", "bridge:br7"),)))
    assert store.find(vm.name) == before
    # As if it had been on a bridge: it gets a port in the network of QEMU.
    store.save(before.with_card(0, network="bridge:br7").model_copy(update={"port": None}))
    changed = store.change(vm.name, VmChanges(cards=(("--network", "user"),)))
    assert (changed.vm.networks, changed.vm.port is None, changed.waits) == (("user",), False, ())
    assert store.find(vm.name) == changed.vm


def test_snapshots_are_taken_listed_and_gone_back_to(house: CloneEnv, host: Domains, store: CloneStore) -> None:
    (vm,) = house.make(host, "web")
    assert house.run("vm", "snapshot", vm.name).stdout == f"{vm.name} has no snapshots\n"
    for number in ("one", "two"):
        assert house.run("vm", "snapshot", vm.name, number).stdout == f"{vm.name}: created snapshot {number}\n"
    assert [name for name, _ in host.snapshots(vm.name)] == ["one", "two"]
    assert house.run("vm", "snapshot", vm.name, "two").returncode == 7
    assert "keeps the name builder-held" in house.run("vm", "snapshot", vm.name, "builder-held").stderr
    assert house.run("vm", "snapshot", vm.name, "one", "--revert").stdout == f"{vm.name}: reverted to snapshot one\n"
    assert house.run("vm", "snapshot", vm.name, "one", "--delete").stdout == f"{vm.name}: deleted snapshot one\n"
    assert house.run("vm", "snapshot", vm.name, "one", "--revert").returncode == 7
    assert store.delete([vm.name]) == []


def test_a_guest_that_goes_on_is_known_by_what_it_said_when_it_booted(
    house: CloneEnv, host: Domains, store: CloneStore
) -> None:
    key = f"SHA256:{'A' * 43}"
    house.publish(name="talker", ttys1=f"BUILDER HOSTKEY {key} ssh-ed25519\r\nBUILDER READY me\r\n".encode())
    (vm,) = house.make(host, "web", image="talker")
    log = house.vms / vm.name / record.REPORTS
    store.start(vm.name)
    assert retry.until(lambda: read_report(log).ready or None, within=20)
    store.create_snapshot(vm.name, "one")
    store.stop(vm.name, now=True)
    store.revert_snapshot(vm.name, "one")
    said = read_report(log)
    assert (said.ready, said.host_keys) == (("me",), (key,))


@pytest.mark.parametrize("running", [False, True], ids=["off", "running"])
def test_what_was_changed_since_a_snapshot_is_taken_back_with_it(
    house: CloneEnv, host: Domains, store: CloneStore, running: bool
) -> None:
    (vm,) = house.make(host, "web")
    seed = house.vms / vm.name / record.SEED
    if running:
        store.start(vm.name)
    store.create_snapshot(vm.name, "one")
    store.stop(vm.name, now=True)
    with socket.socket() as other:
        other.bind((ports.HOST, vm.port or 0))
        other.listen()
        assert store.start(vm.name).moved
        store.stop(vm.name, now=True)
        store.change(vm.name, VmChanges(memory=96 << 20, vcpus=2, cards=(("--address", "10.0.2.20/24"),)))
        assert b"10.0.2.20/24" in seed_cd.read_iso(seed)["builder.conf"]
        if running:
            refused = house.run("vm", "snapshot", vm.name, "one", "--revert")
            assert refused.returncode == 3
            assert f"{vm.name} ran with the forward port {vm.port}, which another program has" in refused.stderr
            store.start(vm.name)
            assert house.run("vm", "snapshot", vm.name, "one", "--revert").returncode == 3
            assert store.statuses()[0].state == "running"
            assert (store.find(vm.name).memory, store.find(vm.name).vcpus) == (96, 2)
            assert b"10.0.2.20/24" in seed_cd.read_iso(seed)["builder.conf"]
    store.revert_snapshot(vm.name, "one")
    assert store.find(vm.name) == vm
    assert b"10.0.2.20" not in seed_cd.read_iso(seed)["builder.conf"]
    found = host.look(vm.name)
    assert found is not None
    assert found.state == ("running" if running else "off")
    store.start(vm.name)
    xml = ET.fromstring(host.host.connection.lookupByName(vm.name).XMLDesc())
    assert (xml.findtext("currentMemory"), [vcpu.get("current") for vcpu in xml.iter("vcpu")]) == ("65536", ["1"])
    assert not ports.free(vm.port or 0)


def test_another_base_or_none_shows_the_guest_the_same(house: CloneEnv, host: Domains, store: CloneStore) -> None:
    (vm,) = house.make(host, "web")
    old = images.load_image(house.catalogue, "toy")
    target = house.vms / vm.name / record.DISK
    subprocess.run(["qemu-io", "-c", "write -P 7 512k 4k", target], check=True, capture_output=True)
    before = house.folder / "before.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", target, before], check=True)
    new = house.publish(b"something else\r\n")
    store.start(vm.name)
    refused = house.run("vm", "rebase", vm.name)
    assert (refused.returncode, refused.stderr.splitlines()[0]) == (7, f"error: {vm.name} is running")
    store.stop(vm.name, now=True)
    done = house.run("vm", "rebase", vm.name)
    assert done.stdout == f"{vm.name}: its disk is based on toy@{new.version}\n", done.stderr
    assert qemu_img.info(target, "qcow2").backing == str(new.disk)
    assert shows(target, before)
    assert (images.users_of(old), [use.name for use in images.users_of(new)]) == ([], [vm.name])
    # The same image by another path.
    (house.folder / "link").symlink_to(house.catalogue)
    CloneStore(house.vms, house.folder / "link", house.uri, connect=lambda _: nullcontext(host)).rebase(vm.name)
    assert [use.name for use in images.users_of(new)] == [vm.name]
    host.take_snapshot(vm.name, description="", snapshot="one")
    assert house.run("vm", "flatten", vm.name).returncode == 7
    host.drop_snapshot(vm.name, "one")
    assert house.run("vm", "flatten", vm.name).stdout == f"{vm.name}: its disk is independent of any image\n"
    assert qemu_img.info(target, "qcow2").backing is None
    assert shows(target, before)
    assert images.users_of(new) == []
    store.start(vm.name)
    assert store.statuses()[0].state == "running"


def shows(disk: Path, content: Path) -> bool:
    """Whether a guest sees this on a disk, over the base that its header names."""
    words: list[str | Path] = ["qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", disk, content]
    return subprocess.run(words, check=False).returncode == 0


def rebase_in(house: CloneEnv, name: str, version: str) -> None:
    with house.store() as store:
        store.rebase(name, f"toy@{version}")


def test_a_rebase_killed_anywhere_loses_nothing(house: CloneEnv, host: Domains) -> None:
    old = images.load_image(house.catalogue, "toy")
    new = house.publish(b"something else\r\n")
    content = house.folder / "content.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", old.disk, content], check=True)
    made: list[str] = []

    def again(number: int) -> tuple[CloneEnv, str, str]:
        (vm,) = house.make(host, f"web-{number}", image=f"toy@{old.version}")
        made.append(vm.name)
        return house, vm.name, new.version

    for _ in processes.killed_before_each_change(rebase_in, again, every=3):
        vm = house.store().find(made[-1])
        # Whatever base record and machine name, the disk shows the same on it, and that base cannot be pruned.
        target = house.vms / vm.name / record.DISK
        assert shows(target, content)
        assert vm.version in (old.version, new.version)
        assert vm.name in [use.name for use in images.users_of(images.load_image(house.catalogue, f"toy@{vm.version}"))]
        rebase_in(house, vm.name, new.version)
        assert qemu_img.info(target, "qcow2").backing == str(new.disk)
        assert shows(target, content)
        assert images.users_of(old) == []
    assert len(made) > 3


@pytest.mark.parametrize(("count", "atomic"), [(1, True), (1, False), (2, False)])
def test_an_interrupt_ends_the_waiting(house: CloneEnv, host: Domains, count: int, atomic: bool) -> None:
    name = house.name("web")
    words = [sys.executable, "-m", "builder", "--artifacts", str(house.folder)]
    words += ["clone", "toy", name, "--wait", "--count", str(count), *(["--atomic"] if atomic else [])]
    log = house.folder / "log"
    with log.open("wb") as file, subprocess.Popen(words, cwd=ROOT, stdout=file, stderr=file) as child:
        try:
            retry.until(lambda: b"waiting up to" in log.read_bytes() or None, within=30)
            child.send_signal(signal.SIGINT)
            assert child.wait(15) == 130
        finally:
            child.kill()
    if count == 1:
        outcome = f"{name} was {'not kept' if atomic else 'kept'}"
    else:
        outcome = f"2 of 2 are complete and were kept: {name}-1 to {name}-2"
    waiting, *last = log.read_text().splitlines()[-3:]
    assert waiting.startswith("waiting up to ")
    assert last == [outcome, "interrupted by SIGINT"]
    made = [] if atomic else [name] if count == 1 else [f"{name}-1", f"{name}-2"]
    assert house.store().names() == made
    running = [vm for vm in (name, f"{name}-1", f"{name}-2") if host.look(vm) is not None]
    assert running == made


def test_what_other_tools_read(house: CloneEnv, host: Domains, store: CloneStore) -> None:
    made = [vm.model_copy(update={"key": "/home/me/.ssh/key"}) for vm in house.make(host, "farm", count=2)]
    config = house.folder / "config"
    config.write_text(formats.ssh_config(store, made))
    told = subprocess.run(["ssh", "-G", "-F", config, made[1].name], check=True, capture_output=True, text=True).stdout
    for line in (f"port {made[1].port}", "hostname 127.0.0.1", "user root", "stricthostkeychecking true"):
        assert line in told.splitlines()
    nowhere = made[1].model_copy(
        update={"name": "nowhere", "cards": (made[1].cards[0].model_copy(update={"network": "bridge:br0"}),)}
    )
    both = [nowhere, made[0]]
    assert formats.ssh_config(store, both).splitlines()[:3] == [
        "# the address of nowhere is not known yet; builder vm ssh nowhere finds it",
        "",
        f"Host {made[0].name}",
    ]
    assert formats.ansible_inventory(store, both).splitlines()[1].startswith("# the address of nowhere is not")
    inventory = formats.ansible_inventory(store, made).splitlines()
    assert inventory[0] == "[toy]"
    assert f"ansible_port={made[0].port} ansible_user=root" in inventory[1]


def test_logging_in_needs_the_private_key(house: CloneEnv, host: Domains, store: CloneStore) -> None:
    (vm,) = house.make(host, "web")
    with pytest.raises(RecipeError, match=f"the private key that {vm.name} accepts is not known"):
        login.wait_all(store, [vm], 1, lambda _: None)
    public = house.folder / "only.pub"
    public.write_text(ssh.make_keypair().public + "\n")
    done = house.run("clone", "toy", house.name("two"), "--ssh-key", str(public), "--wait")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --wait needs the private key")
    assert house.run("clone", "toy", house.name("two"), "--ssh-key", "none.pub").returncode == 2
    assert house.run("clone", "toy", house.name("two"), "--wait", "--no-start").returncode == 2
    locked = house.folder / "locked"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", locked], check=True)
    done = house.run("clone", "toy", house.name("two"), "--ssh-key", str(locked), "--wait")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {locked} is no private key that can be used")
    assert [one.name for one in house.store().vms()] == [vm.name]
    with pytest.raises(PublishError) as caught:
        house.store().find(vm.name[:-1])
    assert caught.value.hint == f"did you mean {vm.name}?"


def test_waiting_ends_when_the_machine_shows_no_identity(house: CloneEnv, host: Domains, store: CloneStore) -> None:
    name = house.name("web")
    done = house.run("clone", "toy", name, "--no-start")
    assert done.returncode == 0, done.stderr
    store.start(name)
    vm = store.find(name)
    failed = login.wait_all(store, [vm], 1.0, lambda _: None)
    assert failed[name].brief == f"{name} did not take its identity within 1 s"
    assert failed[name].exit_code == 8
