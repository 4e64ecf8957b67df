"""What decides a machine, as data: processors, disks, network, firmware."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

# Serial number of the system disk: a kickstart names the disk that it installs to by it, so images depend on it.
SYSTEM_DISK_SERIAL = "BUILDER-SYSTEM"

Format = Literal["raw", "qcow2"]
Reboot = Literal["destroy", "restart"]


@dataclass(frozen=True)
class Layer:
    """A read-only file below a disk: a base image that several machines may share (mode 0444)."""

    path: Path
    format: Format


@dataclass(frozen=True)
class Disk:
    """A disk that the machine writes to.

    Args:
        serial: what the guest finds below /dev/disk/by-id, at most 20 characters.
        backing: the layers below, nearest first; empty for a disk without any.
        cache: `unsafe` for what is thrown away or flushed once at the end; `none` or `writeback` for VMs of users.
        detect_zeroes: turn written zeros into holes; costs a look at every block written.
    """

    path: Path
    format: Format
    serial: str
    backing: tuple[Layer, ...] = ()
    cache: Literal["unsafe", "none", "writeback"] = "unsafe"
    detect_zeroes: bool = False


@dataclass(frozen=True)
class DirectKernel:
    """Kernel and initrd started without a boot loader."""

    kernel: Path
    initrd: Path
    cmdline: str


@dataclass(frozen=True)
class UserNet:
    """QEMU's own network (10.0.2.0/24), with the guest's port 22 forwarded from a port on 127.0.0.1.

    Args:
        restrict: the guest reaches neither the host nor the outside; the forward still works.
        port: on 127.0.0.1; 0 for a free one.
        guest: the guest's address where it is not the one that QEMU's DHCP hands out.
    """

    restrict: bool = False
    port: int = 0
    guest: str = ""


@dataclass(frozen=True)
class LibvirtNet:
    """A network of libvirt's (NAT), by name; needs qemu:///system."""

    name: str = "default"


@dataclass(frozen=True)
class BridgeNet:
    """A bridge of the host, by name; needs qemu:///system."""

    name: str


Network = UserNet | LibvirtNet | BridgeNet


@dataclass(frozen=True)
class NetworkCard:
    """A network card, and the network that it is plugged into."""

    mac: str
    network: Network


@dataclass(frozen=True)
class MachineSpec:
    """Everything that decides a machine.

    Args:
        name: domain name, unique on the host; carries the run id.
        uuid: also the guest's system UUID: two machines with one UUID get one machine-id.
        run_id: kept in the metadata, so that a later start finds what this run left.
        role: `install`, `twin-a` …
        memory: MiB.
        most_vcpus: as many may be plugged in while it runs; 0 for a machine that never changes.
        most_memory: MiB that there may be while it runs; 0 for a machine that never changes.
        accel: `kvm`, or `tcg` for plain emulation.
        host_phys_bits: physical address bits of the host's CPU; only looked at for KVM.
        nvram: file for the UEFI variables, made by libvirt at start; required for `uefi`.
        devices: `virtio`, or `emulated` (SATA and e1000; IDE on `pc`).
        host_disks: block devices of the host, after the disks.
        host_devices: PCI devices of the host, by full address.
        cdroms: ISO files, mode 0444, in drive order.
        boot: `cdrom` or `disk` first; the other is tried next.
        console_log: file that gets every byte of ttyS0 through libvirt's log daemon, also when nothing reads the
            console stream; rolled at 2 MiB.
        serial1: file that gets every byte of ttyS1, rolled at 2 MiB like the console's; None leaves the port out.
        channels: virtio-serial ports by name, each into a file.
        mac, network: of the first network card.
        other_cards: in the order in which the guest finds them; at most one card of a machine is on a `UserNet`.
        hold: its guest waits for an identity, to be saved meanwhile (`builder.vm.held`): the machine has no card yet,
            an empty drive in place of the seed's, and a word in its SMBIOS that says so.
        saved: name of what was saved inside its disk, of a machine like this one; it goes on from there.
        on_reboot: what a reset by the guest does.
        keepsake: for a machine that stays: what its metadata says of it, in place of run and role.
    """

    name: str
    uuid: uuid.UUID
    run_id: str
    role: str
    mac: str
    machine: Literal["q35", "pc"] = "q35"
    vcpus: int = 1
    memory: int = 1024
    most_vcpus: int = 0
    most_memory: int = 0
    accel: Literal["kvm", "tcg"] = "tcg"
    host_phys_bits: int = 0
    firmware: Literal["bios", "uefi"] = "bios"
    nvram: Path | None = None
    devices: Literal["virtio", "emulated"] = "virtio"
    disks: tuple[Disk, ...] = ()
    host_disks: tuple[Path, ...] = ()
    host_devices: tuple[str, ...] = ()
    cdroms: tuple[Path, ...] = ()
    boot: Literal["cdrom", "disk"] = "disk"
    kernel: DirectKernel | None = None
    console_log: Path | None = None
    serial1: Path | None = None
    channels: Mapping[str, Path] = field(default_factory=dict)
    network: Network = UserNet()
    other_cards: tuple[NetworkCard, ...] = ()
    hold: bool = False
    saved: str | None = None
    on_reboot: Reboot = "destroy"
    keepsake: Mapping[str, str] | None = None

    @property
    def cards(self) -> tuple[NetworkCard, ...]:
        """Return all network cards, the first one first."""
        return NetworkCard(self.mac, self.network), *self.other_cards
