# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""Deliberate faults, for tests only: `rehearsal.fault=NAME` fails as Anaconda 7 would, with its messages.

A fault that a bad kickstart can cause is caused by one: the kickstart is changed before it is read. Any other fault is
made at the place where Anaconda would meet it. `module-refused`, `no-medium` and `medium-check` are in the initramfs
(boot/init). `rehearsal.fault=cdrom` takes the name from the file `/fault` beside the kickstart, for a machine whose
command line was written before the name was known.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from . import clock, log, program
from .bootargs import BootArgs

# Where the file beside the kickstart is copied to.
BESIDE = Path("/run/install/fault")
FLOOD_LINES, FLOOD_LINE = 20480, 512


def _before(header: str, more: str) -> Callable[[str], str]:
    """Put lines in front of the first one that begins so; at the end when none does."""

    def edit(text: str) -> str:
        place = re.search(rf"^{header}", text, re.M)
        end = place.start() if place else len(text)
        return text[:end] + more + text[end:]

    return edit


def _into_packages(line: str) -> Callable[[str], str]:
    return lambda text: re.sub(r"^%packages.*\n", lambda header: f"{header[0]}{line}\n", text, count=1, flags=re.M)


def _without(command: str) -> Callable[[str], str]:
    return lambda text: re.sub(rf"^{command}\b.*\n", "", text, flags=re.M)


def _root_size(options: str) -> Callable[[str], str]:
    return lambda text: re.sub(r"^(part / .*?)--size=.*$", rf"\1{options}", text, flags=re.M)


# The kickstart that fails in this way, made from one that does not.
EDITS: dict[str, Callable[[str], str]] = {
    "kickstart-error": _before("%packages", "frobnicate --all\n"),
    "missing-package": _into_packages("no-such-package"),
    "missing-group": _into_packages("@no-such-group"),
    "mandatory-item": _without("rootpw"),
    "partitioning": _root_size("--size=9000000"),
    "disk-too-small": _root_size("--size=100"),
    "pre-script": _before("%packages", "%pre --erroronfail\necho rehearsed failure of pre\nexit 3\n%end\n"),
    "post-script": _before("%post", "%post --erroronfail\necho rehearsed failure of post\nexit 4\n%end\n"),
    "no-poweroff": _without("poweroff"),
    "reboot": lambda text: re.sub(r"^poweroff\b.*$", "reboot", text, flags=re.M),
}
# What no kickstart causes, in the order in which the places come.
PLACES = (
    *("module-refused", "no-medium", "medium-check", "kickstart-not-found", "low-memory"),
    *("traceback", "packages", "kernel-panic", "guest-out-of-memory", "power-off", "hang", "flood"),
)
NAMES = (*EDITS, *PLACES)


def name(args: BootArgs) -> str | None:
    """The fault that was asked for; None when none was.

    Raises:
        ValueError: there is none of that name.
    """
    said = args.last("rehearsal.fault")
    if said == "cdrom":
        said = BESIDE.read_text().strip() if BESIDE.exists() else None
    if said is not None and said not in NAMES:
        raise ValueError(f"rehearsal.fault={said}: known are {' '.join(NAMES)}")
    return said


def edited(text: str, fault: str) -> str:
    """The kickstart as it has to be for this fault; the same for one that no kickstart causes."""
    return EDITS[fault](text) if fault in EDITS else text


def strike(fault: str | None) -> None:
    """In the middle of the packages: do what a broken installer, guest or host does there.

    Raises:
        ProgramError: the packages cannot be installed.
        RuntimeError: the installer itself is broken.
    """
    if fault == "traceback":
        raise RuntimeError("rehearsed failure of the installer")
    if fault == "packages":
        raise program.ProgramError(["rpm"], 1, "rehearsed failure: glibc conflicts with itself")
    if fault in ("kernel-panic", "guest-out-of-memory"):
        # Documentation/admin-guide/sysrq.rst: crash by a bad access; call the OOM killer, which picks its victim.
        Path("/proc/sysrq-trigger").write_text("c" if fault == "kernel-panic" else "f")
        clock.pause(3600)
    if fault == "power-off":
        program.run("/opt/rehearsal/busybox", "poweroff", "-f")
    if fault == "hang":
        clock.pause(3600 * 24)
    if fault == "flood":
        log.info("program", "\n".join(flood_lines()))
        raise RuntimeError("rehearsed failure after a flood")


def flood_lines() -> list[str]:
    """10 MiB of log; each line has its number, so that a gap shows."""
    return [f"{number:08d}".ljust(FLOOD_LINE - 1, ".") for number in range(FLOOD_LINES)]
