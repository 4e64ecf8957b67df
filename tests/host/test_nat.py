"""A NAT network of `host prepare`, and clones with their own addresses on it. The libvirt daemon is the test's own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from builder import images
from tests.fakes.boot_sector import boot_sector, disk_image
from tests.host.conftest import SOURCE, Cell, World

PREPARE = ["host", "prepare", "--network-only", "--nat"]
MADE_FOR = {"vcpus": 1, "memory": 64 << 20, "devices": "virtio", "machine": "q35", "firmware": "bios"}
CLONE = """
import sys
from pathlib import Path
from builder import images
from builder.clones.cards import card_requests
from builder.clones.create import CreateOptions
from builder.clones.request import CloneRequest
from builder.clones.store import CloneStore
folder, name, words = Path(sys.argv[1]), sys.argv[2], eval(sys.argv[3])
with CloneStore(folder / "vms", folder / "images", "qemu:///system") as store:
    image = images.load_image(folder / "images", "toy")
    cards = card_requests([("--network", "nat"), *words.pop("cards", [])])
    request = CloneRequest(name, cards=cards, **words)
    store.create(image, request, CreateOptions(accel="tcg", start=False))
"""
CHANGE = """
import json, sys
from pathlib import Path
from xml.etree import ElementTree
from builder.clones.change import VmChanges
from builder.clones.store import CloneStore
from builder.errors import BuilderError
from builder.iso.seed_cd import read_iso
folder, name, steps = Path(sys.argv[1]), sys.argv[2], eval(sys.argv[3])
with CloneStore(folder / "vms", folder / "images", "qemu:///system") as store:
    for words in steps:
        try:
            vm = store.change(name, VmChanges(cards=tuple(map(tuple, words)))).vm
        except BuilderError as error:
            print(json.dumps(error.brief))
            continue
        libvirt = store.libvirt().host.connection
        network = ElementTree.fromstring(libvirt.networkLookupByName("builder").XMLDesc(0))
        conf = read_iso(folder / "vms" / name / "seed.iso")["builder.conf"].decode()
        told = {
            "cards": vm.model_dump(mode="json")["cards"],
            "reserved": {str(one.get("name")): one.get("ip") for one in network.iterfind("ip/dhcp/host")},
            "seed": [line for line in conf.splitlines() if line.startswith("card=")],
            "xml": libvirt.lookupByName(name).XMLDesc(2),
        }
        print(json.dumps(told))
"""


def reserved(host: Cell) -> dict[str, str]:
    """Addresses by guest, in the network that runs and in the description that is kept: they are the same."""
    told = []
    for words in ([], ["--inactive"]):
        xml = host.run("virsh", "-c", "qemu:///system", "net-dumpxml", "builder", *words).stdout
        hosts = ET.fromstring(xml).findall("ip/dhcp/host")
        told.append({str(one.get("name")): str(one.get("ip")) for one in hosts})
    assert told[0] == told[1]
    return told[0]


@pytest.fixture
def folder() -> Iterator[Path]:
    """An image of 1 MiB that can be cloned, where QEMU's user can reach it."""
    place = Path(tempfile.mkdtemp(prefix="builder-test-", dir="/var/tmp"))
    place.chmod(0o711)
    raw = disk_image(place / "disk.raw", boot_sector(end="hang"))
    manifest = {"stages": {"verify": {"inputs": MADE_FOR, "seconds": 1.0}}}
    sealed = raw.with_suffix(".qcow2")
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, sealed], check=True)
    sealed.chmod(0o444)
    images.publish(place / "artifacts/images", "toy", {"toy.qcow2": sealed}, manifest)
    yield place / "artifacts"
    shutil.rmtree(place)


def test_a_network_that_runs(world: World) -> None:
    host, _ = world
    overlap = host.builder(*PREPARE, "10.77.0.0/25")
    assert overlap.returncode == 2
    assert "overlaps 10.77.0.0/24" in overlap.stderr
    made = host.builder(*PREPARE, "192.168.150.0/24")
    assert made.returncode == 0, made.stderr
    assert "192.168.150.1/24" in host.run("ip", "addr", "show", "virbr-builder").stdout
    assert host.builder(*PREPARE, "192.168.150.0/24").stdout == "nothing to do\n"
    other = host.builder(*PREPARE, "192.168.151.0/24")
    assert other.returncode == 3
    assert "another subnet" in other.stderr
    assert host.builder("host", "restore").returncode == 0
    assert host.run("ip", "link", "show", "virbr-builder", check=False).returncode != 0
    # Not running, yet in the way as soon as it does.
    xml = host.work / "off.xml"
    xml.write_text("<network><name>off</name><forward/><ip address='192.168.150.1' netmask='255.255.255.0'/></network>")
    host.run("virsh", "-c", "qemu:///system", "net-define", xml)
    overlap = host.builder(*PREPARE, "192.168.150.128/25")
    assert overlap.returncode == 2
    assert "which is libvirt's network off" in overlap.stderr


