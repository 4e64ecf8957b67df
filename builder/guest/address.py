"""Finding the IPv4 address of a guest.

The first source that has an address wins: a lease or an agent, which libvirt knows; ARP, which works on every bridge
where the host has an address itself; or the guest's own line on ttyS1, which needs neither.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from pathlib import Path

from builder.errors import HostError
from builder.guest.report import ReportReader
from builder.system import netlink, retry

EVERY = 0.5
ASK_EVERY = 10.0  # seconds between two rounds of ARP


def find(
    mac: str,
    reports: Path,
    interface: str | None,
    ask: Callable[[], str | None],
    *,
    within: float,
    stop: Callable[[], bool] = lambda: False,
) -> str | None:
    """Wait for the IPv4 address of a guest.

    Args:
        mac: of its network card.
        reports: the text of its ttyS1.
        ask: asks libvirt, for a lease or the guest agent.
        interface: the host's bridge that the guest is on, for ARP; None leaves that out.
        within: seconds.
        stop: asked before each look; true gives up.

    Returns:
        None when no source had it in time, or `stop` gave up.
    """
    asked = float("-inf")
    reader = ReportReader(reports)

    def look() -> str | None:
        nonlocal asked
        if stop():
            return ""
        if interface and time.monotonic() - asked > ASK_EVERY:
            asked = time.monotonic()
            netlink.ask_all(interface)
        return _reported(reader) or ask() or _neighbour(mac)

    return retry.until(look, within=within, every=EVERY) or None


def _reported(reader: ReportReader) -> str | None:
    addresses = reader.read().addresses
    try:
        return str(ipaddress.IPv4Address(addresses[-1])) if addresses else None
    except ValueError:
        return None


def _neighbour(mac: str) -> str | None:
    try:
        return netlink.neighbour(mac)
    except HostError:
        return None
