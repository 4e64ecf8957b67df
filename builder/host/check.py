"""Run all checks of the host: they change nothing, take two seconds at most, and survive whatever is missing.

They take longer only where libvirt starts QEMU for each query: that delay is what they measure.
"""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from builder.host import check_libvirt, check_machine, check_network, check_rehearsal, check_storage, distro, sshd
from builder.host.finding import HostFinding

# Before the commands that only root may run, also the second one of a line.
_PROGRAMS = "apt-get|chmod|date|dnf|modprobe|nft|restorecon|semanage|sysctl|systemctl|timedatectl|usermod|builder host"
ROOTS = re.compile(rf"(?:^|(?<=\|\| )|(?<=&& ))(?=(?:{_PROGRAMS}) )")


def check(store: Path, media: Path, recorded: bool, uri: str) -> list[HostFinding]:
    """Look at the host.

    Args:
        store: where images and runs go.
        media: where install media go.
        recorded: both were chosen by `host prepare`.
        uri: of libvirt.

    Returns:
        The rows in a fixed order; a build can run when none of them is `fail`.
    """
    host = distro.find()
    parts: list[Callable[[], Iterable[HostFinding]]] = [
        lambda: check_machine.rows(host),
        lambda: check_libvirt.rows(host, uri),
        lambda: [check_rehearsal.row(host)],
        lambda: check_storage.rows(store, media, recorded, uri),
        check_network.rows,
        lambda: [sshd.row()],
    ]
    # Most of the time is spent waiting for programs, so the parts are looked at side by side.
    with ThreadPoolExecutor(len(parts)) as pool:
        found = [row for rows in pool.map(lambda part: list(part()), parts) for row in rows]
    return found if os.geteuid() == 0 else [replace(row, fix=ROOTS.sub("sudo ", row.fix)) for row in found]


def lines(rows: Iterable[HostFinding], width: int = 80) -> Iterator[str]:
    """The rows for people: what was found, and below what is not ok why it matters and what mends it."""
    for row in rows:
        head = f"{row.state:<5} {row.name:<12} "
        yield from textwrap.wrap(head + row.found, width, subsequent_indent=" " * 19, break_on_hyphens=False)
        if row.state == "ok":
            continue
        if row.why:
            yield from textwrap.wrap(row.why, width, initial_indent=" " * 19, subsequent_indent=" " * 19)
        if row.fix:
            # A command is never broken: people copy it.
            yield f"{'':19}$ {row.fix}"
