"""Machines on libvirt: start, follow, and end them.

Invariant: a machine is found by its UUID, and is gone when its block ends, whatever happened. Machines are transient
and started with AUTODESTROY: when builder is killed, libvirt's daemon ends them. That flag is in the daemon's memory,
so where the daemon has died, QEMU itself is ended through its pidfd.
"""

from __future__ import annotations

import functools
import json
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import libvirt
import libvirt_qemu  # type: ignore[import-untyped]

from builder import settings
from builder.errors import HostError
from builder.system import host_facts, retry
from builder.system.host_facts import Accel
from builder.vm import capabilities, daemon, domain_xml
from builder.vm.libvirt_errors import libvirt_errors
from builder.vm.machine import Console, Machine, Signals
from builder.vm.machine_spec import MachineSpec, UserNet
from builder.vm.qemu_process import QemuProcess
from builder.vm.uri import require_local

# virDomainEventStoppedDetailType, in the words of `machine.How`.
STOPPED = {
    libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN: "shutdown",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED: "destroyed",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED: "failed",
}
# Comes before libvirt ends such a machine, and QEMU may call that a signal from outside (seen with libvirt 11.3).
PANICKED = (libvirt.VIR_DOMAIN_EVENT_CRASHED, libvirt.VIR_DOMAIN_EVENT_CRASHED_PANICKED)
READABLE = libvirt.VIR_STREAM_EVENT_READABLE | libvirt.VIR_STREAM_EVENT_HANGUP | libvirt.VIR_STREAM_EVENT_ERROR
NOTHING_YET = -2  # what `recv` gives on a non-blocking stream
# The domain is not there (any more), or no longer runs: what a destroy wants.
GONE = (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID)
FORWARD = re.compile(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+22\b")


@contextmanager
def connect(uri: str) -> Iterator[Hypervisor]:
    """Open libvirt on this host, starting its daemon where nothing else does.

    Args:
        uri: `qemu:///system` or `qemu:///session`; `?socket=` is allowed.

    Raises:
        RecipeError: the address is not of this host.
        HostError: libvirt does not answer.
    """
    require_local(uri)
    daemon.ensure(uri)
    _event_loop()
    hypervisor = Hypervisor(uri)
    try:
        yield hypervisor
    finally:
        hypervisor.close()


class Hypervisor:
    """A connection to libvirt on this host."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._machines: dict[str, Signals] = {}
        self._connection = _open(uri)
        try:
            with libvirt_errors("libvirt does not tell its capabilities"):
                self._host = capabilities.ask(uri, self._connection)
            lifecycle = libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE
            self._lifecycle = self._connection.domainEventRegisterAny(None, lifecycle, self._on_lifecycle, None)
            self._shutdown = libvirt_qemu.qemuMonitorEventRegister(
                self._connection, None, "SHUTDOWN", self._on_shutdown, None, 0
            )
            trouble = libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON
            self._trouble = self._connection.domainEventRegisterAny(None, trouble, self._on_io_error, None)
            self._connection.registerCloseCallback(self._on_close, None)
        except BaseException:
            self._connection.close()
            raise

    @property
    def connection(self) -> Any:
        """libvirt's own handle, for `builder.vm.domains`."""
        return self._connection

    @property
    def qemu_user(self) -> tuple[int, int] | None:
        """User and group that QEMU runs as; None when they are our own (session)."""
        return self._host.qemu_user

    def close(self) -> None:
        """Close the connection; machines that were not started to be kept end with it."""
        with suppress(libvirt.libvirtError):
            self._connection.unregisterCloseCallback()
        with suppress(libvirt.libvirtError):
            self._connection.domainEventDeregisterAny(self._lifecycle)
        with suppress(libvirt.libvirtError):
            self._connection.domainEventDeregisterAny(self._trouble)
        with suppress(libvirt.libvirtError):
            libvirt_qemu.qemuMonitorEventDeregister(self._connection, self._shutdown)
        with suppress(libvirt.libvirtError):
            self._connection.close()

    def choose_accel(self, wanted: settings.Accel, require_kvm: bool) -> Accel:
        """The accelerator for machines on this host, see `host_facts.choose_accel`.

        Raises:
            KvmError: KVM was asked for and is not there.
        """
        return host_facts.choose_accel(wanted, require_kvm, self._host.domain_types, self.qemu_user)

    def require_passage(self, folder: Path) -> None:
        """Make sure that QEMU's user gets into a folder, or to the place where it will be made.

        Raises:
            HostError: it does not; the message names the folder that is closed.
        """
        if self.qemu_user:
            there = next(path for path in (folder, *folder.parents) if path.exists())
            host_facts.require_reach(*self.qemu_user, [], [there / "any"])

    def probing_seconds(self) -> float | None:
        """Measure a look-up where libvirt starts QEMU for each of them, see `capabilities.probes_again`; else None."""
        access = host_facts.kvm_access(*self.qemu_user) if self.qemu_user else None
        if access in (None, "opens"):
            return None
        with libvirt_errors("libvirt does not tell its capabilities"):
            took = capabilities.look_up_seconds(self._connection)
        return took if capabilities.probes_again(self._host, access, took) else None

    @contextmanager
    def boot(self, spec: MachineSpec, console: Path, *, keep: bool = False) -> Iterator[Machine]:
        """Start a machine; it is gone when the block ends.

        It starts paused and is let go when its console is being read, so that no byte of it is lost.

        Args:
            console: every byte of ttyS0 is appended to this file.
            keep: leave the machine running when the block ends with an error (an interrupt is none).

        Raises:
            HostError: QEMU's user cannot reach the files, or libvirt refuses the machine.
        """
        daemon.ensure(self.uri)
        if self.qemu_user:
            host_facts.require_reach(*self.qemu_user, *domain_xml.files(spec))
        uuid = str(spec.uuid)
        with ExitStack() as undo:
            if spec.nvram:
                undo.callback(spec.nvram.unlink, missing_ok=True)
            signals = Signals()
            undo.callback(signals.close)
            self._machines[uuid] = signals
            undo.callback(self._machines.pop, uuid)
            held: list[QemuProcess] = []
            reading: list[Console] = []
            undo.callback(self._end, uuid, held, reading)
            try:
                machine = self._start(spec, console, signals, held, reading, keep)
                # After the start: for an ordinary user it is libvirtd that starts the log daemon.
                undo.enter_context(daemon.log_daemon_kept(self.uri))
                yield machine
            except Exception:
                if keep and held:
                    undo.pop_all()
                raise

    def sweep(self, run_id: str) -> list[str]:
        """Destroy every machine that carries this run id, and return their names.

        Raises:
            HostError: libvirt refuses.
        """
        swept = []
        with libvirt_errors("libvirt could not sweep its machines"):
            for domain in self._connection.listAllDomains(0):
                if _run_of(domain) == run_id:
                    swept.append(domain.name())
                    _destroy(domain)
        return swept

    def machines(self) -> dict[str, str]:
        """Names of all machines that builder started and that still run, each with its run id."""
        with libvirt_errors("libvirt could not list its machines"):
            found = {domain.name(): _run_of(domain) for domain in self._connection.listAllDomains(0)}
        return {name: run for name, run in found.items() if run is not None}

    def _start(
        self,
        spec: MachineSpec,
        log: Path,
        signals: Signals,
        held: list[QemuProcess],
        reading: list[Console],
        keep: bool,
    ) -> Machine:
        flags = libvirt.VIR_DOMAIN_START_PAUSED | (0 if keep else libvirt.VIR_DOMAIN_START_AUTODESTROY)
        with libvirt_errors(f"libvirt could not start {spec.name}"):
            domain = self._connection.createXML(domain_xml.render(spec, dac=self.qemu_user is not None), flags)
            held.append(QemuProcess.find(str(spec.uuid)))
            stream = self._connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
            domain.openConsole(None, stream, 0)
            handle = _DomainHandle(self._connection, domain, stream)
            console = Console(log, handle.send)
            reading.append(console)
            stream.eventAddCallback(READABLE, handle.receive, console)
            port = _forwarded_port(domain) if isinstance(spec.network, UserNet) and not spec.hold else None
            domain.resume()
        return Machine(spec, console, signals, held[0], handle, port)

    def _end(self, uuid: str, held: list[QemuProcess], reading: list[Console]) -> None:
        """Destroy a machine, by libvirt if it answers, and in any case see that its QEMU is gone.

        A libvirtd that died is not waited for: it notices by itself, when it is back, that the machine has ended.
        """
        try:
            _destroy(self._connection.lookupByUUIDString(uuid))
        except libvirt.libvirtError as error:
            if error.get_error_code() not in GONE and not held:
                with suppress(HostError):
                    held.append(QemuProcess.find(uuid))
        finally:
            for qemu in held:
                if not qemu.gone():
                    qemu.kill()
            for console in reading:
                console.finish(within=1)
            for qemu in held:
                qemu.close()

    def _on_lifecycle(self, _connection: Any, domain: Any, event: int, detail: int, _opaque: Any) -> None:
        signals = self._machines.get(domain.UUIDString())
        if signals and (event, detail) == PANICKED:
            signals.tell(cause="guest-panic")
        if signals and event == libvirt.VIR_DOMAIN_EVENT_STOPPED:
            signals.tell(stopped=STOPPED.get(detail, "failed"))

    def _on_shutdown(
        self, _connection: Any, domain: Any, _event: str, _s: int, _us: int, details: str, _opaque: Any
    ) -> None:
        signals = self._machines.get(domain.UUIDString())
        if signals:
            signals.tell(cause=json.loads(details or "{}").get("reason"))

    def _on_io_error(
        self, _connection: Any, domain: Any, _path: str, _alias: str, action: int, reason: str, _opaque: Any
    ) -> None:
        signals = self._machines.get(domain.UUIDString())
        if signals and action == libvirt.VIR_DOMAIN_EVENT_IO_ERROR_PAUSE:
            signals.tell(stuck=reason or "")

    def _on_close(self, _connection: Any, _reason: int, _opaque: Any) -> None:
        capabilities.forget(self.uri)
        for signals in list(self._machines.values()):
            signals.tell(lost=True)


class _DomainHandle:
    """A domain and its console stream, as `machine.Machine` needs them."""

    def __init__(self, connection: Any, domain: Any, stream: Any) -> None:
        self._connection = connection
        self._domain = domain
        self._stream = stream

    def receive(self, stream: Any, _events: int, console: Console) -> None:
        """Called from the event thread whenever the console has something.

        A blocking `recv` in a thread of its own makes other calls on the connection wait for the next keepalive,
        up to 5 s (libvirt 9.0).
        """
        try:
            while (data := stream.recv(64 * 1024)) != NOTHING_YET:
                console.feed(data)
                if not data:
                    break
            else:
                return
        except libvirt.libvirtError:
            console.feed(b"")
        with suppress(libvirt.libvirtError):
            stream.eventRemoveCallback()
            stream.abort()

    def send(self, data: bytes) -> int:
        """Bytes taken; 0 when there is no room just now."""
        with libvirt_errors("the console is gone"):
            return max(0, int(self._stream.send(data)))

    def press_power(self) -> None:
        with libvirt_errors("the power button could not be pressed"):
            self._domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)

    def address(self) -> str | None:
        return address_of(self._domain)

    def traffic(self) -> int:
        try:
            # No name: the sum of all drives.
            _reads, read, _writes, written, _errors = self._domain.blockStats("")
        except libvirt.libvirtError:
            return 0
        return int(read) + int(written)

    def screenshot(self, path: Path) -> Path:
        with libvirt_errors("no screenshot could be taken"):
            stream = self._connection.newStream(0)
            kind = self._domain.screenshot(stream, 0, 0)
            picture = bytearray()
            while data := stream.recv(256 * 1024):
                picture += data
            stream.finish()
        target = path if kind == "image/png" else path.with_suffix(".ppm")
        # Whoever may look at the screen decides who may look at its picture.
        target.touch(mode=0o600)
        target.write_bytes(picture)
        return target


