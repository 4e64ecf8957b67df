"""Machines: their ends are reported correctly, and nothing of them is left."""

from __future__ import annotations

import os
import signal
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import libvirt
import pytest

from builder.errors import HostError
from builder.system import retry
from builder.system.process import run
from builder.vm.connection import Hypervisor, connect
from builder.vm.libvirt_errors import libvirt_errors
from builder.vm.machine_spec import Disk, Layer, MachineSpec
from builder.vm.uri import session_directory
from tests.fakes.boot_sector import boot_sector, cd_image, disk_image

pytestmark = pytest.mark.vm
MakeSpec = Callable[..., MachineSpec]


def quiet(_text: str) -> None:
    pass


def content(path: Path, expected: bytes) -> bytes:
    """A log of libvirt's daemon, once it holds what is expected (or after 5 s, whatever it holds)."""
    retry.until(lambda: (path.is_file() and path.read_bytes() == expected) or None, within=5)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("end", "how"),
    [("poweroff", "shutdown"), ("reset", "reset"), ("triple fault", "reset"), ("panic", "crashed")],
)
def test_ending_by_the_guest(hypervisor: Hypervisor, make_spec: MakeSpec, place: Path, end: str, how: str) -> None:
    spec = make_spec({"ttys0": b"hello\r\n", "ttys1": b"marker\n", "end": end})
    with hypervisor.boot(spec, place / "console.log") as machine:
        ending = machine.wait_off(30, quiet)
        assert machine.console.read(5) == b"hello\r\n"
        assert machine.console.read(5) is None
    assert ending.how == how
    assert (place / "console.log").read_bytes() == b"hello\r\n"
    assert spec.serial1 is not None
    assert content(spec.serial1, b"marker\n") == b"marker\n"
    assert spec.name not in hypervisor.machines()


def test_reset_goes_on_where_it_is_allowed(hypervisor: Hypervisor, make_spec: MakeSpec, place: Path) -> None:
    spec = make_spec({"ttys0": b"again\r\n", "end": "reset"}, on_reboot="restart")
    with hypervisor.boot(spec, place / "console.log") as machine:
        retry.until(lambda: machine.console.tail.count(b"again") > 2 or None, within=30)
        assert machine.console.tail.count(b"again") > 2


def test_hanging_guest_meets_the_time_limit_and_shows_a_pulse(
    hypervisor: Hypervisor, make_spec: MakeSpec, place: Path
) -> None:
    beats: list[str] = []
    spec = make_spec({"ttys0": b"Pane is dead\r\n", "end": "hang"})
    with hypervisor.boot(spec, place / "console.log") as machine:
        assert machine.console.read(30)
        ending = machine.wait_off(0.5, beats.append, every=0.1)
        assert hypervisor.machines()[spec.name] == spec.run_id
    assert ending.how == "time limit"
    assert beats
    assert "Pane is dead" in beats[-1]
    assert spec.name not in hypervisor.machines()


def test_watcher_ends_the_waiting(hypervisor: Hypervisor, make_spec: MakeSpec, place: Path) -> None:
    spec = make_spec({"ttys0": b"Pane is dead\r\n", "end": "hang"})
    with hypervisor.boot(spec, place / "console.log") as machine:
        ending = machine.wait_off(
            30, quiet, every=0.1, watch=lambda: "dead pane" if b"dead" in machine.console.tail else None
        )
    assert (ending.how, ending.reason) == ("watch", "dead pane")


def test_killed_qemu_is_a_failure(hypervisor: Hypervisor, make_spec: MakeSpec, place: Path) -> None:
    with hypervisor.boot(make_spec({"end": "hang"}), place / "console.log") as machine:
        os.kill(machine.pid, signal.SIGKILL)
        assert machine.wait_off(30, quiet).how == "failed"


def test_sweep_by_another_ends_only_machines_of_that_run(
    hypervisor: Hypervisor, make_spec: MakeSpec, place: Path
) -> None:
    hit, spared = make_spec({"end": "hang"}), make_spec({"end": "hang"})
    with hypervisor.boot(hit, place / "a.log") as first, hypervisor.boot(spared, place / "b.log"):
        with connect(hypervisor.uri) as other:
            assert other.sweep(hit.run_id) == [hit.name]
        assert first.wait_off(30, quiet).how == "destroyed"
        assert spared.name in hypervisor.machines()
        assert hit.name not in hypervisor.machines()


