"""Clones are different machines on one base, made completely or not at all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import ClassVar

import pytest

from builder import images
from builder.clones import delete, lifecycle, record
from builder.clones.cards import CardRequest, check_cards_fit
from builder.clones.change import VmChanges
from builder.clones.create import CreateOptions
from builder.clones.request import CloneRequest
from builder.clones.store import CloneStore
from builder.errors import BuilderError, HostError, PublishError, RecipeError
from builder.guest.cards import CardSetup
from builder.images import references
from builder.vm import domains, qemu_img
from builder.vm.domains import Domains
from tests.clones.conftest import CloneEnv
from tests.pipeline import processes

pytestmark = pytest.mark.vm


def on(network: str, *addresses: str) -> tuple[CardRequest, ...]:
    """A card on this network with static addresses."""
    return (CardRequest(network, CardSetup(None, addresses, dhcp=False)),)


def test_a_clone_is_an_overlay_with_an_identity_of_its_own(house: CloneEnv, host: Domains) -> None:
    (vm,) = house.make(host, "web", disk_size=2 << 20, hostname="web.example.org")
    folder = house.vms / vm.name
    base = images.load_image(house.catalogue, "toy")
    info = qemu_img.info(folder / record.DISK, "qcow2")
    assert info.backing == str(base.disk)
    assert base.version in str(info.backing)
    assert info.virtual_size == 2 << 20
    listed = subprocess.run(
        ["isoinfo", "-R", "-x", "/builder.conf", "-i", folder / record.SEED], check=True, capture_output=True
    ).stdout.decode()
    assert f"instance-id=vm-{vm.uuid}\nhostname=web.example.org\n" in listed
    found = host.look(vm.name)
    assert found is not None
    assert (found.state, found.uuid) == ("off", str(vm.uuid))
    assert found.keepsake == {"image": "toy", "version": base.version, "folder": str(folder)}
    assert [use.name for use in images.users_of(base)] == [vm.name]
    assert (folder / record.DISK).stat().st_mode & 0o077 == 0
    assert sum(path.stat().st_blocks * 512 for path in folder.iterdir()) < 1 << 20


def test_user_data_is_for_images_with_cloud_init_and_for_nobody_else(house: CloneEnv, host: Domains) -> None:
    own = b"#cloud-config\npassword: secret\n"
    with pytest.raises(RecipeError, match="has no cloud-init"):
        house.make(host, "web", user_data=own)
    assert house.store().vms() == []
    house.publish(name="cloud", packages=("bash 4.2-34", "cloud-init 19.4-7"))
    (vm,) = house.make(host, "web", image="cloud", user_data=own)
    seed = house.vms / vm.name / record.SEED
    listed = subprocess.run(["isoinfo", "-R", "-x", "/user-data", "-i", seed], check=True, capture_output=True)
    assert listed.stdout == own
    facts = seed.stat()
    assert facts.st_mode & 0o777 == 0o400
    assert host.host.qemu_user in (None, (facts.st_uid, facts.st_gid))
    assert all(b"secret" not in path.read_bytes() for path in seed.parent.iterdir() if path != seed)
    # Written anew for other cards, it is still for nobody else.
    house.store().change(vm.name, VmChanges(cards=(("--address", "10.0.2.50/24"),)))
    changed = seed.stat()
    assert (changed.st_mode, changed.st_uid, changed.st_gid) == (facts.st_mode, facts.st_uid, facts.st_gid)
    assert (changed.st_ino, changed.st_mtime_ns) != (facts.st_ino, facts.st_mtime_ns)


def test_clones_differ_and_are_made_side_by_side(house: CloneEnv, host: Domains) -> None:
    made = house.make(host, "farm", count=3)
    assert [vm.name for vm in made] == [house.name(f"farm-{number}") for number in (1, 2, 3)]
    for value in ("uuid", "port", "hostname", "instance"):
        assert len({getattr(vm, value) for vm in made}) == 3
    assert len({vm.cards[0].mac for vm in made}) == 3
    assert house.store().vms() == made
    # The same names again: nothing changes.
    with pytest.raises(PublishError, match=r"there is already a VM .*-farm-1"):
        house.make(host, "farm", count=4)
    assert house.store().vms() == made


def test_a_full_copy_needs_no_base(house: CloneEnv, host: Domains) -> None:
    (vm,) = house.make(host, "full", full=True, disk_size=4 << 20)
    info = qemu_img.info(house.vms / vm.name / record.DISK, "qcow2")
    assert (info.backing, info.virtual_size) == (None, 4 << 20)
    base = images.load_image(house.catalogue, "toy")
    assert images.users_of(base) == []
    shutil.rmtree(house.catalogue)
    qemu_img.check(house.vms / vm.name / record.DISK)


def test_an_error_says_which_clones_were_kept(house: CloneEnv, host: Domains) -> None:
    house.make(host, "one")

    class Stubborn(Domains):
        """A libvirt that has had enough after two machines."""

        defined = 0

        def define(self, spec: object) -> None:
            self.defined += 1
            if self.defined > 2:
                raise PublishError("no more", "the reason", "go home")
            super().define(spec)  # type: ignore[arg-type]

    with pytest.raises(PublishError) as caught:
        house.make(Stubborn(host.host), "farm", count=4)
    assert caught.value.brief == f"{house.name('farm-3')} could not be created: no more"
    names = f"{house.name('farm-1')} to {house.name('farm-2')}"
    assert caught.value.details == f"2 of 4 are complete and were kept: {names}\nthe reason"
    assert not (house.vms / house.name("farm-3")).exists()
    with pytest.raises(PublishError) as caught:
        house.make(Stubborn(host.host), "herd", count=4, atomic=True)
    assert caught.value.details.startswith("none were kept")
    assert len(house.store().vms()) == 3
    assert_whole(house, host)
    (house.vms / house.name("link")).symlink_to("nowhere")
    with pytest.raises(PublishError, match="contains files that do not belong to a VM"):
        house.make(host, "link")


def test_all_or_none_also_when_a_clone_does_not_start(house: CloneEnv, host: Domains) -> None:
    class Exhausted(Domains):
        """A libvirt that starts one machine, and refuses to undefine another the first time."""

        started: ClassVar[list[str]] = []
        refused: ClassVar[list[str]] = []

        def start(self, name: str) -> None:
            if self.started:
                raise HostError("no memory left", "the reason", "buy some")
            self.started.append(name)
            super().start(name)

        def undefine(self, name: str, uuid: str) -> None:
            if name.endswith("-2") and not self.refused:
                self.refused.append(name)
                raise HostError(f"cannot undefine {name}")
            super().undefine(name, uuid)

    store = house.store(Exhausted(host.host))
    image = images.load_image(house.catalogue, "toy")
    with pytest.raises(HostError) as caught:
        store.create(image, CloneRequest(house.name("farm"), count=3), CreateOptions(accel="tcg"))
    failed = f"{house.name('farm-2')}, {house.name('farm-3')}"
    assert caught.value.brief == "no memory left"
    assert caught.value.details == f"2 of 3 failed: {failed}\nthe VMs were kept: builder vm list\nthe reason"
    assert [status.state for status in store.statuses()] == ["running", "off", "off"]
    # One that cannot be removed does not keep the others.
    with pytest.raises(HostError, match="cannot undefine"):
        store.create(image, CloneRequest(house.name("herd"), count=3), CreateOptions(accel="tcg", atomic=True))
    assert [vm.name for vm in store.vms() if "herd" in vm.name] == [house.name("herd-2")]
    with pytest.raises(HostError, match="no memory left") as caught:
        store.create(image, CloneRequest(house.name("flock"), count=2), CreateOptions(accel="tcg", atomic=True))
    assert "all were removed" in caught.value.details
    assert not [vm.name for vm in store.vms() if "flock" in vm.name]
    assert_whole(house, host)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"cards": on("user", "192.168.7.5/24")}, RecipeError, "lies outside 10.0.2.0/24, the network user"),
        ({"cards": on("user", "10.0.2.2/24")}, RecipeError, "used by QEMU itself"),
        ({"cards": on("user", "10.0.2.9/24", "fec0::3/64")}, RecipeError, "used by QEMU itself"),
        ({"cards": on("user", "10.0.2.9/24", "fd00::9/64")}, RecipeError, "lies outside fec0::/64, the network user"),
        ({"cards": (CardRequest("bridge:no-such-br"),)}, BuilderError, "no bridge no-such-br|needs qemu:///system"),
        ({"disk_size": 1 << 19}, RecipeError, "smaller than the image's disk"),
        ({"image": "tyo"}, PublishError, "there is no image tyo"),
        ({"image": "toy@000"}, PublishError, "has no version 000"),
    ],
)
def test_what_cannot_be_changes_nothing(
    house: CloneEnv, host: Domains, changes: dict[str, object], error: type[BuilderError], said: str
) -> None:
    with pytest.raises(error, match=said):
        house.make(host, "bad", **changes)  # type: ignore[arg-type]
    assert house.store().names() == []
    assert not [name for name in host.all() if name.startswith(house.prefix)]
    assert images.users_of(images.load_image(house.catalogue, "toy")) == []


def test_addresses_of_others_are_not_given_twice(house: CloneEnv, host: Domains) -> None:
    (vm,) = house.make(host, "web")
    other = vm.with_card(0, network="bridge:br0", addresses=("192.168.7.5/24", "fd00::5/64"), dhcp=False)

    class Bridged(Domains):
        """On a host whose network nat is 192.168.7.0/24 and fd00::/64."""

        def network_addresses(self, name: str) -> list[str]:  # noqa: ARG002
            return ["192.168.7.1/255.255.255.0", "fd00::1/64"]

    if house.uri == "qemu:///system":
        with pytest.raises(PublishError, match=rf"192.168.7.5 is in use by {vm.name}"):
            check_cards_fit(on("nat", "192.168.7.4/24") + on("nat", "192.168.7.5/24"), Bridged(host.host), [other])
        with pytest.raises(PublishError, match=rf"fd00::5 is in use by {vm.name}"):
            check_cards_fit(on("nat", "fd00::5/64"), Bridged(host.host), [other])
        with pytest.raises(PublishError, match=r"192.168.7.1 is in use by this host, on nat"):
            check_cards_fit(on("nat", "192.168.7.1/24"), Bridged(host.host), [])
        with pytest.raises(PublishError, match=r"fd00::1 is in use by this host, on nat"):
            check_cards_fit(on("nat", "fd00::1/64"), Bridged(host.host), [])
        with pytest.raises(RecipeError, match=r"lies outside 192.168.7.0/24"):
            check_cards_fit(on("nat", "10.1.1.1/24"), Bridged(host.host), [])
        with pytest.raises(RecipeError, match=r"lies outside fd00::/64"):
            check_cards_fit(on("nat", "fd01::1/64"), Bridged(host.host), [])


def test_a_foreign_machine_keeps_its_name_and_its_life(house: CloneEnv, host: Domains) -> None:
    name = house.name("foreign")
    xml = f"<domain type='qemu'><name>{name}</name><memory>65536</memory><os><type>hvm</type></os></domain>"
    domain = host.host.connection.defineXML(xml)
    try:
        with pytest.raises(PublishError, match=f"libvirt already has a machine {name}"):
            house.make(host, "foreign")
        with pytest.raises(PublishError, match="was not made by builder"):
            host.undefine(name, domain.UUIDString())
        done = house.run("vm", "delete", name)
        assert done.returncode == 7
        assert f"error: {name} was not made by builder and is left alone" in done.stderr
        assert house.run("vm", "start", name).returncode == 7
        assert host.look(name) is not None
        # A clone whose name somebody else took meanwhile: neither is touched by mistake.
        assert house.store().names() == []
    finally:
        domain.undefine()


def test_deleting_removes_what_the_clone_owned_and_nothing_else(
    house: CloneEnv, host: Domains, store: CloneStore
) -> None:
    one, two = house.make(host, "pair", count=2)
    (house.vms / one.name / "notes.txt").write_text("mine")
    left = store.delete([one.name])
    assert [path.name for path in left] == ["notes.txt"]
    assert [path.name for path in (house.vms / one.name).iterdir()] == ["notes.txt"]
    assert house.store().vms() == [two]
    base = images.load_image(house.catalogue, "toy")
    assert [use.name for use in images.users_of(base)] == [two.name]
    assert host.look(one.name) is None
    assert host.look(two.name) is not None
    with pytest.raises(PublishError, match="contains files that do not belong to a VM"):
        delete.require_free(store, host, [one.name])
    with pytest.raises(PublishError, match=f"there is no VM {one.name}"):
        store.delete([one.name])


def test_a_damaged_record_spoils_no_other_clone(house: CloneEnv, host: Domains) -> None:
    one, two = house.make(host, "pair", count=2)
    (house.vms / one.name / record.RECORD).write_text("{torn")
    assert house.store().vms() == [two]
    listed = house.run("vm", "list")
    assert f"the record of {one.name} cannot be read" in listed.stderr
    assert [line.split()[0] for line in listed.stdout.splitlines()[1:]] == [two.name]
    assert house.run("vm", "start", one.name).returncode == 7
    assert house.run("vm", "delete", one.name).returncode == 0
    assert_whole(house, host)
    assert house.store().vms() == [two]


def test_a_copied_folder_is_not_taken_for_the_vm(house: CloneEnv, host: Domains) -> None:
    (vm,) = house.make(host, "web")
    copy = f"{vm.name}.bak"
    subprocess.run(["cp", "-a", house.vms / vm.name, house.vms / copy], check=True)
    assert house.store().vms() == [vm]
    started = house.run("vm", "start", copy)
    assert (started.returncode, f"its folder is a copy of that of {vm.name}" in started.stderr) == (7, True)
    assert house.run("vm", "delete", copy).returncode == 0
    assert not (house.vms / copy).exists()
    assert house.store().vms() == [vm]
    assert host.look(vm.name) is not None
    assert_whole(house, host)


def test_the_base_of_a_clone_is_not_pruned(house: CloneEnv, host: Domains, store: CloneStore) -> None:
    (vm,) = house.make(host, "web")
    house.publish(b"newer\r\n")
    done = images.prune(house.catalogue, ["toy"], 1)
    assert [why for _, why in done.kept] == [f"used by {vm.name}"]
    listed = json.loads(house.run("vm", "list", "--json").stdout)
    assert listed[0]["newer"] == images.load_image(house.catalogue, "toy").version
    assert store.delete([vm.name]) == []
    assert len(images.prune(house.catalogue, ["toy"], 1).removed) == 1


def test_a_deleted_base_is_told_before_anything_starts(house: CloneEnv, host: Domains, store: CloneStore) -> None:
    (vm,) = house.make(host, "web")
    assert vm.base is not None
    Path(vm.base).unlink()
    with pytest.raises(PublishError, match=f"the base of {vm.name} is gone"):
        store.start(vm.name)
    with pytest.raises(PublishError, match=r"is gone"):
        house.make(host, "other")


def clone_in(house: CloneEnv) -> None:
    with domains.connect(house.uri) as host:
        house.make(host, "killed", count=2)


def delete_in(house: CloneEnv) -> None:
    with house.store() as store:
        store.delete([house.name("killed-1")])


def assert_whole(house: CloneEnv, host: Domains) -> None:
    """Every clone on record is defined and entered, and there is nothing else."""
    listed = {vm.name for vm in house.store().vms()}
    assert listed == {name for name in host.all() if name.startswith(f"{house.prefix}-")}
    assert listed == set(house.store().names())
    base = images.load_image(house.catalogue, "toy")
    assert listed == {use.name for use in images.users_of(base)}
    for name in listed:
        assert {record.DISK, record.SEED, record.RECORD} <= {path.name for path in (house.vms / name).iterdir()}


def test_cloning_killed_anywhere_is_mended_by_the_next_command(
    house: CloneEnv, host: Domains, store: CloneStore
) -> None:
    kills = 0
    for _ in processes.killed_before_each_change(clone_in, lambda _: (house,), every=3):
        whole = house.store().vms()
        assert len(whole) < 3
        with house.store().lock():
            delete.repair(store, host)
        assert_whole(house, host)
        assert house.store().vms() == whole
        for vm in whole:
            store.delete([vm.name])
        kills += 1
    assert kills > 5
    assert len(house.store().vms()) == 2
    assert_whole(house, host)


def test_deleting_killed_anywhere_is_finished_by_the_next_command(
    house: CloneEnv, host: Domains, store: CloneStore
) -> None:
    name = house.name("killed-1")

    def again(_: int) -> tuple[CloneEnv]:
        if name not in [vm.name for vm in house.store().vms()]:
            with house.store().lock():
                delete.repair(store, host)
            house.make(host, "killed-1")
        return (house,)

    kills = 0
    for _ in processes.killed_before_each_change(delete_in, again, every=2):
        if name in [vm.name for vm in house.store().vms()]:
            # Not deleted yet: it can be started, whatever libvirt was told already.
            assert lifecycle.state_of(house.store().find(name), host.look(name)) in ("off", "undefined")
        kills += 1
    assert kills > 2
    assert house.store().names() == []
    assert_whole(house, host)


def test_of_two_who_want_one_name_one_gets_it(house: CloneEnv, host: Domains) -> None:
    both = [processes.start(_one_or_none, house) for _ in range(2)]
    assert sorted(processes.status(process) for process in both) == [0, 7]
    assert len(house.store().vms()) == 2
    assert_whole(house, host)


def _one_or_none(house: CloneEnv) -> None:
    try:
        clone_in(house)
    except PublishError as fault:
        raise SystemExit(fault.exit_code) from fault


def test_a_killed_cloner_does_not_hold_the_image(house: CloneEnv, host: Domains) -> None:
    assert processes.status(processes.start(_die_in_the_middle, house)) == -signal.SIGKILL
    house.publish(b"newer\r\n")
    torn = images.prune(house.catalogue, ["toy"], 1)
    # Until somebody mends it, the torn clone counts as a user: its disk is there.
    assert [why for _, why in torn.kept] == [f"used by {house.name('torn')}"]
    house.make(host, "next")
    assert len(images.prune(house.catalogue, ["toy"], 1).removed) == 1
    assert not list((house.catalogue / "toy" / references.FOLDER).glob("*/*torn*"))


def _die_in_the_middle(house: CloneEnv) -> None:
    class Deadly(Domains):
        """Dies where libvirt would be told."""

        def define(self, spec: object) -> None:  # noqa: ARG002
            os.kill(os.getpid(), signal.SIGKILL)

    with domains.connect(house.uri) as host:
        house.make(Deadly(host.host), "torn")
