"""The one rule: everything about a clone that can be wrong is found out before anything is made."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from builder.clones import ports
from builder.clones.record import Vm, nat_name
from builder.errors import HostError, PublishError, RecipeError
from builder.guest import seed
from builder.images import Image
from builder.system import host_devices, host_facts, process
from builder.vm.domains import Domains

MIB = 1 << 20
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?")
USER_NETWORK = ipaddress.IPv4Interface("10.0.2.2/24")  # QEMU, "-netdev user": net, host
USER_DNS = ipaddress.IPv4Address("10.0.2.3")
DEFAULTS = {"vcpus": 2, "memory": 2048 * MIB, "devices": "virtio", "machine": "q35", "firmware": "bios"}


@dataclass(frozen=True)
class Request:
    """What was asked for, as far as it was said; None leaves it to the image or to chance.

    Args:
        count: clones to make; more than one are called `<name>-1` and so on.
        memory: bytes.
        disk_size: bytes the guest sees; at least the image's.
        network: `user`, `nat` (see `reservation.settled`), `nat:<name>` or `bridge:<name>`.
        full: a copy that stands alone, instead of an overlay.
        host_disks: block devices of the host, see `host_devices.block_device`.
        host_devices: PCI addresses of devices of the host.
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

    def names(self) -> list[str]:
        """Of all clones."""
        if self.count == 1:
            return [self.name]
        return [f"{self.name}-{number}" for number in range(1, self.count + 1)]


def check_words(request: Request) -> None:
    """Look at the words alone; needs neither libvirt nor the catalogue.

    Raises:
        RecipeError: one cannot be.
    """
    for name in request.names():
        if not NAME.fullmatch(name):
            raise RecipeError(f"a VM cannot be named {name!r}", hint="letters, digits, '-' and '.', at most 63")
    if not re.fullmatch(r"user|nat|nat:[A-Za-z0-9_.-]{1,50}|bridge:[A-Za-z0-9_.-]{1,15}", request.network):
        raise RecipeError(f"--network {request.network}: no such network", hint="user, nat, nat:NAME or bridge:NAME")
    if request.count > 1 and (request.host_disks or request.host_devices):
        raise RecipeError("a device of the host goes to one VM only", hint="leave --count out")
    for address in request.host_devices:
        host_devices.pci_address(address)
    for option, given in (("--gateway", request.gateway), ("--dns", request.dns)):
        if given and not request.address:
            raise RecipeError(f"{option} without --address", hint="without one the guest asks DHCP for all three")
    for number, name in enumerate(request.names()):
        seed.files(seed.Identity("x", _hostname(request, name, number), (), *_addresses(request, number)))
    if request.memory is not None and (request.memory < 64 * MIB or request.memory % MIB):
        raise RecipeError(f"--memory: {request.memory} bytes are no whole number of MiB, or fewer than 64 MiB")


def check_network(request: Request, domains: Domains, others: Collection[Vm]) -> None:
    """Look at the network and whether the addresses belong to it and are free.

    Raises:
        RecipeError: an address lies outside the network.
        PublishError: another clone has it.
        HostError: there is no such network.
    """
    host = _host_in(request.network, domains)
    for number in range(request.count):
        if request.address is None:
            return
        address = ipaddress.IPv4Interface(str(_addresses(request, number)[0])).ip
        if host is not None and address not in host.network:
            raise RecipeError(
                f"address {address} lies outside {host.network}, the network {request.network}",
                hint="take an address of that network, or another --network",
            )
        if request.network == "user":
            if address in (USER_NETWORK.ip, USER_DNS):
                raise RecipeError(f"address {address} is QEMU's own in the network user")
            continue
        if host is not None and address == host.ip:
            raise PublishError(f"address {address} is in use by this host, on {request.network}")
        for other in others:
            if other.address and ipaddress.IPv4Interface(other.address).ip == address and other.network != "user":
                raise PublishError(f"address {address} is in use by {other.name}", hint="builder vm list shows all")


