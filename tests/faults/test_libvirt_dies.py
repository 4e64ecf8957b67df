"""libvirtd dies in mid-stage: reported at once, its machines are ended, and the next run starts it again."""

from __future__ import annotations

import json
import os
import time

import pytest

from tests.fault_table import FaultRow
from tests.faults.conftest import Machines
from tests.vm.conftest import in_own_namespaces

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(os.geteuid() != 0, reason="name spaces need root"),
]
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("stage", "how"),
    [
        ("install", "killed"),
        ("verify", "killed"),
        pytest.param("install", "restarted", marks=SLOW),
        pytest.param("verify", "restarted", marks=SLOW),
        pytest.param("verify", "stopped", marks=SLOW),
    ],
)
def test_libvirtd_goes(stage: str, how: str, machines: Machines, fault_row: FaultRow) -> None:
    with fault_row(f"libvirtd is {how} in mid-{stage}", place=machines.place) as row:
        done = in_own_namespaces("-m", "tests.faults.own_libvirt", str(machines.place), stage, how)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        row.judged(told["cause"], happened=time.time() - told["seconds"])
        assert (told["cause"], told["transient"]) == ("libvirt gone", True), told
