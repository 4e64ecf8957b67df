"""Persistent domains of libvirt, as clones are; `builder.vm.connection` has the transient machines.

Invariant: a domain is undefined only if its metadata says that builder made it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree as ET

import libvirt

from builder.errors import HostError, PublishError
from builder.system import host_facts, retry
from builder.system.atomic_file import replacing
from builder.vm import connection, domain_xml
from builder.vm.connection import Hypervisor
from builder.vm.libvirt_errors import libvirt_errors
from builder.vm.machine_spec import MachineSpec
from builder.vm.uri import machine_log

State = Literal["running", "paused", "off", "crashed"]

STATES: dict[int, State] = {
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "running",
    libvirt.VIR_DOMAIN_SHUTDOWN: "running",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "paused",
    libvirt.VIR_DOMAIN_SHUTOFF: "off",
    libvirt.VIR_DOMAIN_CRASHED: "crashed",
}
CHUNK = 64 * 1024
# What belongs to a definition and goes with it: variables of the firmware, snapshots' descriptions.
UNDEFINE = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
)
# Where a machine went on from (`builder.vm.held`); no snapshot of its user.
HELD = "builder-held"
# Bytes of a machine's log that hold the last start.
LOG_END = 16 << 10
GONE = (libvirt.VIR_ERR_NO_DOMAIN,)


@dataclass(frozen=True)
class FoundDomain:
    """A domain of libvirt's.

    Args:
        keepsake: what its metadata says; None for one that builder did not make.
    """

    name: str
    uuid: str
    state: State
    keepsake: dict[str, str] | None


@contextmanager
def connect(uri: str) -> Iterator[Domains]:
    """Open libvirt on this host, see `connection.connect`."""
    with connection.connect(uri) as host:
        yield Domains(host)


class Domains:
    """Persistent domains, by name or UUID."""

    def __init__(self, host: Hypervisor) -> None:
        self.host = host
        self._connection = host.connection

    def all(self) -> dict[str, FoundDomain]:
        """Return every domain by name, foreign ones too."""
        with libvirt_errors("libvirt could not list its machines"):
            found = [_found(domain) for domain in self._connection.listAllDomains(0)]
        return {one.name: one for one in found if one is not None}

    def look(self, name: str) -> FoundDomain | None:
        """Return the domain of this name; None when there is none."""
        with libvirt_errors("libvirt could not be asked"):
            try:
                return _found(self._connection.lookupByName(name))
            except libvirt.libvirtError as error:
                if error.get_error_code() in GONE:
                    return None
                raise

    def last_words(self, name: str) -> str:
        """Return the last log lines of QEMU and libvirt for this machine, without its command line; may be empty."""
        try:
            with machine_log(self.host.uri, name).open("rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - LOG_END))
                lines = log.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        # Those of a command line end with a backslash, the last one begins with a dash.
        lines = [line for line in lines if line.strip() and not line.startswith("-") and not line.endswith("\\")]
        return "\n".join(lines[-4:])

    def require_reach(self, read: list[Path], own: list[Path]) -> None:
        """Make sure that QEMU's user gets at these files, see `host_facts.require_reach`."""
        if self.host.qemu_user:
            host_facts.require_reach(*self.host.qemu_user, read, own)

    def define(self, spec: MachineSpec) -> None:
        """Make a machine known, or change one that is; a running one changes at its next start.

        Raises:
            HostError: libvirt refuses.
        """
        with libvirt_errors(f"libvirt could not define {spec.name}"):
            self._connection.defineXMLFlags(domain_xml.render(spec, dac=self.host.qemu_user is not None), 0)

    def undefine(self, name: str, uuid: str) -> None:
        """End the machine and make it unknown, if it is known and of this UUID."""
        with libvirt_errors(f"libvirt could not undefine {name}"):
            domain = self._ours(name, uuid)
            if domain is not None:
                with suppress(libvirt.libvirtError):
                    domain.destroy()
                domain.undefineFlags(UNDEFINE)

    def start(self, name: str) -> None:
        """Switch a machine on.

        Raises:
            HostError: libvirt refuses.
        """
        with libvirt_errors(f"libvirt could not start {name}"):
            self._connection.lookupByName(name).create()

    def press_power(self, name: str) -> None:
        """Press the ACPI power button."""
        with libvirt_errors(f"the power button of {name} could not be pressed"):
            self._connection.lookupByName(name).shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)

    def cut_power(self, name: str) -> None:
        """Take the power away, as pulling the plug does."""
        with libvirt_errors(f"the power of {name} could not be cut"):
            self._connection.lookupByName(name).destroy()

    def wait_off(self, name: str, within: float) -> bool:
        """Return whether the machine is off, waiting so many seconds for it."""

        def off() -> bool | None:
            found = self.look(name)
            return True if found is None or found.state in ("off", "crashed") else None

        return bool(retry.until(off, within=within, every=0.1))

    def screenshot(self, name: str, path: Path) -> Path:
        """Write what the screen shows and return the file: a PNG, a PPM of that name with an old QEMU."""
        with libvirt_errors(f"no screenshot of {name} could be taken"):
            stream = self._connection.newStream(0)
            kind = self._connection.lookupByName(name).screenshot(stream, 0, 0)
            picture = bytearray()
            while data := stream.recv(CHUNK):
                picture += data
            stream.finish()
        target = path if kind == "image/png" else path.with_suffix(".ppm")
        with replacing(target) as file:
            file.write(picture)
        return target

    def address(self, name: str, mac: str) -> str | None:
        """The IPv4 address of a card that a network of libvirt's has handed out, or that the guest agent tells."""
        with libvirt_errors(f"libvirt could not be asked for the address of {name}"):
            return connection.address_of(self._connection.lookupByName(name), mac)

    def network_addresses(self, name: str) -> list[str]:
        """Addresses and masks that a network of libvirt's has on this host (`192.168.122.1/255.255.255.0`).

        Raises:
            HostError: there is no such network, or it does not run.
        """
        with libvirt_errors(f"libvirt has no network {name}"):
            network = self._connection.networkLookupByName(name)
            if not network.isActive():
                raise HostError(f"libvirt's network {name} does not run", hint=f"virsh net-start {name}")
            found = ET.fromstring(network.XMLDesc(0)).iterfind("ip")
        return [f"{ip.get('address')}/{ip.get('netmask') or ip.get('prefix')}" for ip in found]

    # -- snapshots

    def snapshots(self, name: str) -> list[tuple[str, str]]:
        """Names of a machine's snapshots, each with the state that the machine was in, the oldest first."""
        with libvirt_errors(f"the snapshots of {name} could not be listed"):
            found = [
                ET.fromstring(one.getXMLDesc(0)) for one in self._connection.lookupByName(name).listAllSnapshots(0)
            ]
        found = [one for one in found if one.findtext("name") != HELD]
        found.sort(key=lambda one: (int(one.findtext("creationTime") or 0), one.findtext("name") or ""))
        return [(one.findtext("name") or "", one.findtext("state") or "") for one in found]

    def take_snapshot(self, name: str, snapshot: str, description: str) -> None:
        """Keep disk and, of a running machine, memory as they are now, inside the machine's own disk."""
        wanted = ET.Element("domainsnapshot")
        ET.SubElement(wanted, "name").text = snapshot
        ET.SubElement(wanted, "description").text = description
        try:
            with libvirt_errors(f"no snapshot of {name} could be taken"):
                self._connection.lookupByName(name).snapshotCreateXML(ET.tostring(wanted, encoding="unicode"), 0)
        except HostError as fault:
            # A running machine with UEFI cannot be kept inside its disk: its variables are in a file of their own.
            if "pflash" not in fault.output:
                raise
            raise HostError(fault.brief, fault.details, f"switch it off first: builder vm stop {name}") from fault

    def description(self, name: str, snapshot: str) -> str:
        """What was said of a snapshot when it was taken."""
        with libvirt_errors(f"snapshot {snapshot} of {name} could not be read"):
            found = self._connection.lookupByName(name).snapshotLookupByName(snapshot, 0)
            return ET.fromstring(found.getXMLDesc(0)).findtext("description") or ""

    def go_back(self, name: str, snapshot: str) -> None:
        """Make the machine what it was, its definition included."""
        with libvirt_errors(f"{name} could not go back to {snapshot}"):
            domain = self._connection.lookupByName(name)
            domain.revertToSnapshot(domain.snapshotLookupByName(snapshot, 0), 0)

    def drop_snapshot(self, name: str, snapshot: str) -> None:
        """Forget a snapshot."""
        with libvirt_errors(f"snapshot {snapshot} of {name} could not be deleted"):
            self._connection.lookupByName(name).snapshotLookupByName(snapshot, 0).delete(0)

    def _ours(self, name: str, uuid: str) -> Any | None:
        try:
            domain = self._connection.lookupByUUIDString(uuid)
        except libvirt.libvirtError as error:
            if error.get_error_code() in GONE:
                return None
            raise
        if domain.name() != name or _keepsake(domain) is None:
            raise PublishError(f"{domain.name()} was not made by builder and is left alone")
        return domain


def _found(domain: Any) -> FoundDomain | None:
    """Return the facts about a domain; None when it has gone meanwhile, as transient ones do."""
    try:
        state = STATES.get(domain.state(0)[0], "off")
    except libvirt.libvirtError as error:
        if error.get_error_code() in GONE:
            return None
        raise
    return FoundDomain(domain.name(), domain.UUIDString(), state, _keepsake(domain))


def _keepsake(domain: Any) -> dict[str, str] | None:
    try:
        text = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, domain_xml.METADATA_NS)
    except libvirt.libvirtError:
        return None
    element = ET.fromstring(text)
    return dict(element.attrib) if element.tag.rpartition("}")[2] == "vm" else None
