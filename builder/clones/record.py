"""The record of a clone (`vm.json`), and the machine and the network that it describes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from builder.clones import ports
from builder.vm.machine_spec import SYSTEM_DISK_SERIAL, BridgeNet, Disk, Layer, LibvirtNet, MachineSpec, UserNet

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


class Vm(BaseModel):
    """A clone as `vm.json` describes it.

    Args:
        base: disk of the image version below its own; None for a full copy.
        disk_size: bytes that the guest sees.
        memory: MiB.
        network: `user`, `nat:<name>`, or `bridge:<name>`.
        port: on 127.0.0.1, forwarded to the guest's port 22; None unless the network is `user`.
        address: static, with prefix length.
        seen: its address at builder's last login; None with a static one and on the network `user`.
        host_disks: block devices of the host that it uses.
        host_devices: PCI devices of the host that it uses, by full address.
        key: private key that its root accepts, for builder's own logins; None where only the public half was given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    uuid: UUID
    mac: str
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
    network: str
    port: int | None
    hostname: str
    address: str | None
    seen: str | None = None
    gateway: str | None
    dns: tuple[str, ...]
    host_disks: tuple[str, ...] = ()
    host_devices: tuple[str, ...] = ()
    key: str | None

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
        if self.network == "user":
            return (ports.HOST, self.port) if self.port else None
        known = self.address.partition("/")[0] if self.address else self.seen
        return (known, 22) if known else None


def network(vm: Vm) -> UserNet | LibvirtNet | BridgeNet:
    """Return the network that a record names."""
    if vm.network == "user":
        return UserNet(port=vm.port or 0, guest=vm.address.partition("/")[0] if vm.address else "")
    name = nat_name(vm.network)
    return LibvirtNet(name) if name else BridgeNet(vm.network.partition(":")[2])


def spec(vm: Vm, folder: Path) -> MachineSpec:
    """Return the machine that a record describes; `folder` is the folder of the clone."""
    backing = (Layer(Path(vm.base), "qcow2"),) if vm.base else ()
    return MachineSpec(
        name=vm.name,
        uuid=vm.uuid,
        run_id="",
        role="vm",
        mac=vm.mac,
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
        network=network(vm),
        on_reboot="restart",
        keepsake={"image": vm.image, "version": vm.version, "folder": str(folder)},
    )


def nat_name(network: str) -> str | None:
    """Return the name of a NAT network, of a record or a request; None for the other kinds."""
    kind, _, name = network.partition(":")
    return (name or LibvirtNet().name) if kind == "nat" else None
