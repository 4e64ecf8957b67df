"""Nothing is left behind when builder or libvirt dies, and no byte of a log is lost."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from builder.adapters import waiting
from builder.adapters.domain_xml import MachineSpec
from builder.adapters.follow import LogFollower
from builder.adapters.hypervisor import Hypervisor
from tests.fakes.boot_sector import TTYS0, TTYS1, boot_sector, disk_image, flood_lines
from tests.fault_table import FaultRow

pytestmark = pytest.mark.vm
MakeSpec = Callable[..., MachineSpec]
ROOT = Path(__file__).parents[2]

# A builder of its own: boots a machine that hangs, tells its name, and waits for it.
CHILD = """
import pickle, sys
from pathlib import Path
from builder.adapters.hypervisor import connect
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
        gone = waiting.until(lambda: spec.name not in hypervisor.machines() or None, within=5)
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
        follower.settle()
    assert ending.how == "shutdown"
    copied = {TTYS0: place / "console.log", TTYS1: place / "copy"}
    for each, last in ((TTYS0, b"end 0\r\n"), (TTYS1, b"end 1\r\n")):
        assert copied[each].read_bytes() == (flood_lines(lines) if each == port else b"") + last
    assert not follower.torn


UNSHARE = ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]
# Runs in name spaces of its own, so that the libvirtd it kills is nobody else's.
LOST = """
import os, pickle, signal, sys, time
from pathlib import Path
from builder.adapters import waiting
from builder.adapters.hypervisor import connect
from builder.errors import HostError
from builder.stages import verdict
spec = pickle.loads(bytes.fromhex(sys.argv[1]))
with connect("qemu:///system") as hypervisor:
    try:
        with hypervisor.boot(spec, Path(sys.argv[2])) as machine:
            pid = machine.pid
            os.kill(int(Path("/run/libvirtd.pid").read_text()), getattr(signal, sys.argv[3]))
            killed = time.monotonic()
            machine.wait_off(60, lambda text: None)
    except HostError as error:
        print(verdict.name(error).proof.cause)
        print(error.details, file=sys.stderr)
def gone():
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().split()[2] == "Z" or None
print(f"{time.monotonic() - killed:.3f}")
print("gone" if waiting.until(gone, within=5) else "still there")
"""


# The daemons' patience is shortened, so that the guest's last line comes long after it is over.
OUTLAST = """
import dataclasses, pickle, sys
from pathlib import Path
from builder.adapters import daemon, domains, waiting
from builder.adapters.hypervisor import connect
daemon.IDLE = 2
spec = pickle.loads(bytes.fromhex(sys.argv[1]))
def left():
    # By its process: whoever connects to ask is a client, and keeps it.
    found = [entry for entry in Path("/proc").glob("[0-9]*/comm") if entry.read_text() == "virtlogd\\n"]
    return None if found else True
with connect("qemu:///system") as hypervisor:
    with hypervisor.boot(spec, Path(sys.argv[2])):
        print("left" if waiting.until(left, within=6) else "stayed")
print("left" if waiting.until(left, within=20) else "stayed")
# A machine that stays has no builder that waits for it.
kept = dataclasses.replace(spec, name=f"{spec.name}-kept", keepsake={"folder": "/"})
with domains.connect("qemu:///system") as host:
    host.define(kept)
    host.start(kept.name)
print("left" if waiting.until(left, within=6) else "stayed")
with domains.connect("qemu:///system") as host:
    host.undefine(kept.name, str(kept.uuid))
print("left" if waiting.until(left, within=20) else "stayed")
"""


def in_own_namespaces(script: str, spec: MachineSpec, log: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run a script where no libvirt runs yet: whatever it starts or kills is nobody else's, and ends with it."""
    mounts = "".join(f"mount -t tmpfs tmpfs {path}; " for path in ("/run", "/var/lib/libvirt", "/var/cache/libvirt"))
    words = [sys.executable, "-c", script, pickle.dumps(spec).hex(), str(log), *more]
    return subprocess.run(
        [*UNSHARE, "sh", "-c", f'{mounts} mkdir /run/lock; ip link set lo up; "$@"', "sh", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="name spaces need root")


@needs_root
@pytest.mark.parametrize("number", ["SIGKILL", "SIGTERM"])
def test_killed_libvirtd_leaves_no_machine(number: str, make_spec: MakeSpec, place: Path, fault_row: FaultRow) -> None:
    spec = make_spec({"end": "hang"})
    with fault_row(f"libvirtd gets {number} while a machine runs", place=place) as row:
        done = in_own_namespaces(LOST, spec, place / "console.log", number)
        cause, seconds, end = done.stdout.splitlines() or [done.stderr] * 3
        row.judged(cause, happened=time.time() - float(seconds))
        assert (cause, end) == ("libvirt gone", "gone"), done.stderr


@needs_root
def test_log_daemon_stays_while_a_machine_runs_and_leaves_afterwards(make_spec: MakeSpec, place: Path) -> None:
    done = in_own_namespaces(OUTLAST, make_spec({"end": "hang"}), place / "console.log")
    assert done.stdout == "stayed\nleft\n" * 2, done.stderr


def test_flood_names_every_line() -> None:
    assert flood_lines(2).splitlines()[1].startswith(b"00000001")
    assert len(flood_lines(3)) == 3 * 64


def test_a_sector_has_512_bytes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        boot_sector(ttys1=b"x" * 500)
    assert disk_image(tmp_path / "disk", boot_sector()).read_bytes()[510:512] == b"\x55\xaa"
