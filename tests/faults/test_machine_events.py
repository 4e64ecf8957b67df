"""Failures of the machine itself (killed, destroyed, out of disk, silent) are found by an event or several silences."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import struct
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

import pytest

from builder.diagnosis import watchdog
from builder.diagnosis.classify import of_ending
from builder.errors import Interrupted
from builder.store import runs
from builder.system.retry import until
from builder.system.signals import one_interrupt
from builder.vm import connection, qemu_img
from builder.vm.machine import Machine
from builder.vm.machine_spec import Disk, MachineSpec
from tests.fakes.boot_sector import TTYS0, boot_sector, disk_image, flood_lines
from tests.fault_table import FaultRow
from tests.faults.conftest import GOOD, MIB, Acting, Machines, SectorOrder, verdict_of
from tests.pipeline import processes
from tests.pipeline.toys import Watcher

pytestmark = pytest.mark.vm
HANGING = SectorOrder({"ttys0": "Installing kernel (120/301)\r\n", "end": "hang"})
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")


@pytest.mark.parametrize(
    ("number", "line"), [(signal.SIGKILL, "no last words"), (signal.SIGTERM, "terminating on signal 15 from pid")]
)
def test_killed_qemu(number: signal.Signals, line: str, machines: Machines, fault_row: FaultRow) -> None:
    with fault_row(f"QEMU gets {number.name} in mid-install", place=machines.place) as row:

        def kill() -> None:
            os.kill(machines.qemu(), number)
            row.now()

        machines.watcher = Acting(kill, "Installing kernel")
        fault, folder = machines.fails(HANGING)
        row.judged(fault.diagnosis.cause)
        assert fault.diagnosis.cause == "QEMU killed"
        assert line in fault.diagnosis.line
        assert "Installing kernel" in fault.details
        assert verdict_of(folder)["source"] == "qemu.log"
        machines.run(GOOD)


def test_destroyed_machine(machines: Machines, fault_row: FaultRow) -> None:
    with fault_row("somebody destroys the domain in mid-install", place=machines.place) as row:

        def destroy() -> None:
            with connection.connect(machines.uri) as host:
                (run_id,) = {run for run in host.machines().values() if (machines.settings.runs / run).exists()}
                row.now()
                host.sweep(run_id)

        machines.watcher = Acting(destroy, "Installing kernel")
        fault, _folder = machines.fails(HANGING)
        row.judged(fault.diagnosis.cause)
        assert fault.diagnosis.cause == "machine ended"
        machines.run(GOOD)


def test_silent_guest(machines: Machines, fault_row: FaultRow) -> None:
    with fault_row("the guest falls silent (limit 2 s)", kind="stall", place=machines.place) as row:
        fault, folder = machines.fails(HANGING, quiet=0.5)
        row.judged(fault.diagnosis.cause, happened=(folder / "console.log").stat().st_mtime)
        assert fault.diagnosis.cause == "stalled"
        assert "the last line was: Installing kernel (120/301)" in fault.diagnosis.line
        assert re.search(r"quiet for 2 s, since \d\d:\d\d:\d\d UTC;", fault.diagnosis.line)
        assert (folder / "screenshot.png").exists()
        machines.run(GOOD)


def test_a_guest_that_only_reads_its_disk_is_alive(machines: Machines) -> None:
    """One quiet signal is no stall: here console and log are quiet, but the drive is read all the time."""
    order = SectorOrder({"ttys0": "checking\r\n", "end": "read"}, disk_size=MIB)
    fault, _folder = machines.fails(order, quiet=0.25, install=1.25)
    assert fault.diagnosis.cause == "time limit"


def test_time_limit(machines: Machines, fault_row: FaultRow) -> None:
    with fault_row("the install takes too long (limit 2 s)", kind="stall", place=machines.place) as row:
        fault, folder = machines.fails(HANGING, install=0.5)
        row.judged(fault.diagnosis.cause, happened=(folder / "console.log").stat().st_mtime)
        assert fault.diagnosis.cause == "time limit"
        machines.run(GOOD)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of so many bytes."""
    folder.mkdir(mode=0o711, parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=711", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


class Filling(Watcher):
    """Fills a file system up when the room on it was looked at, and before the machine starts."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.filler = folder / "filler"

    def note(self, text: str) -> None:
        if text.startswith("TCG"):
            room = os.statvfs(self.filler.parent)
            self.filler.write_bytes(b"x" * (room.f_bavail * room.f_bsize - 64 * 1024))


@needs_root
def test_host_disk_full_in_install(machines: Machines, fault_row: FaultRow) -> None:
    with (
        fault_row("the host's disk is full in mid-install", place=machines.place) as row,
        small_disk(machines.settings.store, 12 * MIB) as small,
    ):
        machines.place.joinpath("artifacts").chmod(0o711)
        machines.watcher = filling = Filling(small)
        order = SectorOrder({"ttys0": "writing\r\n", "end": "write"}, disk_size=8 * MIB)
        fault, folder = machines.fails(order)
        row.judged(fault.diagnosis.cause, happened=(folder / "console.log").stat().st_mtime)
        assert (fault.diagnosis.cause, fault.diagnosis.source) == ("disk full", "libvirt")
        assert verdict_of(folder)["hint"].startswith("builder gc")
        filling.filler.unlink()
        machines.watcher = Watcher()
        machines.run(GOOD)


def broken_qcow2(machines: Machines, end: Literal["hang", "write"]) -> Path:
    """A compressed disk that boots this sector, and breaks when it is read (`hang`) or written to (`write`).

    Read: the one cluster is no compressed data. Written to: a compressed cluster is never written in place, and the
    table that tells where there is room points between two clusters (QEMU docs/interop/qcow2.txt).
    """
    raw, image = machines.place / "disk.raw", machines.place / "disk.qcow2"
    disk_image(raw, boot_sector(end=end))
    qemu_img.convert(raw, "raw", image, "qcow2", compression="zlib")
    with image.open("r+b") as file:
        if end == "hang":
            # The header's l1_table_offset, the first L2 table, its first entry.
            place = 40
            for _ in range(3):
                file.seek(place)
                place = struct.unpack(">Q", file.read(8))[0] & 0x003FFFFFFFFFFFFF
            file.seek(place)
            file.write(b"\xff" * 64)
        else:
            # The header's refcount_table_offset; its first entry.
            file.seek(48)
            file.seek(struct.unpack(">Q", file.read(8))[0])
            file.write(struct.pack(">Q", 0x12345600))
    return image


@pytest.mark.parametrize(("end", "what"), [("hang", "read"), ("write", "written to (werror)")])
def test_broken_disk(end: Literal["hang", "write"], what: str, machines: Machines, fault_row: FaultRow) -> None:
    """QEMU reports an I/O error, and the machine is paused."""
    own = uuid.uuid4()
    image = broken_qcow2(machines, end)
    spec = MachineSpec(
        name=f"builder-test-{own}",
        uuid=own,
        run_id=f"test-{own}",
        role="install",
        mac="52:54:00:00:00:01",
        memory=64,
        disks=(Disk(image, "qcow2", "BUILDER"),),
    )
    with (
        fault_row(f"the machine's qcow2 cannot be {what}", place=machines.place) as row,
        connection.connect(machines.uri) as host,
    ):
        with host.boot(spec, machines.place / "console") as machine:
            row.now()
            ending = machine.wait_off(30, lambda _: None)
            row.judged(of_ending(ending, {}, "").cause)
        assert row.verdict == "disk error"
        machines.run(GOOD)


def first_loss(copy: bytes, said: bytes) -> int | None:
    """Where the first byte is missing from a console's copy; None when all are there.

    A byte may stand there twice: when the terminal is full, QEMU logs what it could not pass on, and logs it again
    when it could (chardev/char.c, qemu_chr_write_buffer).
    """
    place = 0
    for number, line in enumerate(said.splitlines(keepends=True)):
        if copy.startswith(line, place):
            place += len(line)
            continue
        for byte in line:
            while place and copy[place] != byte and copy[place] == copy[place - 1]:
                place += 1
            if copy[place] != byte:
                return number
            place += 1
    return None if place == len(copy) else place


@pytest.mark.slow
def test_ten_mebibytes_of_console(machines: Machines, fault_row: FaultRow) -> None:
    lines = 163_840
    with fault_row("10 MiB on the console, then the proof", place=machines.place) as row:
        order = SectorOrder({"flood": [TTYS0, lines], "ttys0": "\r\nPane is dead\r\n", "end": "hang"})
        fault, folder = machines.fails(order)
        row.judged(fault.diagnosis.cause, happened=(folder / "console.log").stat().st_mtime)
        assert fault.diagnosis.cause == "installer ended"
        said = flood_lines(lines) + b"\r\nPane is dead\r\n"
        assert first_loss((folder / "console.log").read_bytes(), said) is None
        machines.run(GOOD)


def test_endless_console(machines: Machines, fault_row: FaultRow, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that writes for ever must not fill the host's disk; here 64 KiB are too much."""
    monkeypatch.setattr(watchdog, "FLOOD", 1 << 16)
    with fault_row("the guest writes without end", place=machines.place) as row:
        fault, folder = machines.fails(SectorOrder({"flood": [TTYS0, 1 << 30]}))
        row.judged(fault.diagnosis.cause, happened=(folder / "console.log").stat().st_mtime)
        assert (fault.diagnosis.cause, fault.diagnosis.source) == ("console flood", "console")
        machines.run(GOOD)


def test_interrupt_in_install(machines: Machines, fault_row: FaultRow) -> None:
    """Each signal in the middle of a real machine; a second one does not break the clean-up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        with fault_row(f"{number.name} twice in mid-install", place=machines.place) as row:

            def interrupt(number: signal.Signals = number) -> None:
                row.now()
                os.kill(os.getpid(), number)
                os.kill(os.getpid(), number)

            machines.watcher = Acting(interrupt, "Installing kernel")
            with pytest.raises(Interrupted), one_interrupt():
                machines.run(HANGING)
            row.judged(str(verdict_of(machines.evidence())["brief"]))
            assert row.verdict == f"interrupted by {number.name}"
    machines.watcher = Acting(lambda: None)
    machines.run(GOOD)


def run_hanging(place: Path, uri: str) -> None:
    """A builder of its own, in the middle of an install that never ends."""
    Machines(place, uri).run(HANGING)


def test_killed_builder_in_install(machines: Machines, fault_row: FaultRow) -> None:
    with fault_row("kill -9 of a run in mid-install", kind="mend", place=machines.place) as row:
        process = processes.start(run_hanging, machines.place, machines.uri)

        def installing() -> bool | None:
            return any(b"kernel" in log.read_bytes() for log in machines.settings.runs.glob("*/console.log")) or None

        assert until(installing, within=60)
        qemu = os.pidfd_open(machines.qemu())
        row.now()
        process.kill()
        assert processes.status(process) == -signal.SIGKILL
        ended = select.select([qemu], [], [], 10)[0]
        os.close(qemu)
        assert ended
        row.judged("machine gone, next run good")
        machines.run(GOOD)
        assert sorted(record.outcome for record in runs.list_runs(machines.settings.runs)) == ["done", "killed"]


def test_parallel_machines_have_ports_of_their_own(machines: Machines, fault_row: FaultRow) -> None:
    """Five at once, while the port that the first got is wanted by all: each asks the kernel, none is guessed."""
    with fault_row("five machines want a port at once", kind="mend", place=machines.place) as row, ExitStack() as stack:
        host = stack.enter_context(connection.connect(machines.uri))
        row.now()

        def boot(number: int) -> Machine:
            own = uuid.uuid4()
            image = disk_image(machines.place / f"{number}.raw", boot_sector(end="hang"))
            spec = MachineSpec(
                name=f"builder-test-{own}",
                uuid=own,
                run_id=f"test-{own}",
                role="install",
                mac=f"52:54:00:00:00:{number:02x}",
                memory=64,
                disks=(Disk(image, "raw", "BUILDER"),),
            )
            return stack.enter_context(host.boot(spec, machines.place / f"{number}.console"))

        booted = [boot(number) for number in range(5)]
        assert len({machine.ssh_port for machine in booted}) == 5
        for machine in booted:
            with socket.create_connection(("127.0.0.1", machine.ssh_port or 0), timeout=5):
                pass
        row.judged("five different ports")


def test_libvirt_that_does_not_answer(machines: Machines, fault_row: FaultRow) -> None:
    with fault_row("libvirt does not answer", place=machines.place) as row:
        away = Machines(machines.place, f"qemu:///system?socket={machines.place}/libvirt-sock")
        fault, _folder = away.fails(GOOD)
        row.judged(fault.diagnosis.cause)
        assert (fault.diagnosis.cause, fault.diagnosis.transient) == ("libvirt gone", True)
        machines.run(GOOD)
