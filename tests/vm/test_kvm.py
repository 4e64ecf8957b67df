"""Where QEMU's user cannot open /dev/kvm, libvirt keeps what it learned about QEMU, and machines start at once."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.vm.machine_spec import MachineSpec
from tests.vm.conftest import in_own_namespaces, needs_root

pytestmark = [pytest.mark.vm, needs_root]
MakeSpec = Callable[..., MachineSpec]

# A device of its own, with a group that QEMU's user is not in, as containers have it.
FOREIGN = "mknod -m 660 /run/kvm c 10 232; chgrp 12345 /run/kvm; mount --bind /run/kvm /dev/kvm;"
# libvirt's debug log says so when it drops what it knows of QEMU (virQEMUCapsIsValid), and counts the QEMUs it asks.
BOOTS = """
import json, os, pickle, sys
from pathlib import Path
log = Path("/run/libvirtd.log")
os.environ |= {"LIBVIRT_LOG_FILTERS": "1:qemu", "LIBVIRT_LOG_OUTPUTS": f"1:file:{log}"}
from builder.vm.connection import connect
def seen():
    text = log.read_text()
    return {"dropped": text.count("enabled when probing"), "probes": text.count("Try to probe capabilities")}
with connect("qemu:///system") as hypervisor:
    offered = hypervisor.connection.getCapabilities()
    told = {"kvm": "<domain type='kvm'" in offered, "before": seen(), "ends": []}
    for spec in pickle.loads(bytes.fromhex(sys.argv[1])):
        with hypervisor.boot(spec, Path(sys.argv[2])) as machine:
            told["ends"].append(machine.wait_off(30, print).how)
print(json.dumps({**told, "after": seen()}))
"""


def test_machines_start_without_probing_again(make_spec: MakeSpec, place: Path) -> None:
    specs = pickle.dumps([make_spec({"ttys0": b"up\r\n"}) for _ in range(2)]).hex()
    done = in_own_namespaces("-c", BOOTS, specs, str(place / "console.log"), first=FOREIGN)
    assert done.stdout, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["ends"] == ["shutdown", "shutdown"]
    assert not told["kvm"]
    assert told["before"]["probes"] > 0
    assert told["after"] == {**told["before"], "dropped": 0}
    assert (place / "console.log").read_bytes() == b"up\r\n" * 2
