# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""The installer's log: one line `HH:MM:SS,mmm SEVERITY program:message` per event, in /tmp and on the virtio port.

The port is used when the machine has one under the name that Anaconda knows.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

PORT = Path("/dev/virtio-ports/org.fedoraproject.anaconda.log.0")
FOLDER = Path("/tmp")
# Which file of /tmp a program's lines go to, as in Anaconda.
FILES = {
    "anaconda": "anaconda.log",
    "blivet": "storage.log",
    "program": "program.log",
    "packaging": "packaging.log",
    "ifcfg": "ifcfg.log",
}

_port: int | None = None


def line(severity: str, program: str, message: str, now: float) -> str:
    """One log line, without the newline.

    Args:
        severity: DEBUG, INFO, WARNING, ERR or CRIT, as rsyslog spells them.
        now: seconds since the epoch; shown in UTC.
    """
    clock = time.strftime("%H:%M:%S", time.gmtime(now))
    return f"{clock},{int(now * 1000) % 1000:03d} {severity} {program}:{message}"


def open_port() -> None:
    """Start writing to the virtio port, if the machine has it."""
    global _port
    if PORT.exists() and _port is None:
        _port = os.open(PORT, os.O_WRONLY)


def write(severity: str, program: str, message: str) -> None:
    """Log a message; each of its lines becomes a line of its own."""
    with (FOLDER / FILES.get(program, "syslog")).open("a") as file:
        for part in message.splitlines() or [""]:
            text = line(severity, program, part, time.time()) + "\n"
            file.write(text)
            if _port is not None:
                os.write(_port, text.encode("utf-8", "replace"))


def info(program: str, message: str) -> None:
    """Log at INFO."""
    write("INFO", program, message)


def error(program: str, message: str) -> None:
    """Log at ERR."""
    write("ERR", program, message)