def test_clones_have_an_address_for_good(world: World, folder: Path) -> None:
    host, _ = world
    assert host.builder(*PREPARE, "192.168.150.0/28").returncode == 0
    paths = ("env", f"PYTHONPATH={SOURCE}", sys.executable, "-c", CLONE, folder)
    host.run(*paths, "web", "{'count': 3}")
    host.run(*paths, "fixed", "{'cards': [('--address', '192.168.150.9/28')]}")
    given = reserved(host)
    assert sorted(given) == ["fixed", "web-1", "web-2", "web-3"]
    assert given["fixed"] == "192.168.150.9"
    assert len(set(given.values())) == 4
    # Outside what DHCP hands out to others (the upper half).
    assert all(IPv4Address(given[f"web-{number}"]) < IPv4Address("192.168.150.8") for number in (1, 2, 3))

    place = ("--artifacts", folder)
    listed = json.loads(host.builder(*place, "vm", "list", "--json").stdout)
    assert {vm["name"] for vm in listed} == set(given)
    assert [card["network"] for vm in listed for card in vm["cards"]] == ["nat:builder"] * 4
    assert given["web-1"] in host.builder(*place, "vm", "list").stdout
    taken = host.run(*paths, "late", "{'cards': [('--address', '192.168.150.2/28')]}", check=False)
    assert "address 192.168.150.2 is in use by web-" in taken.stderr
    assert reserved(host) == given

    moved = host.builder(*place, "vm", "set", "web-1", "--network", "user")
    assert moved.returncode == 0, moved.stderr
    assert "web-1" not in reserved(host)
    gone = host.builder(*place, "vm", "delete", "web-1", "web-2", "web-3", "fixed")
    assert gone.returncode == 0, gone.stderr
    assert reserved(host) == {}


def test_each_card_has_an_address_for_good(world: World, folder: Path) -> None:
    host, _ = world
    assert host.builder(*PREPARE, "192.168.150.0/28").returncode == 0
    start = ("env", f"PYTHONPATH={SOURCE}", sys.executable, "-c")
    host.run(*start, CLONE, folder, "pair", "{'cards': [('--network', 'nat')]}")
    static = ("--address 192.168.150.9/28", "--address fd00::9/64")
    steps = (
        ["--network nat", "--network nat"],
        ["--network nat"],
        ["--network user", "--network nat"],
        ["--network nat", "--network user"],
        ["--network user", "--network user"],
        # A third card, an address for the second; then two are taken away.
        ["--network nat", "--network nat", *static, "--network user"],
        ["--network none", "--network nat", "--network none"],
        ["--network none"],
        ["--address dhcp"],
    )
    told = host.run(*start, CHANGE, folder, "pair", repr([[word.split() for word in words] for words in steps])).stdout
    both, few, second_only, first_only, twice, three, left, none, again = map(json.loads, told.splitlines())
    first, second = both["cards"]
    # One name is one address: the first card's there.
    assert both["reserved"] == {"pair": first["seen"], "None": second["seen"]}
    assert first["seen"] != second["seen"]
    assert few == "pair has 2 network cards, and --network names 1"
    assert second_only["reserved"] == {"None": second["seen"]}
    assert first_only["reserved"] == {"pair": first_only["cards"][0]["seen"]}
    assert twice.startswith("--network user is there twice")
    # Each card keeps its MAC address.
    one, two, new = three["cards"]
    assert [one["mac"], two["mac"]] == [first["mac"], second["mac"]]
    assert three["reserved"] == {"pair": one["seen"], "None": "192.168.150.9"}
    assert three["seed"] == [
        f"card={one['mac']} dhcp",
        f"card={two['mac']} 192.168.150.9/28 fd00::9/64 no-default4",
        f"card={new['mac']} dhcp no-default4",
    ]
    assert f"mac={new['mac']},bus=pcie.0,addr=0x12" in three["xml"]
    assert (left["cards"], left["reserved"]) == ([two], {"None": "192.168.150.9"})
    assert none == "pair would have no network card"
    assert again["reserved"] == {"pair": again["cards"][0]["seen"]}
    assert again["seed"] == [f"card={second['mac']} dhcp"]
    assert host.builder("--artifacts", folder, "vm", "delete", "pair").returncode == 0
    assert reserved(host) == {}


