"""From a golden image to three machines that answer, each with its own identity; and back to nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builder.system import retry
from tests.e2e.conftest import Person

pytestmark = [pytest.mark.e2e, pytest.mark.vm, pytest.mark.slow]
IMAGE = "centos7-minimal-rehearsal"
NAMES = ["farm-1", "farm-2", "farm-3"]
WHO = (
    "hostname; cat /etc/machine-id; ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub; df -B1 --output=size / | tail -1"
)


def content(path: Path) -> tuple[int, int, int, int]:
    """What changes when a file is written to, given away or replaced."""
    facts = path.stat()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_uid


def test_three_clones_come_up_as_themselves_and_go_without_a_trace(person: Person, golden: Any) -> None:
    base = Path(golden["image"]["disk"])
    before = content(base)
    try:
        made = person.json("clone", IMAGE, "farm", "--count", "3", "--wait", "--disk-size", "10GiB", "--memory", "1GiB")
        assert [vm["name"] for vm in made] == NAMES
        told = []
        for name in NAMES:
            done = person.run("vm", "ssh", name, "--", WHO)
            assert done.returncode == 0, done.stderr
            told.append(done.stdout.split("\n"))
        assert [lines[0] for lines in told] == NAMES
        for line in (1, 2):
            assert len({lines[line] for lines in told}) == 3
        # The root file system grew with the disk.
        assert all(int(lines[3]) > 9 << 30 for lines in told)
        assert [vm["state"] for vm in person.json("vm", "list")] == ["running"] * 3
        shown = person.json("images", "show", IMAGE)
        assert sorted(user["name"] for user in shown["users"]) == NAMES
        changes_while_it_runs(person, "farm-1")
        assert person.run("vm", "stop", "farm-1", "--within", "240").returncode == 0
        assert person.run("vm", "stop", "farm-2", "farm-3", "--now").returncode == 0
    finally:
        left = [vm["name"] for vm in json.loads(person.run("vm", "list", "--json").stdout)]
        if left:
            assert person.run("vm", "delete", *left).returncode == 0
    assert person.json("images", "show", IMAGE)["users"] == []
    assert content(base) == before
    assert list((person.folder / "artifacts" / "vms").iterdir()) == [person.folder / "artifacts" / "vms" / ".lock"]
    assert person.json("images", "verify", IMAGE)[0]["good"]


def test_instant_clones_are_themselves_and_ordinary_after_a_power_off(person: Person, golden: Any) -> None:
    names = ["quick-1", "quick-2"]
    try:
        made = person.run("clone", IMAGE, "quick", "--count", "2", "--instant", "--wait")
        assert made.returncode == 0, made.stderr
        assert "not instant" not in made.stderr
        told = [identity(person, name) for name in names]
        assert [lines[0] for lines in told] == names
        assert all(one != other for one, other in zip(*told, strict=True))
        for name in names:
            log = (person.folder / "artifacts" / "vms" / name / "ttyS1.log").read_text()
            assert "WARNING" not in log
            assert log.count("HOSTKEY") == 1
            done = person.run("vm", "ssh", name, "--", "systemctl is-system-running --wait; ls /var/lib/builder")
            assert done.stdout.split() == ["running", "disk-sectors", "instance-id", "network"]
        assert person.run("vm", "stop", "quick-1", "--now").returncode == 0
        assert person.run("vm", "flatten", "quick-1").returncode == 0
        assert person.run("vm", "start", "quick-1").returncode == 0
        assert identity(person, "quick-1")[:4] == told[0][:4]
    finally:
        assert person.run("vm", "delete", *names).returncode == 0


def identity(person: Person, name: str) -> list[str]:
    """Host name, machine-id, host key, address of the card; and a random number."""
    command = f"{WHO.rpartition(';')[0]}; cat /sys/class/net/eth0/address; od -An -N 64 -w64 -tx1 /dev/urandom"
    done = person.run("vm", "ssh", name, "--within", "600", "--", command)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def changes_while_it_runs(person: Person, name: str) -> None:
    """Processors and memory come and go under a guest that has drivers for both, and the guest shows it."""

    def shown() -> tuple[int, int]:
        told = person.run("vm", "ssh", name, "--", "nproc; sed -n 's/MemTotal: *//p' /proc/meminfo").stdout.split()
        return int(told[0]), int(told[1]) >> 10

    vcpus, memory = shown()
    assert person.json("vm", "set", name, "--vcpus", str(vcpus + 1), "--memory", "1280MiB")["waits"] == []
    assert retry.until(lambda: True if shown()[0] == vcpus + 1 else None, within=60, every=1)
    assert 200 < shown()[1] - memory <= 256
    assert person.json("vm", "set", name, "--memory", "768MiB")["waits"] == []
    assert -260 < shown()[1] - memory < -200
