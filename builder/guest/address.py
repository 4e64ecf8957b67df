"""The one rule: a guest's address is believed from whoever tells it first: lease, agent, ARP, or the guest's own line.

A lease and an agent are libvirt's to tell; ARP works on every bridge where the host has an address itself; the guest's
own line on ttyS1 (`BUILDER ADDRESS 192.168.10.40`) needs neither.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from builder.errors import HostError
from builder.system import netlink, retry

LINE = re.compile(r"^BUILDER ADDRESS ([0-9.]{7,15})\s*$", re.M)
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
    """The IPv4 address of a guest.

    Args:
        mac: of its network card.
        reports: what the guest says on ttyS1.
        ask: asks libvirt, for a lease or the guest agent.
        interface: the host's bridge that the guest is on, for ARP; None leaves that out.
        within: seconds.
        stop: asked before each look; true gives up.

    Returns:
        None when nobody told it in time, or `stop` said so.
    """
    asked = float("-inf")

    def look() -> str | None:
        nonlocal asked
        if stop():
            return ""
        if interface and time.monotonic() - asked > ASK_EVERY:
            asked = time.monotonic()
            netlink.ask_all(interface)
        return _told(reports) or ask() or _neighbour(mac)

    return retry.until(look, within=within, every=EVERY) or None


def _told(reports: Path) -> str | None:
    try:
        found = LINE.findall(reports.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        return None
    return found[-1] if found else None


def _neighbour(mac: str) -> str | None:
    try:
        return netlink.neighbour(mac)
    except HostError:
        return None
