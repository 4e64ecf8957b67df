"""A recipe with `warm: true`: two instant clones pass the gate of the twins, and the version gets its warm state."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.conftest import Person

pytestmark = [pytest.mark.e2e, pytest.mark.vm, pytest.mark.slow]
IMAGE = "centos7-minimal-rehearsal"


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
    finally:
        assert person.run("vm", "delete", "kept").returncode == 0
