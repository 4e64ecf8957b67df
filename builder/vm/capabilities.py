"""Facts from libvirt's capabilities: QEMU's user, and the types of machines that the host offers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

from builder.system.host_facts import KvmAccess

# Seconds for a look-up from memory; where libvirt starts QEMU for it, it takes one second and more.
REMEMBERED = 0.2
# By address: asked once in a process, until a connection breaks.
_answered: dict[str, Capabilities] = {}


@dataclass(frozen=True)
class Capabilities:
    """Facts about the host that stay the same while its daemon runs.

    Args:
        qemu_user: user and group that QEMU runs as; None when they are our own (`qemu:///session`).
        domain_types: `qemu` (emulation), `kvm`: what libvirt offers for x86_64.
    """

    qemu_user: tuple[int, int] | None
    domain_types: tuple[str, ...]


def ask(uri: str, connection: Any) -> Capabilities:
    """Ask libvirt, unless this process has done so; raises what libvirt raises."""
    if uri not in _answered:
        _answered[uri] = parse(connection.getCapabilities())
    return _answered[uri]


def forget(uri: str) -> None:
    """Ask again next time: the daemon went away, and another one may answer otherwise."""
    _answered.pop(uri, None)


def parse(xml: str) -> Capabilities:
    """Read what `virConnectGetCapabilities` returns."""
    root = ET.fromstring(xml)
    arch = root.find("guest/arch[@name='x86_64']")
    types = () if arch is None else tuple(str(domain.get("type")) for domain in arch.iter("domain"))
    label = root.findtext("host/secmodel[model='dac']/baselabel[@type='qemu']")
    if not label:
        return Capabilities(None, types)
    uid, gid = (int(part.lstrip("+")) for part in label.split(":"))
    return Capabilities((uid, gid), types)


def probes_again(found: Capabilities, access: KvmAccess | None, seconds: float) -> bool:
    """Judge whether libvirt starts QEMU for each look-up, because QEMU's user cannot use /dev/kvm.

    Args:
        access: of QEMU's user.
        seconds: that a look-up took, see `look_up_seconds`.
    """
    # A daemon that does not see the device either (`daemon` hides it) has no reason to doubt what it knows.
    doubted = access == "broken" or (access == "denied" and "kvm" in found.domain_types)
    return doubted and seconds > REMEMBERED


def look_up_seconds(connection: Any) -> float:
    """Measure one look-up, on a connection that has been asked before."""
    start = time.monotonic()
    connection.getCapabilities()
    return time.monotonic() - start
