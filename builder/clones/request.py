"""Requests for clones, and the records that follow from them.

Invariant: a request that exists has valid values; everything else that can be wrong with it is found in `drafts`,
before anything is created.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from builder.clones import ports
from builder.clones.cards import CardRequest, check_cards_fit, check_network_names
from builder.clones.record import Vm, VmCard
from builder.errors import PublishError, RecipeError
from builder.guest.seed import Identity
from builder.images import Image
from builder.system import host_devices, host_facts
from builder.vm import qemu_img
from builder.vm.domains import Domains
from builder.vm.uri import kind_of

MIB = 1 << 20
LEAST_MEMORY = 64 * MIB
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True)
class CloneRequest:
    """Clones that are to be created; what is None comes from the image or is chosen.

    Args:
        count: number of clones; more than one are called `<name>-1` and so on.
        cards: network cards of the first clone; static addresses of the others are the next ones.
        dns: name servers.
        memory: bytes.
        disk_size: bytes that the guest sees; at least the image's.
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
    cards: tuple[CardRequest, ...] = (CardRequest(),)
    dns: tuple[str, ...] = ()
    memory: int | None = None
    vcpus: int | None = None
    disk_size: int | None = None
    devices: Literal["virtio", "emulated"] | None = None
    full: bool = False
    host_disks: tuple[str, ...] = ()
    host_devices: tuple[str, ...] = ()
    user_data: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        for name in self.names():
            if not NAME.fullmatch(name):
                raise RecipeError(f"{name!r} is not a valid name of a VM", hint="letters, digits, '-', '.'; at most 63")
        check_network_names([card.network for card in self.cards])
        if self.count > 1 and (self.host_disks or self.host_devices):
            raise RecipeError("a device of the host can be given to one VM only", hint="leave out --count")
        for address in self.host_devices:
            host_devices.pci_address(address)
        if self.dns and not any(card.setup.addresses for card in self.cards):
            raise RecipeError("--dns without --address", hint="without one the guest asks DHCP for both")
        addresses: set[str] = set()
        for hostname, cards in self.hosts():
            Identity("unknown-yet", hostname, (), tuple(card.setup for card in cards), self.dns)
            own = {address for card in cards for address in card.setup.addresses}
            if twice := addresses & own:
                raise RecipeError(f"two of the VMs would have the address {min(twice)}", hint="leave gaps for --count")
            addresses |= own
        check_memory(self.memory)

    def names(self) -> list[str]:
        """Return the names of all clones."""
        if self.count == 1:
            return [self.name]
        return [f"{self.name}-{number}" for number in range(1, self.count + 1)]

    def hosts(self) -> Iterator[tuple[str, tuple[CardRequest, ...]]]:
        """Yield host name and network cards of each clone.

        Raises:
            RecipeError: a network has not enough addresses.
        """
        for number, name in enumerate(self.names()):
            yield self._hostname(number, name), tuple(card.numbered(number, self.count) for card in self.cards)

    def _hostname(self, number: int, name: str) -> str:
        if self.hostname is None:
            return name
        head, dot, tail = self.hostname.partition(".")
        return self.hostname if self.count == 1 else f"{head}-{number + 1}{dot}{tail}"


def check_memory(memory: int | None) -> None:
    """Check an amount of memory in bytes.

    Raises:
        RecipeError: it is too small, or not a whole number of MiB.
    """
    if memory is not None and (memory < LEAST_MEMORY or memory % MIB):
        raise RecipeError(f"--memory: {memory} bytes are fewer than 64 MiB, or not a whole number of MiB")


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
    check_cards_fit([card for _, cards in request.hosts() for card in cards], domains, others)
    # Not what the manifest says: it came with the image.
    size = qemu_img.info(image.disk, "qcow2", error=PublishError).virtual_size
    if request.disk_size is not None and (request.disk_size < size or request.disk_size % 512):
        raise RecipeError(
            f"--disk-size {request.disk_size} is smaller than the image's disk ({size} bytes), or not whole sectors"
        )
    verified = image.facts.machine
    disks, cards = _devices(request, domains, others)
    taken = {other.port for other in others if other.port is not None}
    macs = mac_addresses(others)
    vms = []
    for name, (hostname, asked) in zip(request.names(), request.hosts(), strict=True):
        own: list[VmCard] = []
        for card in asked:
            own.append(new_card(card, macs))
            macs.add(own[-1].mac)
        port = ports.choose(taken) if any(card.network == "user" for card in asked) else None
        taken |= {port} if port else set()
        vm = Vm(
            name=name,
            uuid=uuid.uuid4(),
            cards=tuple(own),
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
            port=port,
            hostname=hostname,
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


def new_card(asked: CardRequest, taken: Collection[str]) -> VmCard:
    """Return the record of a card, with a MAC address in QEMU's own range.

    Args:
        taken: the MAC addresses of all other cards; among a thousand of 24 random bits, two are alike once in 30 times.
    """
    mac = ""
    while not mac or mac in taken:
        mac = "52:54:00:" + os.urandom(3).hex(":")
    setup = asked.setup
    return VmCard(mac=mac, network=asked.network, addresses=setup.addresses, dhcp=setup.dhcp, gateways=setup.gateways)


def mac_addresses(vms: Iterable[Vm]) -> set[str]:
    """Return the MAC addresses of all cards of clones."""
    return {card.mac for vm in vms for card in vm.cards}


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