def test_a_change_takes_no_address_from_another_card(world: World, folder: Path) -> None:
    host, _ = world
    assert host.builder(*PREPARE, "192.168.150.0/28").returncode == 0
    start = ("env", f"PYTHONPATH={SOURCE}", sys.executable, "-c")
    host.run(*start, CLONE, folder, "pair", "{}")
    host.run(*start, CLONE, folder, "other", "{}")
    others = reserved(host)["other"]
    foreign = "<host mac='52:54:00:00:00:99' ip='192.168.150.14'/>"
    update = ("virsh", "-c", "qemu:///system", "net-update", "builder", "add-last", "ip-dhcp-host", foreign)
    host.run(*update, "--live", "--config")
    steps = (
        ["--network user", "--network nat"],
        # Refused by libvirt: what would have left is still there.
        ["--network nat", "--address 192.168.150.14/28", "--network none"],
        # The card that comes there first has the name already, and keeps it.
        ["--network nat", "--network nat"],
        # Another address beside it.
        ["--network nat", "--network nat", "--address dhcp", "--address fd00::9/64"],
        # Refused by the records, and by libvirt.
        ["--network nat", "--network nat", f"--address {others}/28"],
        ["--network nat", "--network nat", "--address 192.168.150.14/28"],
        ["--network nat", "--network nat", "--address dhcp"],
    )
    told = host.run(*start, CHANGE, folder, "pair", repr([[word.split() for word in words] for words in steps])).stdout
    second_only, undone, both, sixth, used, refused, again = map(json.loads, told.splitlines())
    address = second_only["cards"][1]["seen"]
    fixed = {"other": others, "pair": address}
    assert {name: second_only["reserved"][name] for name in fixed} == fixed
    first, second = both["cards"]
    assert {name: both["reserved"][name] for name in fixed} == fixed
    assert (second["seen"], sixth["cards"][1]["seen"]) == (address, address)
    assert used == f"address {others} is in use by other"
    assert undone == refused == "no address could be reserved on the network builder"
    assert [card["seen"] for card in again["cards"]] == [first["seen"], address]
    assert again["reserved"] == sixth["reserved"] == both["reserved"]


def test_a_snapshot_takes_the_network_back(world: World, folder: Path) -> None:
    host, _ = world
    assert host.builder(*PREPARE, "192.168.150.0/28").returncode == 0
    start = ("env", f"PYTHONPATH={SOURCE}", sys.executable, "-c", CLONE, folder)
    host.run(*start, "web", "{}")
    before = reserved(host)
    words = ("--artifacts", folder, "vm")
    assert host.builder(*words, "snapshot", "web", "one").returncode == 0
    assert host.builder(*words, "set", "web", "--network", "user").returncode == 0
    assert reserved(host) == {}
    host.run(*start, "late", repr({"cards": [("--address", f"{before['web']}/28")]}))
    refused = host.builder(*words, "snapshot", "web", "one", "--revert")
    assert refused.returncode == 7
    assert f"address {before['web']} is in use by late" in refused.stderr
    assert host.builder(*words, "delete", "late").returncode == 0
    done = host.builder(*words, "snapshot", "web", "one", "--revert")
    assert done.returncode == 0, done.stderr
    assert reserved(host) == before
    (vm,) = json.loads(host.builder(*words, "list", "--json").stdout)
    assert [(card["network"], card["seen"]) for card in vm["cards"]] == [("nat:builder", before["web"])]


def test_a_build_that_needs_a_network_says_so_before_it_begins(world: World) -> None:
    host, _ = world
    for mode, said in (("nat", "has no network none"), ("bridge", "has no bridge none")):
        sets = ["--set", f"network.mode={mode}", "--set", "network.name=none"]
        done = host.builder("run", "centos7-minimal", "--media", "rehearsal", *sets)
        assert done.returncode == 3
        assert said in done.stderr
        assert "builder host prepare" in done.stderr
        assert "rehearsal medium" not in done.stderr
