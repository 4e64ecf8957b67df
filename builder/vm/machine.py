"""A running machine: its console, its events, and how it ended.

Invariant: a machine's end is an event that says how it ended; silence and disappearance are never success.
`builder.vm.connection.Hypervisor.boot` returns a `Machine`. Nothing here knows libvirt: the few calls that need it come
in through `Handle`. The end of QEMU comes from the kernel (a pidfd), at once and also when libvirt itself has died.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Lock
from typing import Literal, Protocol, get_args

from builder.errors import Cause, HostError, Source
from builder.system import retry, screen
from builder.vm.machine_spec import MachineSpec
from builder.vm.qemu_process import QemuProcess

How = Literal["shutdown", "reset", "crashed", "destroyed", "failed", "disk", "time limit", "watch"]

# QMP's ShutdownCause (qapi/run-state.json), in our words. A guest that resets itself ends too with on_reboot=destroy.
SHUTDOWN_CAUSES: dict[str, How] = {
    "guest-shutdown": "shutdown",
    "guest-reset": "reset",
    "guest-panic": "crashed",
    "host-qmp-quit": "destroyed",
    "host-signal": "destroyed",
    "host-ui": "destroyed",
    "host-error": "failed",
}
TAIL = 256 * 1024  # bytes of the console kept in memory
AFTERMATH = 5.0  # seconds that libvirt has to say why a QEMU is gone
HANGUP = 1.0  # seconds between the end of a machine and that of the daemon that ended it


@dataclass(frozen=True)
class Ending:
    """The end of a VM.

    Args:
        how: `shutdown` by the guest itself; `reset` by the guest (reboot, triple fault); `crashed` (kernel panic,
            through pvpanic); `destroyed` on the host; `failed` (QEMU died); `disk` (it is paused, because its disk
            cannot be written or read); `time limit`; `watch`.
        seconds: since the waiting began.
        reason: one line for people; for `watch`, what the watcher said.
        cause: why, where libvirt names it (`disk`).
    """

    how: How
    seconds: float
    reason: str
    cause: Cause | None = None


class Handle(Protocol):
    """Operations of libvirt that a machine needs."""

    def screenshot(self, path: Path) -> Path:
        """Write what the screen shows."""

    def press_power(self) -> None:
        """Press the ACPI power button."""

    def address(self) -> str | None:
        """The guest's IPv4 address, as a lease of libvirt's or the agent in the guest has it."""

    def traffic(self) -> int:
        """Bytes that all drives have read and written."""


class Signals:
    """Events of libvirt for one machine, with a descriptor that becomes readable on each."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._cause: How | None = None
        self._stopped: How | None = None
        self._lost = False
        self._stuck: str | None = None
        self.wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def close(self) -> None:
        """Give the descriptor back; whatever is said afterwards is dropped."""
        with self._lock:
            os.close(self.wake)
            self.wake = -1

    def tell(
        self, *, cause: str | None = None, stopped: str | None = None, lost: bool = False, stuck: str | None = None
    ) -> None:
        """Called from libvirt's event thread.

        Args:
            cause: QMP's word for why the guest stopped.
            stopped: one of `How`, libvirt's word for how the domain stopped.
            lost: the connection to libvirt is gone.
            stuck: why a drive stopped the machine: `enospc`, or what else libvirt says.
        """
        with self._lock:
            if cause is not None and self._cause is None:
                self._cause = SHUTDOWN_CAUSES.get(cause)
            if stopped in get_args(How):
                self._stopped = stopped  # type: ignore[assignment]
            self._lost = self._lost or lost
            self._stuck = self._stuck if stuck is None else stuck
            if self.wake >= 0:
                os.eventfd_write(self.wake, 1)

    def read(self) -> tuple[How | None, bool]:
        """Return how it ended as far as known, and whether the connection is lost."""
        with self._lock:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self.wake)
            return self._cause or self._stopped, self._lost

    @property
    def how(self) -> How | None:
        """Return how it ended, as far as known."""
        with self._lock:
            return self._cause or self._stopped

    @property
    def stuck(self) -> str | None:
        """Return why a drive stopped the machine; None when none did."""
        with self._lock:
            return self._stuck


