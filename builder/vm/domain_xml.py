"""The description of a machine as data, and its libvirt domain XML.

Only `xml.etree` makes the XML, which escapes every value, and no file is read.
Sources: the libvirt domain format (https://libvirt.org/formatdomain.html) and QEMU's `-netdev user` manual.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree as ET

METADATA_NS = "https://builder.invalid/xmlns/machine/1"
QEMU_NS = "http://libvirt.org/schemas/domain/qemu/1.0"
ET.register_namespace("builder", METADATA_NS)
ET.register_namespace("qemu", QEMU_NS)

# Guests of 2009 to 2020 mishandle more guest-physical address bits than this (EL7 finds no virtio BARs).
MAX_PHYS_BITS = 46
# Modules of memory that can be plugged in while a machine runs; each leaves an entry in the guest's tables.
MEMORY_SLOTS = 8

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
    on_reboot: Reboot = "destroy"
    keepsake: Mapping[str, str] | None = None


def render(spec: MachineSpec, *, dac: bool = True) -> str:
    """The libvirt domain XML of a machine.

    Args:
        dac: libvirt gives files to QEMU's user (`qemu:///system`), so read-only ones are exempted; where it does
            not (`qemu:///session`) it refuses the exemption.

    Raises:
        ValueError: a combination that no machine can have (UEFI without a variables file, too many IDE drives,
            a serial that a drive would cut short).
    """
    _refuse_nonsense(spec)
    domain = ET.Element("domain", type="kvm" if spec.accel == "kvm" else "qemu")
    _text(domain, "name", spec.name)
    _text(domain, "uuid", str(spec.uuid))
    _metadata(domain, spec)
    _capacity(domain, spec)
    _os(domain, spec)
    features = ET.SubElement(domain, "features")
    ET.SubElement(features, "acpi")
    ET.SubElement(features, "apic")
    _cpu(domain, spec)
    _clock(domain, spec)
    _text(domain, "on_poweroff", "destroy")
    _text(domain, "on_reboot", spec.on_reboot)
    _text(domain, "on_crash", "destroy")
    devices = ET.SubElement(domain, "devices")
    _drives(devices, spec, dac)
    _ports(devices, spec)
    _rest(devices, balloon=spec.most_memory > 0)
    _host_devices(devices, spec)
    _network(domain, devices, spec)
    ET.indent(domain)
    return ET.tostring(domain, encoding="unicode") + "\n"


def files(spec: MachineSpec) -> tuple[list[Path], list[Path]]:
    """Files that QEMU's user must be able to open: those only read, and those it gets for itself."""
    read = [layer.path for disk in spec.disks for layer in disk.backing] + list(spec.cdroms)
    own = [disk.path for disk in spec.disks]
    if spec.kernel:
        read += [spec.kernel.kernel, spec.kernel.initrd]
    if spec.nvram:
        own.append(spec.nvram)
    return read, own


def _refuse_nonsense(spec: MachineSpec) -> None:
    if spec.firmware == "uefi" and spec.nvram is None:
        raise ValueError("UEFI needs a file for its variables")
    long = [disk.serial for disk in spec.disks if len(disk.serial) > 20]
    if long:
        raise ValueError(f"a drive's serial number has at most 20 characters: {long[0]}")
    ide = len(spec.cdroms) + (len(spec.disks) + len(spec.host_disks) if spec.devices == "emulated" else 0)
    if spec.machine == "pc" and ide > 4:
        raise ValueError(f"a pc takes 4 IDE drives, not {ide}")


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, tag, attributes)
    element.text = text
    return element


def _capacity(domain: ET.Element, spec: MachineSpec) -> None:
    if spec.most_memory > spec.memory:
        _text(domain, "maxMemory", str(spec.most_memory), slots=str(MEMORY_SLOTS), unit="MiB")
    _text(domain, "memory", str(spec.memory), unit="MiB")
    spare = {"current": str(spec.vcpus)} if spec.most_vcpus > spec.vcpus else {}
    _text(domain, "vcpu", str(max(spec.vcpus, spec.most_vcpus)), **spare)


def _metadata(domain: ET.Element, spec: MachineSpec) -> None:
    metadata = ET.SubElement(domain, "metadata")
    if spec.keepsake is not None:
        ET.SubElement(metadata, f"{{{METADATA_NS}}}vm", dict(spec.keepsake))
    else:
        ET.SubElement(metadata, f"{{{METADATA_NS}}}machine", {"run": spec.run_id, "role": spec.role})


