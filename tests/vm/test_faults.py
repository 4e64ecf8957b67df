"""Nothing is left behind when builder or libvirt dies, and no byte of a log is lost."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from builder.system import retry
from builder.vm.connection import Hypervisor
from builder.vm.log_follower import LogFollower, settle
from builder.vm.machine_spec import MachineSpec
from tests.fakes.boot_sector import TTYS0, TTYS1, boot_sector, disk_image, flood_lines
from tests.fault_table import FaultRow
from tests.vm.conftest import in_own_namespaces, needs_root

pytestmark = pytest.mark.vm
MakeSpec = Callable[..., MachineSpec]
ROOT = Path(__file__).parents[2]

# A builder of its own: boots a machine that hangs, tells its name, and waits for it.
CHILD = """
import pickle, sys
from pathlib import Path
from builder.vm.connection import connect
spec = pickle.loads(bytes.fromhex(sys.argv[2]))
with connect(sys.argv[1]) as hypervisor, hypervisor.boot(spec, Path(sys.argv[3])) as machine:
    print("up", flush=True)
    machine.wait_off(600, lambda text: None)
"""


@contextmanager
def another_builder(uri: str, spec: MachineSpec, console: Path) -> Iterator[subprocess.Popen[str]]:

    words = [sys.executable, "-c", CHILD, uri, pickle.dumps(spec).hex(), str(console)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT) as child:
        try:
            assert child.stdout
            assert child.stdout.readline() == "up\n"
            yield child
        finally:
            child.kill()


def test_killed_builder_leaves_no_machine(
    hypervisor: Hypervisor, make_spec: MakeSpec, place: Path, fault_row: FaultRow
) -> None:
    spec = make_spec({"end": "hang"})
    with (
        fault_row("kill -9 of a builder whose machine runs", kind="mend", place=place) as row,
        another_builder(hypervisor.uri, spec, place / "console.log") as child,
    ):
        assert spec.name in hypervisor.machines()
        row.now()
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        gone = retry.until(lambda: spec.name not in hypervisor.machines() or None, within=5)
        row.judged("machine ended by libvirt")
        assert gone


def test_interrupted_builder_leaves_no_machine(hypervisor: Hypervisor, make_spec: MakeSpec, place: Path) -> None:
    spec = make_spec({"end": "hang"})
    with another_builder(hypervisor.uri, spec, place / "console.log") as child:
        os.kill(child.pid, signal.SIGINT)
        child.wait(timeout=30)
        assert spec.name not in hypervisor.machines()


@pytest.mark.parametrize(
    ("port", "lines"),
    [
        pytest.param(TTYS0, 8_000, id="console"),
        pytest.param(TTYS1, 36_000, id="ttyS1, rolled once"),
        pytest.param(TTYS1, 163_840, id="ttyS1, 10 MiB", marks=pytest.mark.slow),
    ],
)
def test_no_byte_of_a_flood_is_lost(
    hypervisor: Hypervisor, make_spec: MakeSpec, place: Path, port: int, lines: int
) -> None:
    spec = make_spec({"flood": (port, lines), "ttys0": b"end 0\r\n", "ttys1": b"end 1\r\n"})
    assert spec.serial1
    with (
        LogFollower(spec.serial1, place / "copy") as follower,
        hypervisor.boot(spec, place / "console.log") as machine,
    ):
        ending = machine.wait_off(300, lambda _: None)
        settle(follower)
    assert ending.how == "shutdown"
    copied = {TTYS0: place / "console.log", TTYS1: place / "copy"}
    for each, last in ((TTYS0, b"end 0\r\n"), (TTYS1, b"end 1\r\n")):
        assert copied[each].read_bytes() == (flood_lines(lines) if each == port else b"") + last
    assert not follower.torn


# The daemons' patience is shortened, so that the guest's last line comes long after it is over.
OUTLAST = """
import dataclasses, pickle, sys
from pathlib import Path
from builder.system import retry
from builder.vm import daemon, domains
from builder.vm.connection import connect
daemon.IDLE = 2
spec = pickle.loads(bytes.fromhex(sys.argv[1]))
def left():
    # By its process: whoever connects to ask is a client, and keeps it.
    found = [entry for entry in Path("/proc").glob("[0-9]*/comm") if entry.read_text() == "virtlogd\\n"]
    return None if found else True
with connect("qemu:///system") as hypervisor:
    with hypervisor.boot(spec, Path(sys.argv[2])):
        print("left" if retry.until(left, within=6) else "stayed")
print("left" if retry.until(left, within=20) else "stayed")
# A machine that stays has no builder that waits for it.
kept = dataclasses.replace(spec, name=f"{spec.name}-kept", keepsake={"folder": "/"})
with domains.connect("qemu:///system") as host:
    host.define(kept)
    host.start(kept.name)
print("left" if retry.until(left, within=6) else "stayed")
with domains.connect("qemu:///system") as host:
    host.undefine(kept.name, str(kept.uuid))
print("left" if retry.until(left, within=20) else "stayed")
"""


@needs_root
def test_log_daemon_stays_while_a_machine_runs_and_leaves_afterwards(make_spec: MakeSpec, place: Path) -> None:
    spec = pickle.dumps(make_spec({"end": "hang"})).hex()
    done = in_own_namespaces("-c", OUTLAST, spec, str(place / "console.log"))
    assert done.stdout == "stayed\nleft\n" * 2, done.stderr


def test_flood_names_every_line() -> None:
    assert flood_lines(2).splitlines()[1].startswith(b"00000001")
    assert len(flood_lines(3)) == 3 * 64


def test_a_sector_has_512_bytes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        boot_sector(ttys1=b"x" * 500)
    assert disk_image(tmp_path / "disk", boot_sector()).read_bytes()[510:512] == b"\x55\xaa"