class Console:
    """ttyS0: every byte goes to a file and, the latest of them, into memory; bytes can be typed.

    One reader at a time reads from where it stopped the last time.
    """

    def __init__(self, log: Path, send: Callable[[bytes], int]) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log.open("ab", buffering=0)
        self._send = send
        self._changed = Condition()
        self._kept = bytearray()
        self._total = 0
        self._read = 0
        self._ended = False

    def feed(self, data: bytes) -> None:
        """Take what the guest wrote; b"" is the end. Called from libvirt's event thread."""
        with self._changed:
            if self._ended:
                return
            if data:
                self._log.write(data)
                self._kept += data
                del self._kept[:-TAIL]
                self._total += len(data)
            else:
                self._ended = True
                self._log.close()
            self._changed.notify_all()

    def finish(self, within: float) -> None:
        """Wait for the end, then close the file even if it did not come."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended, within)
        self.feed(b"")

    @property
    def total(self) -> int:
        """Bytes the guest has written so far; unchanged means quiet."""
        with self._changed:
            return self._total

    @property
    def tail(self) -> bytes:
        """The latest bytes, at most 256 KiB."""
        with self._changed:
            return bytes(self._kept)

    def read(self, within: float) -> bytes | None:
        """Return output since the last read, waiting up to `within` seconds for some.

        Returns:
            b"" when nothing came, None when nothing can come any more.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._total > self._read, within)
            if self._total == self._read:
                return None if self._ended else b""
            new = bytes(self._kept[-min(self._total - self._read, len(self._kept)) :])
            self._read = self._total
            return new

    def write(self, data: bytes) -> None:
        """Type something.

        Raises:
            HostError: the machine is gone, or takes nothing for 10 s.
        """
        while data:
            rest = data
            taken = retry.until(lambda: self._send(rest) or None, within=AFTERMATH * 2)  # noqa: B023
            if taken is None:
                raise HostError("the guest's console takes no input")
            data = data[taken:]


