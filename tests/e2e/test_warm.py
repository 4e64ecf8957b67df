"""A recipe with `warm: true`: two instant clones pass the gate of the twins, and the version gets its warm state."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest

from tests.e2e.conftest import Person

pytestmark = [pytest.mark.e2e, pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(1200)]
IMAGE = "centos7-minimal-rehearsal"
RSA = "until [ -s /etc/ssh/ssh_host_rsa_key.pub ]; do sleep 1; done; ssh-keyscan -t rsa 127.0.0.1 2> /dev/null"
OVERRIDES = "systemctl show -p DropInPaths sshd-keygen.service | cut -d= -f2"


def openssh() -> tuple[int, ...]:
    """The version of OpenSSH: that of the guest comes from this host's packages."""
    told = subprocess.run(["ssh", "-V"], check=True, capture_output=True, text=True).stderr
    return tuple(map(int, re.findall(r"\d+", told)[:2]))


def overrides(person: Person) -> list[str]:
    """What changes the unit that makes the guest's host keys."""
    done = person.run("vm", "ssh", "kept", "--within", "600", "--", OVERRIDES)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_instant_clones_pass_the_gate_and_the_version_is_warm(person: Person, golden: Any) -> None:
    medium = person.folder / "medium.iso"
    told = person.json("run", "centos7-minimal", "--media", str(medium), "--set", "warm=true")
    assert told["built"] == ["verify", "publish"]
    assert told["image"]["version"] == golden["image"]["version"]
    # The version was published before, with the proof of then: the new one is in the store.
    [digest] = [stage["digest"] for stage in told["stages"] if stage["stage"] == "verify"]
    objects = person.folder / "artifacts" / ".store" / "objects"
    proof = json.loads((objects / digest / "verify.json").read_text())["twins"]
    assert list(proof) == ["twin-a", "twin-b", "instant-a", "instant-b"]
    for field in ("machine_id", "hostname", "mac"):
        assert len({facts[field] for facts in proof.values()}) == 4
    assert len({key for facts in proof.values() for key in facts["host_keys"]}) == sum(
        len(facts["host_keys"]) for facts in proof.values()
    )
    assert "random_bytes" not in proof["instant-a"]
    shown = person.json("images", "show", IMAGE)
    assert len(shown["warm"]) == 1
    try:
        made = person.run("clone", IMAGE, "kept", "--instant", "--wait")
        assert made.returncode == 0, made.stderr
        assert "warm state" not in made.stderr
        assert "not instant" not in made.stderr
        # sshd did not wait for the other keys, and serves them nevertheless.
        served = person.run("vm", "ssh", "kept", "--", RSA)
        assert served.stdout.startswith("127.0.0.1 ssh-rsa "), served.stderr
        assert len(overrides(person)) == (0 if openssh() >= (9, 8) else 1)
        assert person.run("vm", "stop", "kept").returncode == 0
        assert person.run("vm", "start", "kept").returncode == 0
        assert overrides(person) == []
    finally:
        assert person.run("vm", "delete", "kept").returncode == 0