def test_two_at_once_have_ports_of_their_own(hypervisor: Hypervisor, make_spec: MakeSpec, place: Path) -> None:
    one, two = make_spec({"end": "hang"}), make_spec({"end": "hang"})
    with hypervisor.boot(one, place / "a.log") as first, hypervisor.boot(two, place / "b.log") as second:
        assert first.ssh_port != second.ssh_port
        for machine in (first, second):
            assert machine.ssh_port is not None
            with socket.create_connection(("127.0.0.1", machine.ssh_port), timeout=5):
                pass


def test_screenshot_is_a_png(hypervisor: Hypervisor, make_spec: MakeSpec, place: Path) -> None:
    with hypervisor.boot(make_spec({"end": "hang"}), place / "console.log") as machine:
        picture = machine.screenshot(place / "screen.png")
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_an_error_in_the_block_takes_the_machine_along(
    hypervisor: Hypervisor, make_spec: MakeSpec, place: Path
) -> None:
    spec = make_spec({"end": "hang"})
    with pytest.raises(KeyboardInterrupt), hypervisor.boot(spec, place / "console.log"):
        raise KeyboardInterrupt
    assert spec.name not in hypervisor.machines()


def test_kept_machine_outlives_a_failure_and_its_connection(make_spec: MakeSpec, place: Path, uri: str) -> None:
    spec = make_spec({"end": "hang"})
    with (
        pytest.raises(HostError, match="the stage failed"),
        connect(uri) as own,
        own.boot(spec, place / "console.log", keep=True),
    ):
        raise HostError("the stage failed")
    with connect(uri) as other:
        assert other.sweep(spec.run_id) == [spec.name]


def test_kept_machine_that_did_well_is_gone(hypervisor: Hypervisor, make_spec: MakeSpec, place: Path) -> None:
    spec = make_spec({"end": "hang"})
    with hypervisor.boot(spec, place / "console.log", keep=True):
        pass
    assert spec.name not in hypervisor.machines()


@pytest.mark.parametrize(
    "hardware",
    [
        {"machine": "pc"},
        {"devices": "emulated"},
        {"machine": "pc", "devices": "emulated", "vcpus": 2},
    ],
    ids=str,
)
def test_hardware_boots(hypervisor: Hypervisor, make_spec: MakeSpec, place: Path, hardware: dict[str, Any]) -> None:
    spec = make_spec({"ttys0": b"up\r\n"}, **hardware)
    with hypervisor.boot(spec, place / "console.log") as machine:
        assert machine.wait_off(30, quiet).how == "shutdown"
    assert (place / "console.log").read_bytes() == b"up\r\n"


def test_cdrom_boots_before_the_disk_and_stays_ours(hypervisor: Hypervisor, make_spec: MakeSpec, place: Path) -> None:
    iso = cd_image(place / "medium.iso", boot_sector(ttys0=b"from CD\r\n"))
    before = iso.stat()
    spec = make_spec({"ttys0": b"from disk\r\n"}, cdroms=(iso,), boot="cdrom")
    with hypervisor.boot(spec, place / "console.log") as machine:
        assert machine.wait_off(30, quiet).how == "shutdown"
    after = iso.stat()
    assert (place / "console.log").read_bytes() == b"from CD\r\n"
    assert (after.st_uid, after.st_mode, after.st_ctime_ns) == (before.st_uid, before.st_mode, before.st_ctime_ns)


def test_overlay_boots_from_its_base_and_leaves_it_alone(
    hypervisor: Hypervisor, make_spec: MakeSpec, place: Path
) -> None:
    base = disk_image(place / "base.raw", boot_sector(ttys0=b"from base\r\n"))
    base.chmod(0o444)
    before = base.stat()
    overlay = place / "overlay.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, overlay])
    spec = make_spec(disks=(Disk(overlay, "qcow2", "BUILDER", backing=(Layer(base, "raw"),)),))
    with hypervisor.boot(spec, place / "console.log") as machine:
        assert machine.disk_bytes() > 0
        assert machine.wait_off(30, quiet).how == "shutdown"
    assert (place / "console.log").read_bytes() == b"from base\r\n"
    assert base.stat().st_ctime_ns == before.st_ctime_ns


