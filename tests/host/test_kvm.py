"""Where the system's libvirt probes QEMU at each query, `host check` and `run` report it; `host prepare` fixes it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from builder.system import process, retry
from builder.vm import reaper
from tests.host.conftest import FOREIGN, World

pytestmark = pytest.mark.slow
# As something else than builder starts them: libvirtd sees the device.
DAEMONS = ("virtlogd", "libvirtd")


def test_found_said_mended_and_put_back(equipped: World, kvm_of_others: Path, tmp_path: Path) -> None:
    host, _ = equipped
    host.run("mount", "--bind", kvm_of_others, "/dev/kvm")
    host.run("mkdir", "-p", "/run/lock")
    for name in DAEMONS:
        host.run("sh", "-c", f"{sys.executable} -I {reaper.__file__} {process.find(name)} > /dev/null 2>&1 &")
    assert retry.until(lambda: host.run("virsh", "list", check=False).returncode == 0 or None, within=30)
    prepare = ["host", "prepare", "--iso-dir", tmp_path / "kvm/iso", "--store-dir", tmp_path / "kvm/store"]

    def row() -> dict[str, str]:
        rows = json.loads(host.builder("host", "check", "--json").stdout)["rows"]
        return next(each for each in rows if each["name"] == "kvm access")

    found = row()
    assert (found["state"], found["fix"]) == ("warn", "builder host prepare")
    assert found["found"] == "QEMU's user libvirt-qemu may not open /dev/kvm"
    assert "starts QEMU for each look-up" in found["why"]

    with host.start("run", "centos7-minimal", "--media", "rehearsal", "--accel", "tcg") as run:
        assert run.stderr is not None
        heads = ""
        while "machines run with" not in heads and (line := run.stderr.readline()):
            heads += line
        run.terminate()
    assert "starts QEMU for each look-up" in heads

    done = host.builder(*prepare)
    assert done.returncode == 0, done.stderr
    assert "open /dev/kvm to the group kvm" in done.stderr
    assert row()["state"] == "ok"
    assert host.builder(*prepare).stdout == "nothing to do\n"
    assert host.builder("host", "restore").returncode == 0
    assert host.run("stat", "-c", "%g %a", "/dev/kvm").stdout == f"{FOREIGN} 640\n"
