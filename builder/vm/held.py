"""Machines that are saved while their guests wait for an identity, and machines that go on from there.

Invariant: what is saved lies in the machine's disk, as an internal snapshot that only this module knows; a machine that
has gone on from it, or never will, has it no longer.

A machine goes on in another one: with its own name, UUID and files, and with a card at an address that is empty in the
saved one. QEMU leaves a device that no state comes for as it is after a reset, and the guest finds the card when it
looks at the bus again. Source: https://libvirt.org/formatsnapshot.html; virDomainSnapshotCreateXML.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from uuid import UUID
from xml.etree import ElementTree as ET

import libvirt

from builder.vm import qemu_img
from builder.vm.connection import Hypervisor
from builder.vm.domains import HELD, Domains
from builder.vm.libvirt_errors import libvirt_errors


def versions(host: Hypervisor) -> tuple[int, int]:
    """Return the versions of QEMU and of libvirt, as numbers: major · 1000000 + minor · 1000 + release."""
    with libvirt_errors("libvirt does not tell its version"):
        return host.connection.getVersion(), host.connection.getLibVersion()


def save(host: Hypervisor, uuid: UUID) -> None:
    """Save memory, devices and disk of a running machine, inside its disk.

    Raises:
        HostError: libvirt or QEMU cannot.
    """
    with libvirt_errors("the machine could not be saved"):
        domain = host.connection.lookupByUUIDString(str(uuid))
        domain.snapshotCreateXML(_described(None), libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA)


def go_on(domains: Domains, name: str) -> None:
    """Start a machine where another one was saved, whose disk it has a copy of, and drop what was saved from that disk.

    Raises:
        HostError: see `load`.
    """
    load(domains, name)
    # What cannot be dropped now goes at the next start (`forget`): the machine runs, and is not to be stopped for that.
    with suppress(libvirt.libvirtError):
        domains.host.connection.lookupByName(name).snapshotLookupByName(HELD, 0).delete(0)


def load(domains: Domains, name: str) -> None:
    """Start a machine where another one was saved.

    Raises:
        HostError: libvirt refuses, or QEMU cannot load the state; the machine is off.
    """
    with libvirt_errors(f"{name} could not go on from a saved state"):
        domain = domains.host.connection.lookupByName(name)
        whole = ET.fromstring(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
        saved = domain.snapshotCreateXML(_described(whole), libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE)
        try:
            domain.revertToSnapshot(saved, libvirt.VIR_DOMAIN_SNAPSHOT_REVERT_RUNNING)
        except BaseException:
            with suppress(libvirt.libvirtError):
                saved.delete(libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)
            raise


def forget(domains: Domains, name: str, disk: Path) -> None:
    """Drop what was saved, if it is still in the disk of a machine that is off: its start was killed.

    Raises:
        HostError: the disk cannot be read or written.
    """
    with suppress(libvirt.libvirtError):
        domain = domains.host.connection.lookupByName(name)
        domain.snapshotLookupByName(HELD, 0).delete(libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)
    if HELD in qemu_img.snapshots(disk):
        qemu_img.drop_snapshot(disk, HELD)


def _described(domain: ET.Element | None) -> str:
    """Return libvirt's description of the snapshot; of one that exists, with the machine that is to go on from it."""
    snapshot = ET.Element("domainsnapshot")
    ET.SubElement(snapshot, "name").text = HELD
    if domain is not None:
        ET.SubElement(snapshot, "state").text = "running"
        ET.SubElement(snapshot, "creationTime").text = "0"
        ET.SubElement(snapshot, "memory", snapshot="internal")
        snapshot.append(domain)
    return ET.tostring(snapshot, encoding="unicode")