def _open(uri: str) -> Any:
    """Open libvirt; again while a daemon that is leaving, on its timeout, takes connections and drops them.

    libvirt reports that as "Cannot recv data: Connection reset by peer" or "End of file while reading data", and later
    as "Failed to connect socket", from its RPC layer (virnetsocket.c). Its daemon takes up to 30 s to leave (measured
    with 11.3), and as long as it holds its locks a successor opens its socket, fails and goes.
    """
    # A socket that is not there is waited for only where another daemon is started here.
    started_here = daemon.starts(uri)

    def leaving(fault: BaseException) -> bool:
        rpc = isinstance(fault, libvirt.libvirtError) and fault.get_error_domain() == libvirt.VIR_FROM_RPC
        return rpc and (started_here or "Failed to connect socket" not in str(fault))

    with libvirt_errors(f"libvirt does not answer at {uri}"):
        # 51 s in all.
        return retry.again(
            lambda: libvirt.open(uri), heals=leaving, tries=9, first=0.2, on_retry=lambda *_: daemon.ensure(uri)
        )


def _destroy(domain: Any) -> None:
    try:
        domain.destroy()
    except libvirt.libvirtError as error:
        if error.get_error_code() not in GONE:
            raise


def _run_of(domain: Any) -> str | None:
    try:
        text = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, domain_xml.METADATA_NS)
    except libvirt.libvirtError:
        return None
    return ET.fromstring(text).get("run")


def _forwarded_port(domain: Any) -> int:
    output = libvirt_qemu.qemuMonitorCommand(domain, "info usernet", libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)
    found = FORWARD.search(output)
    if not found:
        raise HostError("QEMU does not tell the port that leads to the guest", output=output)
    return int(found[1])


@functools.cache
def _event_loop() -> None:
    """Once a process: libvirt's events come in a thread of their own, and it prints nothing by itself."""
    libvirt.registerErrorHandler(lambda *_: None, None)
    libvirt.virEventRegisterDefaultImpl()

    def run() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, name="libvirt events", daemon=True).start()


def address_of(domain: Any, mac: str | None = None) -> str | None:
    """The IPv4 address of a machine, or of one card of it, as its lease or its guest agent tells it."""
    sources = ("VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE", "VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT")
    for source in sources:
        # No lease server, or no agent: then this source knows nothing.
        with suppress(libvirt.libvirtError):
            for name, card in domain.interfaceAddresses(getattr(libvirt, source)).items():
                for one in (card["addrs"] or []) if name != "lo" and mac in (None, str(card["hwaddr"]).lower()) else []:
                    if one["type"] == libvirt.VIR_IP_ADDR_TYPE_IPV4:
                        return str(one["addr"])
    return None