def _os(domain: ET.Element, spec: MachineSpec) -> None:
    os_ = ET.SubElement(domain, "os")
    if spec.firmware == "uefi":
        os_.set("firmware", "efi")
    _text(os_, "type", "hvm", arch="x86_64", machine=spec.machine)
    if spec.firmware == "uefi":
        # Without these libvirt may pick the firmware with vendor keys enrolled, which refuses old shims.
        firmware = ET.SubElement(os_, "firmware")
        ET.SubElement(firmware, "feature", enabled="no", name="enrolled-keys")
        ET.SubElement(firmware, "feature", enabled="no", name="secure-boot")
        _text(os_, "nvram", str(spec.nvram))
    if spec.kernel:
        _text(os_, "kernel", str(spec.kernel.kernel))
        _text(os_, "initrd", str(spec.kernel.initrd))
        _text(os_, "cmdline", spec.kernel.cmdline)


def _cpu(domain: ET.Element, spec: MachineSpec) -> None:
    if spec.accel == "tcg":
        cpu = ET.SubElement(domain, "cpu", mode="maximum")
    else:
        cpu = ET.SubElement(domain, "cpu", mode="host-passthrough", migratable="off")
    if spec.accel == "kvm" and spec.host_phys_bits > MAX_PHYS_BITS:
        # libvirt refuses to emulate more bits than the host has, so smaller hosts go without.
        ET.SubElement(cpu, "maxphysaddr", mode="emulate", bits=str(MAX_PHYS_BITS))
    if spec.most_memory > spec.memory:
        # Memory is plugged into a node, so there has to be one.
        numa = ET.SubElement(cpu, "numa")
        cpus = f"0-{max(spec.vcpus, spec.most_vcpus) - 1}"
        ET.SubElement(numa, "cell", id="0", cpus=cpus, memory=str(spec.memory), unit="MiB")


def _clock(domain: ET.Element, spec: MachineSpec) -> None:
    clock = ET.SubElement(domain, "clock", offset="utc")
    if spec.accel == "kvm":
        ET.SubElement(clock, "timer", name="rtc", tickpolicy="catchup")
        ET.SubElement(clock, "timer", name="pit", tickpolicy="delay")
        ET.SubElement(clock, "timer", name="hpet", present="no")


def _shared(parent: ET.Element, path: Path, dac: bool) -> None:
    """A read-only file; libvirt is kept from giving it to QEMU's user (it would not give it back)."""
    source = ET.SubElement(parent, "source", file=str(path))
    if dac:
        ET.SubElement(source, "seclabel", model="dac", relabel="no")


def _drives(devices: ET.Element, spec: MachineSpec, dac: bool) -> None:
    disk_bus = "scsi" if spec.devices == "virtio" else ("sata" if spec.machine == "q35" else "ide")
    cd_bus = "sata" if spec.machine == "q35" else "ide"
    letters = {"sd": iter("abcdefghijklmnop"), "hd": iter("abcdefghijklmnop")}
    kinds = ("disk", "cdrom") if spec.boot == "disk" else ("cdrom", "disk")
    first = {kinds[0]: 1, kinds[1]: 1 + (len(spec.disks) if kinds[0] == "disk" else len(spec.cdroms))}
    if disk_bus == "scsi":
        ET.SubElement(devices, "controller", type="scsi", index="0", model="virtio-scsi")
    for number, disk in enumerate(spec.disks):
        element = _disk(devices, disk, spec.devices == "virtio", dac)
        _target(element, disk_bus, letters)
        _text(element, "serial", disk.serial)
        _boot(element, spec, first["disk"] + number)
    for path in spec.host_disks:
        element = ET.SubElement(devices, "disk", type="block", device="disk")
        ET.SubElement(element, "driver", name="qemu", type="raw", cache="none")
        ET.SubElement(element, "source", dev=str(path))
        _target(element, disk_bus, letters)
    for number, path in enumerate(spec.cdroms):
        element = ET.SubElement(devices, "disk", type="file", device="cdrom")
        ET.SubElement(element, "driver", name="qemu", type="raw")
        _shared(element, path, dac)
        _target(element, cd_bus, letters)
        ET.SubElement(element, "readonly")
        _boot(element, spec, first["cdrom"] + number)


def _disk(devices: ET.Element, disk: Disk, unmap: bool, dac: bool) -> ET.Element:
    element = ET.SubElement(devices, "disk", type="file", device="disk")
    driver = ET.SubElement(element, "driver", name="qemu", type=disk.format, cache=disk.cache)
    if disk.cache == "unsafe":
        # A machine whose disk fails is paused and says so, instead of going on with what it could not write.
        driver.set("error_policy", "stop")
        driver.set("rerror_policy", "stop")
    if unmap:
        driver.set("discard", "unmap")
    if disk.detect_zeroes:
        driver.set("detect_zeroes", "unmap" if unmap else "on")
    ET.SubElement(element, "source", file=str(disk.path))
    inner = element
    for layer in disk.backing:
        inner = ET.SubElement(inner, "backingStore", type="file")
        ET.SubElement(inner, "format", type=layer.format)
        _shared(inner, layer.path, dac)
    # An empty element ends the chain: libvirt looks no further by itself.
    ET.SubElement(inner, "backingStore")
    return element


