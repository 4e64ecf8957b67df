"""A cloud image is built, proved and cloned through NoCloud, with the real cloud-init, growpart and guest agent."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from builder.clones.record import CONSOLE, REPORTS, SEED
from builder.errors import UnreachableError
from builder.guest import login, seed, ssh
from builder.guest.cards import CardSetup
from builder.guest.login import Endpoint, Guest, Wait
from builder.guest.seed import Identity
from builder.iso import seed_cd
from builder.releases import Name
from builder.vm import domains
from tests.conftest import Rehearsal
from tests.e2e.conftest import Person

pytestmark = [pytest.mark.e2e, pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(7200)]
NAMES = ["cloud-1", "cloud-2"]
ADDRESSES = ["192.168.237.10", "192.168.237.11"]
HOST = "192.168.237.1"
USER_DATA = """\
#cloud-config
write_files:
  - {path: /root/mine, content: "of my own\\n"}
runcmd:
  - echo ran >> /root/ran
"""
# Who it is, one fact a line; the last ones are what user-data did.
WHO = """
cloud-init status --wait > /dev/null || cloud-init status --long
hostname
cat /etc/machine-id /var/lib/cloud/data/instance-id
ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub
ip -4 -o addr show dev eth0 | awk '{print $4}'
ip -4 route show default | awk '{print $3}'
sed -n 's/^nameserver //p' /etc/resolv.conf
df -B1 --output=size / | tail -1
ls -d /etc/sysconfig/network-scripts/*eth* /etc/NetworkManager/system-connections/* 2> /dev/null | xargs
cat /root/mine /root/ran
"""
WORDS = (
    "hostname",
    "machine_id",
    "instance",
    "host_key",
    "address",
    "gateway",
    "dns",
    "size",
    "profiles",
    "mine",
    "ran",
)


def facts(text: str) -> dict[str, str]:
    lines = text.splitlines()
    assert len(lines) >= len(WORDS), text
    return dict(zip(WORDS, [*lines[: len(WORDS) - 1], " ".join(lines[len(WORDS) - 1 :])], strict=True))


def who(person: Person, name: str) -> dict[str, str]:
    done = person.run("vm", "ssh", name, "--within", "1200", "--", WHO, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    return facts(done.stdout)


@pytest.fixture
def bridge() -> Iterator[str]:
    """A bridge of this host's with an address and without DHCP."""
    name = f"bt{secrets.token_hex(3)}"
    subprocess.run(["ip", "link", "add", name, "type", "bridge"], check=True)
    try:
        subprocess.run(["ip", "addr", "add", f"{HOST}/24", "dev", name], check=True)
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
        yield name
    finally:
        subprocess.run(["ip", "link", "delete", name], check=True)


@dataclass(frozen=True)
class Cloud:
    """Who has built an image: root, whose clones may be on a bridge; and the profile that cloud-init writes there."""

    person: Person
    image: str
    profile: str


@pytest.fixture(
    scope="module",
    params=[
        ("centos7-cloud", "el7", "/etc/sysconfig/network-scripts/ifcfg-eth0"),
        ("rocky9-cloud", "el9", "/etc/NetworkManager/system-connections/cloud-init-eth0.nmconnection"),
    ],
    ids=lambda row: row[0],
)
def cloud(request: pytest.FixtureRequest, root_person: Person, rehearsal_of: Rehearsal) -> Cloud:
    recipe: str
    release: Name
    recipe, release, profile = request.param
    medium = root_person.folder / f"{release}.iso"
    shutil.copyfile(rehearsal_of(release), medium)
    medium.chmod(0o444)
    built = root_person.run("run", recipe, "--media", medium.name, "--json", timeout=3600)
    assert built.returncode == 0, built.stderr[-4000:]
    return Cloud(root_person, f"{recipe}-rehearsal", profile)


def test_clones_are_cloud_inits(cloud: Cloud, bridge: str) -> None:
    person = cloud.person
    (person.folder / "mine.yaml").write_text(USER_DATA)
    words = ["--count", "2", "--network", f"bridge:{bridge}", "--address", f"{ADDRESSES[0]}/24", "--gateway", HOST]
    words += ["--dns", HOST, "--user-data", "mine.yaml", "--disk-size", "10GiB", "--memory", "1GiB", "--wait"]
    try:
        made = person.run("clone", cloud.image, "cloud", *words, "--json", timeout=2400)
        assert made.returncode == 0, made.stderr
        vms = json.loads(made.stdout)
        told = [who(person, name) for name in NAMES]
        for vm, said, address in zip(vms, told, ADDRESSES, strict=True):
            is_what_its_seed_says(vm, said, address)
            assert said["profiles"] == cloud.profile
        for word in ("machine_id", "host_key", "instance"):
            assert told[0][word] != told[1][word]
        assert person.run("vm", "delete", "cloud-2").returncode == 0
        assert person.run("vm", "stop", "cloud-1", "--within", "600").returncode == 0
        assert person.run("vm", "start", "cloud-1").returncode == 0
        assert who(person, "cloud-1") == told[0]
        another_instance_is_another_machine(person, vms[0], told[0])
    finally:
        left = [vm["name"] for vm in json.loads(person.run("vm", "list", "--json").stdout)]
        if left:
            assert person.run("vm", "delete", *left).returncode == 0


def is_what_its_seed_says(vm: dict[str, Any], said: dict[str, str], address: str) -> None:
    """Host name, address, grown root, user-data; builder's unit told what the proof needs, and no more."""
    expected = {
        "hostname": vm["name"],
        "instance": f"vm-{vm['uuid']}",
        "address": f"{address}/24",
        "gateway": HOST,
        "dns": HOST,
        "mine": "of my own",
        "ran": "ran",
    }
    assert {word: said[word] for word in expected} == expected
    assert int(said["size"]) > 9 << 30
    lines = (Path(vm["folder"]) / REPORTS).read_text().split("\n")
    reports = [line.split()[1] for line in lines if line.startswith("BUILDER ")]
    assert set(reports) == {"HOSTKEY", "READY"}
    assert reports[-1] == "READY"
    # No server leases addresses here, so it is the agent that libvirt has it from.
    with domains.connect("qemu:///system") as host:
        assert host.address(vm["name"], vm["cards"][0]["mac"]) == address


def another_instance_is_another_machine(person: Person, vm: dict[str, Any], before: dict[str, str]) -> None:
    """With another instance-id in its seed cloud-init makes new host keys, and runs user-data again."""
    folder, address = Path(vm["folder"]), ADDRESSES[0]
    assert person.run("vm", "stop", vm["name"], "--within", "600").returncode == 0
    key = ssh.load_key(Path(vm["key"]))
    card = CardSetup(vm["cards"][0]["mac"], (f"{address}/24",), dhcp=False, gateways=(HOST,))
    identity = Identity("again", "renamed", (ssh.public_line(key),), (card,), (HOST,))
    owner = (folder / SEED).stat()
    data = seed.files(identity, user_data=USER_DATA.encode())
    seed_cd.write_iso(folder / SEED, seed_cd.IDENTITY_LABEL, data, mode=0o400)
    os.chown(folder / SEED, owner.st_uid, owner.st_gid)
    assert person.run("vm", "start", vm["name"]).returncode == 0
    guest = Guest(
        vm["name"], "again", folder / REPORTS, folder / CONSOLE, Endpoint(address), UnreachableError, "see its console"
    )
    with login.log_in(guest, key, Wait(1200)) as opened:
        after = facts(opened.session.run(WHO).out)
    assert after["host_key"] != before["host_key"]
    same = {"machine_id": before["machine_id"], "size": before["size"], "address": before["address"]}
    assert {word: after[word] for word in same} == same
    assert (after["hostname"], after["instance"], after["ran"]) == ("renamed", "again", "ran ran")