class Machine:
    """A running machine.

    Args:
        ssh_port: port on 127.0.0.1 that leads to the guest's port 22; None without user-mode networking.
    """

    def __init__(
        self,
        spec: MachineSpec,
        console: Console,
        signals: Signals,
        qemu: QemuProcess,
        handle: Handle,
        ssh_port: int | None,
    ) -> None:
        self.spec = spec
        self.console = console
        self.ssh_port = ssh_port
        self._signals = signals
        self._qemu = qemu
        self._handle = handle

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._qemu.pid

    def disk_bytes(self) -> int:
        """Bytes the first disk takes on the host."""
        return self.spec.disks[0].path.stat().st_blocks * 512 if self.spec.disks else 0

    def traffic(self) -> int:
        """Bytes that all drives have read and written; unchanged means quiet. 0 when libvirt does not tell."""
        return self._handle.traffic()

    def gone(self) -> Ending | None:
        """Return how it ended, if QEMU is gone, or paused for good; None while it runs.

        Raises:
            HostError: libvirt went away.
        """
        return self._over(time.monotonic())

    def screenshot(self, path: Path) -> Path:
        """Write what the screen shows and return the file: a PNG (a PPM of that name with QEMU before 7.1).

        Raises:
            HostError: the machine is gone.
        """
        return self._handle.screenshot(path)

    def keep_screenshot(self, path: Path) -> None:
        """Write what the screen shows, if the machine still runs."""
        with contextlib.suppress(HostError):
            self.screenshot(path)

    def address(self) -> str | None:
        """The guest's IPv4 address as libvirt knows it: by its own DHCP lease, or from an agent in the guest."""
        return self._handle.address()

    def press_power(self) -> None:
        """Press the ACPI power button; `wait_off` says whether the guest obeyed.

        Raises:
            HostError: the machine is gone.
        """
        self._handle.press_power()

    def wait_off(
        self,
        limit_s: float,
        beat: Callable[[str], None],
        every: float = 2.0,
        watch: Callable[[], str | None] | None = None,
    ) -> Ending:
        """Wait until the machine has ended and QEMU has closed its files; returns within a tenth of a second.

        Args:
            limit_s: seconds until `time limit`; the machine still runs then.
            beat: called every `every` seconds with how it goes: time, size of the disk, last line of the console.
            watch: asked every `every` seconds; a reason to give up ends the waiting, the machine still runs then.

        Raises:
            HostError: libvirt went away.
        """
        start = time.monotonic()
        due = start + every
        while True:
            if over := self._over(start):
                return over
            now = time.monotonic()
            how = self._signals.how
            if now - start >= limit_s:
                return Ending("time limit", now - start, f"still running after {limit_s:g} s")
            if now >= due and how is None:
                due = now + every
                beat(self._pulse(now - start))
                reason = watch() if watch else None
                if reason:
                    return Ending("watch", time.monotonic() - start, reason)
            until = min(due if how is None else now + every, start + limit_s)
            select.select([self._signals.wake, self._qemu.pidfd], [], [], max(0.0, until - time.monotonic()))

    def _over(self, start: float) -> Ending | None:
        _how, lost = self._signals.read()
        if self._qemu.gone():
            return self._ended(start)
        standing = self._standing(start)
        if standing is None and lost:
            raise self._cut_off()
        return standing

    def _cut_off(self) -> HostError:
        return HostError(
            f"the connection to libvirt was lost while {self.spec.name} was running",
            hint="look why libvirtd ended (journalctl -u libvirtd, dmesg), then run again",
            cause=Cause.LIBVIRT_GONE,
            source=Source.LIBVIRT,
        )

    def _standing(self, start: float) -> Ending | None:
        stuck = self._signals.stuck
        if stuck is None:
            return None
        # QEMU's own word for a full disk is the name of the error; for all others it says nothing more.
        number, cause = (errno.ENOSPC, Cause.DISK_FULL) if stuck == "enospc" else (errno.EIO, Cause.DISK_ERROR)
        reason = f"the machine is paused, because of its disk: {os.strerror(number)}"
        return Ending("disk", time.monotonic() - start, reason, cause)

    def _ended(self, start: float) -> Ending:
        how, lost = self._hear(AFTERMATH, lambda how, lost: how is not None or lost)
        if how == "destroyed":
            # A daemon that is stopped ends its machines first, and hangs up then.
            how, lost = self._hear(HANGUP, lambda _how, lost: lost)
        if lost and how in (None, "destroyed"):
            raise self._cut_off()
        how = how or "failed"
        reasons = {
            "shutdown": "the guest powered itself off",
            "reset": "the guest reset itself",
            "crashed": "the guest's kernel panicked",
            "destroyed": "the machine was ended from outside",
        }
        return Ending(how, time.monotonic() - start, reasons.get(how, "QEMU ended unexpectedly"))

    def _hear(self, within: float, enough: Callable[[How | None, bool], bool]) -> tuple[How | None, bool]:
        """Collect events of libvirt until they suffice, or until the time is over."""
        deadline = time.monotonic() + within
        said = self._signals.read()
        while not enough(*said) and (left := deadline - time.monotonic()) > 0:
            select.select([self._signals.wake], [], [], left)
            said = self._signals.read()
        return said

    def _pulse(self, elapsed: float) -> str:
        minutes, seconds = divmod(int(elapsed), 60)
        parts = [f"{minutes}:{seconds:02d}", f"disk {self.disk_bytes() / 2**20:.0f} MiB"]
        line = screen.last_line(self.console.tail[-8192:])
        return " · ".join([*parts, line] if line else parts)
