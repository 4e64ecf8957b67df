"""The one rule: a clone's folder with `vm.json` in it is a whole clone; one without is somebody's torn work.

`artifacts/vms/<name>/` holds all that the clone owns. The record is written last when a clone is made, and removed
first when it is deleted, so that whoever holds the lock can tell what to finish removing.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, ValidationError

from builder.errors import HostError, PublishError
from builder.system import locks
from builder.system.atomic_file import replacing
from builder.vm.domain_xml import (
    SYSTEM_DISK_SERIAL,
    BridgeNet,
    Disk,
    Layer,
    LibvirtNet,
    MachineSpec,
    UserNet,
)

RECORD = "vm.json"
DISK = "disk.qcow2"
SEED = "seed.iso"
NVRAM = "nvram.fd"
REPORTS = "ttyS1.log"
CONSOLE = "console.log"
KNOWN_HOSTS = "known_hosts"
# All that may stand in a clone's folder; libvirt's log daemon keeps up to three older logs.
OWN = (DISK, SEED, NVRAM, KNOWN_HOSTS, RECORD, REPORTS, CONSOLE)
# What a clone can grow to while it runs: a guest keeps tables for each processor and page that may ever come.
MOST_VCPUS = 16
MEMORY_TIMES = 4
MOST_MEMORY = 65536  # MiB: below 36 bits of guest-physical addresses, with room for devices


class Vm(BaseModel):
    """What `vm.json` says of a clone.

    Args:
        base: the version's disk below it; None for a full copy.
        disk_size: bytes the guest sees.
        memory: MiB.
        network: `user`, `nat:<name>`, or `bridge:<name>`.
        port: on 127.0.0.1, leads to the guest's port 22; None unless the network is `user`.
        address: static, with prefix length.
        seen: the address that it had when builder was in last; None with a static one and on the network `user`.
        host_disks: block devices of the host that it gets.
        host_devices: PCI devices of the host that it gets, by full address.
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
        """The instance-id in its seed."""
        return f"vm-{self.uuid}"

    @property
    def host_alias(self) -> str:
        """The name under which its host key is known."""
        return f"builder-{self.uuid}"


def network(vm: Vm) -> UserNet | LibvirtNet | BridgeNet:
    """The network that a record names."""
    if vm.network == "user":
        return UserNet(port=vm.port or 0, guest=vm.address.partition("/")[0] if vm.address else "")
    name = nat_name(vm.network)
    return LibvirtNet(name) if name else BridgeNet(vm.network.partition(":")[2])


def spec(vm: Vm, folder: Path) -> MachineSpec:
    """The machine that a record describes; `folder` is the clone's own."""
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
    """The name of a NAT network, of a record or a request; None for the other kinds."""
    kind, _, name = network.partition(":")
    return (name or LibvirtNet().name) if kind == "nat" else None


def save(vms: Path, vm: Vm) -> None:
    """Write the record by one rename."""
    with replacing(vms / vm.name / RECORD) as file:
        file.write(vm.model_dump_json(indent=2).encode() + b"\n")


def load(vms: Path, name: str) -> Vm | None:
    """The clone of this name; None when there is no whole one.

    Raises:
        PublishError: its record cannot be read.
    """
    path = vms / name / RECORD
    try:
        return Vm.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValidationError) as fault:
        hint = f"mend {path}, or remove the VM: builder vm delete {name}"
        raise PublishError(f"the record of {name} cannot be read", str(fault), hint) from fault


def list_vms(vms: Path) -> list[Vm]:
    """All whole clones by name, `web-2` before `web-10`; without those of `damaged`."""
    found = []
    for name in folders(vms):
        with suppress(PublishError):
            found.append(load(vms, name))
    return sorted((vm for vm in found if vm is not None), key=lambda vm: natural(vm.name))


def damaged(vms: Path) -> dict[str, PublishError]:
    """Why the records of clones cannot be read, by name."""
    found = {}
    for name in folders(vms):
        try:
            load(vms, name)
        except PublishError as fault:
            found[name] = fault
    return found


def find(vms: Path, name: str) -> Vm:
    """The clone of this name.

    Raises:
        PublishError: there is none; names those with similar names.
    """
    vm = load(vms, name) if name in folders(vms) else None
    if vm is None:
        names = [one.name for one in list_vms(vms)]
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        raise PublishError(
            f"there is no VM {name}",
            f"VMs of builder's: {', '.join(names) or 'none'}",
            f"did you mean {' or '.join(near)}?" if near else "builder vm list",
        )
    return vm


def folders(vms: Path) -> list[str]:
    """Names of all folders of clones, torn ones too."""
    if not vms.is_dir():
        return []
    with os.scandir(vms) as entries:
        return sorted(one.name for one in entries if one.is_dir(follow_symlinks=False) and one.name[0] != ".")


def natural(name: str) -> tuple[str, int]:
    """Sorts `web-10` behind `web-2`."""
    head, _, tail = name.rpartition("-")
    return (head, int(tail)) if tail.isdecimal() else (name, 0)


@contextmanager
def changing(vms: Path) -> Iterator[None]:
    """Hold the lock under which clones are made, changed and deleted.

    Raises:
        HostError: the folder of clones cannot be made.
    """
    try:
        vms.mkdir(parents=True, exist_ok=True)
        # QEMU runs as another user and opens the disks by name.
        vms.chmod(0o711)
    except OSError as fault:
        raise HostError(f"{vms} cannot be made: {fault.strerror}") from fault
    with locks.held(vms / ".lock", holder=f"process {os.getpid()}"):
        yield


def own_files(folder: Path) -> list[Path]:
    """What is in the folder and belongs to the clone."""
    if not folder.is_dir():
        return []
    return [
        path
        for path in folder.iterdir()
        if path.name in OWN
        or path.name.rpartition(".")[0] in (REPORTS, CONSOLE)
        or (path.name.startswith(tuple(f".{name}." for name in OWN)) and path.suffix == ".tmp")
    ]