def _target(element: ET.Element, bus: str, letters: Mapping[str, object]) -> None:
    prefix = "hd" if bus == "ide" else "sd"
    ET.SubElement(element, "target", dev=prefix + next(letters[prefix]), bus=bus)  # type: ignore[call-overload]


def _boot(element: ET.Element, spec: MachineSpec, order: int) -> None:
    if spec.kernel is None:
        ET.SubElement(element, "boot", order=str(order))


def _ports(devices: ET.Element, spec: MachineSpec) -> None:
    serial = ET.SubElement(devices, "serial", type="pty")
    if spec.console_log:
        ET.SubElement(serial, "log", file=str(spec.console_log), append="off")
    ET.SubElement(serial, "target", type="isa-serial", port="0")
    if spec.serial1:
        serial = ET.SubElement(devices, "serial", type="file")
        ET.SubElement(serial, "source", path=str(spec.serial1), append="off")
        ET.SubElement(serial, "target", type="isa-serial", port="1")
    for name, path in spec.channels.items():
        # A file, never a socket: a port that is not read stalls the guest at its first line.
        channel = ET.SubElement(devices, "channel", type="file")
        ET.SubElement(channel, "source", path=str(path), append="off")
        ET.SubElement(channel, "target", type="virtio", name=name)
    if not isinstance(spec.network, UserNet) and spec.devices == "virtio":
        # Where the address of a guest has to be found out, its agent can tell. libvirt itself reads this one.
        channel = ET.SubElement(devices, "channel", type="unix")
        ET.SubElement(channel, "target", type="virtio", name="org.qemu.guest_agent.0")


def _rest(devices: ET.Element, *, balloon: bool) -> None:
    ET.SubElement(devices, "controller", type="usb", model="none")
    video = ET.SubElement(devices, "video")
    ET.SubElement(video, "model", type="vga", vram="16384", heads="1")
    ET.SubElement(devices, "memballoon", model="virtio" if balloon else "none")
    # pvpanic: a kernel that dies says so, instead of standing still until a time limit.
    ET.SubElement(devices, "panic", model="isa")
    rng = ET.SubElement(devices, "rng", model="virtio")
    _text(rng, "backend", "/dev/urandom", model="random")


def _host_devices(devices: ET.Element, spec: MachineSpec) -> None:
    for full in spec.host_devices:
        # managed: libvirt takes it from the host's driver at start and gives it back at the end.
        element = ET.SubElement(devices, "hostdev", mode="subsystem", type="pci", managed="yes")
        domain, bus, rest = full.split(":")
        slot, function = rest.split(".")
        words = {"domain": domain, "bus": bus, "slot": slot, "function": function}
        source = ET.SubElement(element, "source")
        ET.SubElement(source, "address", {name: f"0x{value}" for name, value in words.items()})


def _network(domain: ET.Element, devices: ET.Element, spec: MachineSpec) -> None:
    if isinstance(spec.network, UserNet):
        _user_network(domain, spec, spec.network)
        return
    model = "virtio" if spec.devices == "virtio" else "e1000"
    kind = "network" if isinstance(spec.network, LibvirtNet) else "bridge"
    interface = ET.SubElement(devices, "interface", type=kind)
    ET.SubElement(interface, "mac", address=spec.mac)
    ET.SubElement(interface, "source", {kind: spec.network.name})
    ET.SubElement(interface, "model", type=model)


def _user_network(domain: ET.Element, spec: MachineSpec, network: UserNet) -> None:
    # libvirt 9.0 has no element for a forward of user-mode networking, so QEMU's own arguments say it. Slot 0x10 is
    # far above those that libvirt hands out, which does not know of this card.
    model = "virtio-net-pci" if spec.devices == "virtio" else "e1000"
    bus = "pcie.0" if spec.machine == "q35" else "pci.0"
    forward = f"hostfwd=tcp:127.0.0.1:{network.port}-{network.guest}:22"
    netdev = f"user,id=builder0,restrict={'on' if network.restrict else 'off'},{forward}"
    card = f"{model},netdev=builder0,mac={spec.mac},bus={bus},addr=0x10"
    commandline = ET.SubElement(domain, f"{{{QEMU_NS}}}commandline")
    for word in ("-netdev", netdev, "-device", card):
        ET.SubElement(commandline, f"{{{QEMU_NS}}}arg", value=word)
