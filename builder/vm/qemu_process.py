"""The QEMU process of a machine, held by a pidfd, so that no other process can be waited for or killed in its place."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

from builder.errors import HostError

ENDS = 5.0  # seconds that a killed QEMU may take to be gone


class QemuProcess:
    """The QEMU of one machine, held by a pidfd: it can be waited for and killed, and is never another process."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.pidfd = pidfd

    @classmethod
    def find(cls, machine_uuid: str) -> QemuProcess:
        """The process whose command line carries this UUID.

        Raises:
            HostError: there is none.
        """
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal() or not _is_qemu(entry, machine_uuid):
                continue
            try:
                pidfd = os.pidfd_open(int(entry.name))
            except ProcessLookupError:
                continue
            # Looked at again: the number may have passed to another process in between.
            if _is_qemu(entry, machine_uuid):
                return cls(int(entry.name), pidfd)
            os.close(pidfd)
        raise HostError(f"the QEMU process of {machine_uuid} is not there", hint="see its log below libvirt/qemu/")

    def gone(self, within: float = 0.0) -> bool:
        """Return whether it has ended, at once or within so many seconds."""
        return bool(select.select([self.pidfd], [], [], within)[0])

    def kill(self) -> None:
        """End it, and wait until it has."""
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.gone(within=ENDS)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.pidfd)


def _is_qemu(entry: Path, machine_uuid: str) -> bool:
    try:
        return f"\0-uuid\0{machine_uuid}\0".encode() in (entry / "cmdline").read_bytes()
    except OSError:
        return False