def test_uefi_variables_do_not_stay(hypervisor: Hypervisor, make_spec: MakeSpec, place: Path) -> None:
    nvram = place / "nvram.fd"
    spec = make_spec({"end": "hang"}, firmware="uefi", nvram=nvram, memory=128)
    with hypervisor.boot(spec, place / "console.log") as machine:
        assert nvram.exists()
        # The firmware finds no system on this disk and says so, on the console it got.
        assert machine.console.read(60)
    assert not nvram.exists()


def test_missing_firmware_names_its_package(hypervisor: Hypervisor) -> None:
    # No firmware offers Secure Boot on i440FX.
    xml = """<domain type='qemu'><name>builder-test-firmware</name><memory unit='MiB'>64</memory>
        <os firmware='efi'><type arch='x86_64' machine='pc'>hvm</type>
        <firmware><feature enabled='yes' name='secure-boot'/></firmware></os><features><acpi/></features></domain>"""
    connection = libvirt.open(hypervisor.uri)
    try:
        with pytest.raises(HostError) as caught, libvirt_errors("it could not start"):
            connection.createXML(xml)
    finally:
        connection.close()
    assert caught.value.hint == "apt-get install ovmf"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may write where libvirt locks consoles")
def test_a_console_lock_of_another_user_is_named(hypervisor: Hypervisor, make_spec: MakeSpec, place: Path) -> None:
    # A folder stands in for a file that libvirt may not remove. The console gets the lowest number that is free.
    first, second = os.openpty()
    number = int(os.ttyname(second).rpartition("/")[2])
    os.close(first)
    os.close(second)
    locks = [Path(f"/var/lock/LCK.._pts_{number + i}") for i in range(4)]
    for lock in locks:
        lock.mkdir()
    spec = make_spec({"end": "hang"})
    try:
        with pytest.raises(HostError, match="could not start") as caught, hypervisor.boot(spec, place / "c.log"):
            pass
    finally:
        for lock in locks:
            lock.rmdir()
    assert "as root: rm /var/lock/LCK.._pts_" in caught.value.hint
    assert spec.name not in hypervisor.machines()


def test_a_machine_that_libvirt_refuses_leaves_nothing(
    hypervisor: Hypervisor, make_spec: MakeSpec, place: Path
) -> None:
    spec = make_spec({"end": "hang"}, serial1=place / "missing" / "ttyS1")
    with pytest.raises(HostError, match="could not start") as caught, hypervisor.boot(spec, place / "c.log"):
        pass
    assert "missing" in caught.value.details
    assert spec.name not in hypervisor.machines()


@pytest.mark.skipif(os.geteuid() != 0, reason="only qemu:///system runs QEMU as another user")
def test_files_out_of_reach_are_named_with_the_chmod(hypervisor: Hypervisor, make_spec: MakeSpec, place: Path) -> None:
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    disk = disk_image(closed / "disk.raw", boot_sector())
    spec = make_spec(disks=(Disk(disk, "raw", "BUILDER"),))
    with pytest.raises(HostError, match="cannot reach") as caught, hypervisor.boot(spec, place / "c.log"):
        pass
    assert f"chmod o+x {closed}" in caught.value.hint


@contextmanager
def leaving_daemon(path: Path, real: str) -> Iterator[None]:
    """A socket whose first five clients are dropped after their first words; others reach the daemon at `real`."""
    dropped: list[bytes] = []

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            first = self.request.recv(65536)
            if first and len(dropped) < 5:
                dropped.append(first)
                return
            with socket.socket(socket.AF_UNIX) as daemon:
                daemon.connect(real)
                daemon.sendall(first)
                back = threading.Thread(target=pump, args=(daemon, self.request))
                back.start()
                pump(self.request, daemon)
                back.join()

    with socketserver.ThreadingUnixStreamServer(str(path), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield
            assert len(dropped) == 5
        finally:
            server.shutdown()


def test_a_daemon_that_leaves_while_it_is_asked_is_asked_again(hypervisor: Hypervisor, tmp_path: Path) -> None:
    folder = Path("/run/libvirt") if os.geteuid() == 0 else session_directory()
    relay = tmp_path / "sock"
    with leaving_daemon(relay, str(folder / "libvirt-sock")), connect(f"{hypervisor.uri}?socket={relay}") as opened:
        assert opened.choose_accel("tcg", require_kvm=False).name == "tcg"
