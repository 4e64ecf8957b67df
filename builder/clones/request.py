"""Requests for clones, and the records that follow from them.

Invariant: a request that exists has valid values; everything else that can be wrong with it is found in `drafts`,
before anything is created.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import uuid
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from builder.clones import ports
from builder.clones.record import Vm, nat_name
from builder.errors import HostError, PublishError, RecipeError
from builder.guest.seed import Identity, normal_address
from builder.images import Image
from builder.system import host_devices, host_facts, process
from builder.vm import qemu_img
from builder.vm.domains import Domains
from builder.vm.uri import kind_of

MIB = 1 << 20
LEAST_MEMORY = 64 * MIB
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?")
NETWORK = re.compile(r"user|nat|nat:[A-Za-z0-9_.-]{1,50}|bridge:[A-Za-z0-9_.-]{1,15}")
USER_NETWORK = ipaddress.IPv4Interface("10.0.2.2/24")  # QEMU, "-netdev user": net, host
USER_DNS = ipaddress.IPv4Address("10.0.2.3")


@dataclass(frozen=True)
class CloneRequest:
    """Clones that are to be created; what is None comes from the image or is chosen.

    Args:
        count: number of clones; more than one are called `<name>-1` and so on.
        memory: bytes.
        disk_size: bytes that the guest sees; at least the image's.
        network: `user`, `nat` (see `dhcp_reservation.with_name`), `nat:<name>` or `bridge:<name>`.
        full: copy the whole disk instead of making an overlay.
        host_disks: block devices of the host, see `host_devices.block_device`.
        host_devices: PCI addresses of devices of the host.
        user_data: for cloud-init, as `builder.guest.user_data` read it; it may hold secrets.

    Raises:
        RecipeError: a value is not valid. Neither libvirt nor the catalogue is asked for that.
    """

    name: str
    count: int = 1
    hostname: str | None = None
    address: str | None = None
    gateway: str | None = None
    dns: tuple[str, ...] = ()
    memory: int | None = None
    vcpus: int | None = None
    disk_size: int | None = None
    network: str = "user"
    devices: Literal["virtio", "emulated"] | None = None
    full: bool = False
    host_disks: tuple[str, ...] = ()
    host_devices: tuple[str, ...] = ()
    user_data: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        for name in self.names():
            if not NAME.fullmatch(name):
                raise RecipeError(f"{name!r} is not a valid name of a VM", hint="letters, digits, '-', '.'; at most 63")
        check_network_name(self.network)
        if self.count > 1 and (self.host_disks or self.host_devices):
            raise RecipeError("a device of the host can be given to one VM only", hint="leave out --count")
        for address in self.host_devices:
            host_devices.pci_address(address)
        for option, given in (("--gateway", self.gateway), ("--dns", self.dns)):
            if given and not self.address:
                raise RecipeError(f"{option} without --address", hint="without one the guest asks DHCP for all three")
        for hostname, static in self.hosts():
            Identity("unknown-yet", hostname, (), static, self.gateway, self.dns)
        check_memory(self.memory)

    def names(self) -> list[str]:
        """Return the names of all clones."""
        if self.count == 1:
            return [self.name]
        return [f"{self.name}-{number}" for number in range(1, self.count + 1)]

    def hosts(self) -> Iterator[tuple[str, str | None]]:
        """Yield host name and static address of each clone.

        Raises:
            RecipeError: the network has not enough addresses.
        """
        for number, name in enumerate(self.names()):
            yield self._hostname(number, name), self._address(number)

    def _hostname(self, number: int, name: str) -> str:
        if self.hostname is None:
            return name
        head, dot, tail = self.hostname.partition(".")
        return self.hostname if self.count == 1 else f"{head}-{number + 1}{dot}{tail}"

    def _address(self, number: int) -> str | None:
        if self.address is None:
            return None
        first = ipaddress.IPv4Interface(normal_address(self.address))
        if number and int(first.ip) + number >= int(first.network.broadcast_address):
            raise RecipeError(f"{first.network} has fewer than {self.count} addresses from {first.ip} on")
        return f"{first.ip + number}/{first.network.prefixlen}"


def check_network_name(network: str) -> None:
    """Check how a network is written.

    Raises:
        RecipeError: it is not one of the four forms.
    """
    if not NETWORK.fullmatch(network):
        raise RecipeError(f"--network {network}: unknown kind of network", hint="user, nat, nat:NAME or bridge:NAME")


def check_memory(memory: int | None) -> None:
    """Check an amount of memory in bytes.

    Raises:
        RecipeError: it is too small, or not a whole number of MiB.
    """
    if memory is not None and (memory < LEAST_MEMORY or memory % MIB):
        raise RecipeError(f"--memory: {memory} bytes are fewer than 64 MiB, or not a whole number of MiB")


def check_network(network: str, addresses: Iterable[str | None], domains: Domains, others: Collection[Vm]) -> None:
    """Check that this host has a network, and that static addresses are part of it and free.

    Raises:
        RecipeError: an address lies outside the network, or libvirt of this user has no networks.
        PublishError: another clone has it.
        HostError: there is no such network.
    """
    host = _host_address(network, domains)
    for given in addresses:
        if given is None:
            continue
        address = ipaddress.IPv4Interface(given).ip
        if host is not None and address not in host.network:
            raise RecipeError(
                f"address {address} lies outside {host.network}, the network {network}",
                hint="choose an address of that network, or another --network",
            )
        if network == "user":
            if address in (USER_NETWORK.ip, USER_DNS):
                raise RecipeError(f"address {address} is used by QEMU itself in the network user")
            continue
        if host is not None and address == host.ip:
            raise PublishError(f"address {address} is in use by this host, on {network}")
        for other in others:
            if other.address and ipaddress.IPv4Interface(other.address).ip == address and other.network != "user":
                raise PublishError(f"address {address} is in use by {other.name}", hint="builder vm list shows all")


def drafts(
    request: CloneRequest, image: Image, domains: Domains, others: Collection[Vm], *, accel: Any, key: Path | None
) -> list[Vm]:
    """Return the records of the clones to be; nothing is created yet.

    Args:
        others: the clones that there are.
        accel: `kvm` or `tcg`.
        key: private key for builder's own logins.

    Raises:
        HostError, PublishError: the network, an address or a device of the host cannot be used.
        RecipeError: an address lies outside the network, or the image does not fit the disk's size or user-data.
    """
    _require_reader(request, image)
    check_network(request.network, [address for _, address in request.hosts()], domains, others)
    # Not what the manifest says: it came with the image.
    size = qemu_img.info(image.disk, "qcow2", error=PublishError).virtual_size
    if request.disk_size is not None and (request.disk_size < size or request.disk_size % 512):
        raise RecipeError(
            f"--disk-size {request.disk_size} is smaller than the image's disk ({size} bytes), or not whole sectors"
        )
    verified = image.facts.machine
    disks, cards = _devices(request, domains, others)
    taken = {other.port for other in others if other.port is not None}
    vms = []
    for name, (hostname, address) in zip(request.names(), request.hosts(), strict=True):
        own = uuid.uuid4()
        port = ports.choose(taken) if request.network == "user" else None
        taken |= {port} if port else set()
        vm = Vm(
            name=name,
            uuid=own,
            # QEMU's own range; the rest is the UUID's.
            mac="52:54:00:" + ":".join(f"{byte:02x}" for byte in own.bytes[-3:]),
            image=image.name,
            version=image.version,
            base=None if request.full else str(image.disk.absolute()),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            uri=domains.host.uri,
            accel=accel,
            host_phys_bits=host_facts.phys_bits(),
            vcpus=request.vcpus or verified.vcpus,
            memory=(request.memory or verified.memory) // MIB,
            disk_size=request.disk_size or size,
            devices=request.devices or verified.devices,
            machine=verified.machine,
            firmware=verified.firmware,
            network=request.network,
            port=port,
            hostname=hostname,
            address=address,
            gateway=request.gateway,
            dns=request.dns,
            host_disks=disks,
            host_devices=cards,
            key=str(key) if key else None,
        )
        vms.append(vm)
    return vms


def _require_reader(request: CloneRequest, image: Image) -> None:
    if request.user_data and not image.facts.has_cloud_init:
        raise RecipeError(
            f"--user-data: {image.name}@{image.version} has no cloud-init, which would read it",
            hint="clone one that has: builder run centos7-cloud builds it",
        )


def _devices(
    request: CloneRequest, domains: Domains, others: Collection[Vm]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return block devices and PCI devices of the host as the record names them, after a look at each."""
    if request.host_devices and kind_of(domains.host.uri) != "system":
        raise RecipeError("--host-device needs qemu:///system", hint="run as root")
    disks = tuple(str(host_devices.block_device(option).path) for option in request.host_disks)
    full = [host_devices.pci_address(address) for address in request.host_devices]
    cards = tuple(host_devices.pci_device(address, others=full) for address in full)
    requested = {os.path.realpath(path): path for path in disks} | {card: card for card in cards}
    if len(requested) < len(disks) + len(cards):
        raise RecipeError("a device of the host is named twice")
    for other in others:
        theirs = {os.path.realpath(path) for path in other.host_disks} | set(other.host_devices)
        for device in theirs & set(requested):
            raise PublishError(f"{requested[device]} belongs to {other.name}", hint=f"builder vm delete {other.name}")
    return disks, cards


def _host_address(network: str, domains: Domains) -> ipaddress.IPv4Interface | None:
    """Return the host's own address in a network, and with it the addresses there are; None where it has none."""
    if network == "user":
        return USER_NETWORK
    if kind_of(domains.host.uri) == "session":
        raise RecipeError(f"--network {network} needs qemu:///system", hint="run as root, or use --network user")
    if name := nat_name(network):
        address = domains.network_address(name)
        return ipaddress.IPv4Interface(address) if address else None
    bridge = network.partition(":")[2]
    if not Path(f"/sys/class/net/{bridge}/bridge").is_dir():
        raise HostError(f"this host has no bridge {bridge}", hint=f"builder host prepare --bridge {bridge}")
    links = json.loads(process.run(["ip", "-j", "-4", "addr", "show", "dev", bridge]).stdout or "[]")
    for link in links:
        for info in link.get("addr_info", []):
            return ipaddress.IPv4Interface(f"{info['local']}/{info['prefixlen']}")
    return None
