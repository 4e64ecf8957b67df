"""The record of a clone (`vm.json`), and the machine and the network that it describes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, model_validator

from builder.clones import ports
from builder.errors import RecipeError
from builder.guest.cards import CardSetup
from builder.vm.machine_spec import (
    SYSTEM_DISK_SERIAL,
    BridgeNet,
    Disk,
    Layer,
    LibvirtNet,
    MachineSpec,
    Network,
    NetworkCard,
    UserNet,
)

RECORD = "vm.json"
DISK = "disk.qcow2"
SEED = "seed.iso"
NVRAM = "nvram.fd"
REPORTS = "ttyS1.log"
CONSOLE = "console.log"
KNOWN_HOSTS = "known_hosts"
# All files of a clone; libvirt's log daemon keeps up to three older logs.
OWN = (DISK, SEED, NVRAM, KNOWN_HOSTS, RECORD, REPORTS, CONSOLE)
# What a clone can grow to while it runs: a guest keeps tables for each processor and page that may ever come.
MOST_VCPUS = 16
MEMORY_TIMES = 4
MOST_MEMORY = 65536  # MiB: below 36 bits of guest-physical addresses, with room for devices


class VmCard(BaseModel):
    """A network card of a clone.

    Args:
        network: `user`, `nat:<name>`, or `bridge:<name>`.
        addresses, dhcp, gateways: see `CardSetup`.
        seen: its address by DHCP: reserved on a NAT network, or found at builder's last login.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mac: str
    network: str
    addresses: tuple[str, ...] = ()
    dhcp: bool = True
    gateways: tuple[str, ...] = ()
    seen: str | None = None

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        try:
            CardSetup(self.mac, self.addresses, self.dhcp, self.gateways)
        except RecipeError as error:
            raise ValueError(error.brief) from None
        return self

    @property
    def setup(self) -> CardSetup:
        """Return what the guest is told of it."""
        return CardSetup(self.mac, self.addresses, self.dhcp, self.gateways)

    @property
    def known(self) -> str | None:
        """Return its address, as far as the record knows: a static one of IPv4 before one of IPv6."""
        static = self.setup.address(4) or (None if self.dhcp else self.setup.address(6))
        return static.partition("/")[0] if static else self.seen


class Vm(BaseModel):
    """A clone as `vm.json` describes it.

    Args:
        base: disk of the image version below its own; None for a full copy.
        disk_size: bytes that the guest sees.
        memory: MiB.
        cards: its network cards, in the order in which the guest finds them; the records of old have one, in fields.
        port: on 127.0.0.1, forwarded to the guest's port 22; None unless a card is on the network `user`.
        host_disks: block devices of the host that it uses.
        host_devices: PCI devices of the host that it uses, by full address.
        key: private key that its root accepts, for builder's own logins; None where only the public half was given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    uuid: UUID
    cards: tuple[VmCard, ...]
    image: str
    version: str
    base: str | None
    created: str
    uri: str
    accel: Literal["kvm", "tcg"]
    host_phys_bits: int
    vcpus: int
    memory: int
    disk_size: int
    devices: Literal["virtio", "emulated"]
    machine: Literal["q35", "pc"]
    firmware: Literal["bios", "uefi"]
    port: int | None
    hostname: str
    dns: tuple[str, ...]
    host_disks: tuple[str, ...] = ()
    host_devices: tuple[str, ...] = ()
    key: str | None

    @model_validator(mode="before")
    @classmethod
    def _with_cards(cls, data: Any) -> Any:
        """Read a record of old, of a clone that could have one card and one IPv4 address."""
        if not isinstance(data, dict) or "cards" in data or "network" not in data:
            return data
        old = {name: data[name] for name in ("mac", "network", "address", "gateway", "seen") if name in data}
        address, gateway = old.pop("address", None), old.pop("gateway", None)
        card = {"addresses": [address] if address else [], "gateways": [gateway] if gateway else [], **old}
        kept = {name: value for name, value in data.items() if name not in ("address", "gateway", *old)}
        return kept | {"cards": [card | {"dhcp": address is None}]}

    @property
    def instance(self) -> str:
        """Return the instance-id in its seed."""
        return f"vm-{self.uuid}"

    @property
    def host_alias(self) -> str:
        """Return the name under which ssh(1) knows its host key."""
        return f"builder-{self.uuid}"

    @property
    def ssh_address(self) -> tuple[str, int] | None:
        """Return host and port of its sshd, as far as the record knows."""
        card = self.cards[self.way_in]
        if card.network == "user":
            return (ports.HOST, self.port) if self.port else None
        return (card.known, 22) if card.known else None

    @property
    def networks(self) -> tuple[str, ...]:
        """Return the networks of the cards, in their order."""
        return tuple(card.network for card in self.cards)

    @property
    def way_in(self) -> int:
        """Return the number of the card that builder logs in over: the one on the network `user`, else the first."""
        return next((number for number, card in enumerate(self.cards) if card.network == "user"), 0)

    def with_card(self, number: int, **changes: Any) -> Vm:
        """Return the same clone with one card changed."""
        card = self.cards[number].model_copy(update=changes)
        return self.model_copy(update={"cards": (*self.cards[:number], card, *self.cards[number + 1 :])})


def network(vm: Vm, card: VmCard) -> Network:
    """Return the network of a card."""
    if card.network == "user":
        static = card.setup.address(4)
        return UserNet(port=vm.port or 0, guest=static.partition("/")[0] if static else "")
    name = nat_name(card.network)
    return LibvirtNet(name) if name else BridgeNet(card.network.partition(":")[2])


def spec(vm: Vm, folder: Path) -> MachineSpec:
    """Return the machine that a record describes; `folder` is the folder of the clone."""
    backing = (Layer(Path(vm.base), "qcow2"),) if vm.base else ()
    first, *others = (NetworkCard(card.mac, network(vm, card)) for card in vm.cards)
    return MachineSpec(
        name=vm.name,
        uuid=vm.uuid,
        run_id="",
        role="vm",
        mac=first.mac,
        machine=vm.machine,
        vcpus=vm.vcpus,
        memory=vm.memory,
        most_vcpus=max(vm.vcpus, MOST_VCPUS),
        most_memory=max(vm.memory, min(MEMORY_TIMES * vm.memory, MOST_MEMORY)),
        accel=vm.accel,
        host_phys_bits=vm.host_phys_bits,
        firmware=vm.firmware,
        nvram=folder / NVRAM if vm.firmware == "uefi" else None,
        devices=vm.devices,
        disks=(Disk(folder / DISK, "qcow2", SYSTEM_DISK_SERIAL, backing=backing, cache="writeback"),),
        host_disks=tuple(map(Path, vm.host_disks)),
        host_devices=vm.host_devices,
        cdroms=(folder / SEED,),
        console_log=folder / CONSOLE,
        serial1=folder / REPORTS,
        network=first.network,
        other_cards=tuple(others),
        on_reboot="restart",
        keepsake={"image": vm.image, "version": vm.version, "folder": str(folder)},
    )


def nat_name(network: str) -> str | None:
    """Return the name of a NAT network, of a record or a request; None for the other kinds."""
    kind, _, name = network.partition(":")
    return (name or LibvirtNet().name) if kind == "nat" else None