def devices(request: Request, domains: Domains, others: Collection[Vm]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Block devices and PCI devices of the host as the record names them, after a look at each.

    Raises:
        HostError: one is in use on the host, or cannot be handed over.
        PublishError: another clone has it.
    """
    if request.host_devices and not domains.host.uri.endswith("/system"):
        raise RecipeError("--host-device needs qemu:///system", hint="run as root")
    disks = tuple(str(host_devices.block_device(words).path) for words in request.host_disks)
    full = [host_devices.pci_address(address) for address in request.host_devices]
    cards = tuple(host_devices.pci_device(address, others=full) for address in full)
    asked = {os.path.realpath(path): path for path in disks} | {card: card for card in cards}
    if len(asked) < len(disks) + len(cards):
        raise RecipeError("a device of the host is named twice")
    for other in others:
        theirs = {os.path.realpath(path) for path in other.host_disks} | set(other.host_devices)
        for one in theirs & set(asked):
            raise PublishError(f"{asked[one]} belongs to {other.name}", hint=f"builder vm delete {other.name}")
    return disks, cards


def drafts(
    request: Request, image: Image, domains: Domains, others: Collection[Vm], *, accel: Any, key: Path | None
) -> list[Vm]:
    """Records of the clones to be; nothing is made yet.

    Raises:
        HostError, PublishError: a device of the host is in use, see `devices`.
        RecipeError: the disk is to be smaller than the image's.
    """
    size = int((image.manifest.get("disk") or {}).get("virtual_size") or 0) or _virtual_size(image.disk)
    if request.disk_size is not None and (request.disk_size < size or request.disk_size % 512):
        raise RecipeError(
            f"--disk-size {request.disk_size} is smaller than the image's disk ({size} bytes), or not whole sectors"
        )
    made = _made_for(image)
    disks, cards = devices(request, domains, others)
    taken = {other.port for other in others if other.port is not None}
    first = Vm(
        name="",
        uuid=uuid.uuid4(),
        mac="",
        image=image.name,
        version=image.version,
        base=None if request.full else str(image.disk.absolute()),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        uri=domains.host.uri,
        accel=accel,
        host_phys_bits=host_facts.phys_bits(),
        vcpus=request.vcpus or made["vcpus"],
        memory=(request.memory or made["memory"]) // MIB,
        disk_size=request.disk_size or size,
        devices=request.devices or made["devices"],
        machine=made["machine"],
        firmware=made["firmware"],
        network=request.network,
        port=None,
        hostname="",
        address=None,
        gateway=request.gateway,
        dns=request.dns,
        host_disks=disks,
        host_devices=cards,
        key=str(key) if key else None,
    )
    found = []
    for number, name in enumerate(request.names()):
        own = uuid.uuid4()
        port = ports.choose(taken) if request.network == "user" else None
        taken |= {port} if port else set()
        changes = {
            "name": name,
            "uuid": own,
            # QEMU's own range; the rest is the UUID's.
            "mac": "52:54:00:" + ":".join(f"{byte:02x}" for byte in own.bytes[-3:]),
            "port": port,
            "hostname": _hostname(request, name, number),
            "address": _addresses(request, number)[0],
        }
        found.append(first.model_copy(update=changes))
    return found


def identity(vm: Vm, keys: tuple[str, ...]) -> seed.Identity:
    """What the clone's seed says."""
    return seed.Identity(vm.instance, vm.hostname, keys, vm.address, vm.gateway, vm.dns)


def _made_for(image: Image) -> dict[str, Any]:
    """The machine on which the image was proved."""
    stage = (image.manifest.get("stages") or {}).get("verify") or {}
    told = stage.get("inputs") or {}
    return {name: told.get(name, default) for name, default in DEFAULTS.items()}


def _virtual_size(path: Path) -> int:
    from builder.vm import qemu_img

    return qemu_img.info(path, error=PublishError).virtual_size


def _hostname(request: Request, name: str, number: int) -> str:
    if request.hostname is None:
        return name
    head, dot, tail = request.hostname.partition(".")
    return request.hostname if request.count == 1 else f"{head}-{number + 1}{dot}{tail}"


def _addresses(request: Request, number: int) -> tuple[str | None, str | None, tuple[str, ...]]:
    """Address (the next ones for the next clones), gateway and name servers."""
    if request.address is None or number == 0:
        return request.address, request.gateway, request.dns
    first = ipaddress.IPv4Interface(request.address)
    address = first.ip + number
    if address not in first.network or address == first.network.broadcast_address:
        raise RecipeError(f"{first.network} has no room for {request.count} addresses from {first.ip} on")
    return f"{address}/{first.network.prefixlen}", request.gateway, request.dns


def _host_in(network: str, domains: Domains) -> ipaddress.IPv4Interface | None:
    """The host's own address in a network, and so which addresses there are; None where it has none."""
    if network == "user":
        return USER_NETWORK
    if domains.host.uri.startswith("qemu:///session"):
        raise RecipeError(f"--network {network} needs qemu:///system", hint="run as root, or use --network user")
    if name := nat_name(network):
        found = domains.network_address(name)
        return ipaddress.IPv4Interface(found) if found else None
    bridge = network.partition(":")[2]
    if not Path(f"/sys/class/net/{bridge}/bridge").is_dir():
        raise HostError(f"this host has no bridge {bridge}", hint=f"builder host prepare --bridge {bridge}")
    told = json.loads(process.run(["ip", "-j", "-4", "addr", "show", "dev", bridge]).stdout or "[]")
    for card in told:
        for one in card.get("addr_info", []):
            return ipaddress.IPv4Interface(f"{one['local']}/{one['prefixlen']}")
    return None


def with_port(vm: Vm, taken: Collection[int]) -> Vm:
    """The same clone with another forward port."""
    return vm.model_copy(update={"port": ports.choose(taken)})
