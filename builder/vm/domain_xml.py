"""The libvirt domain XML of a machine.

Only `xml.etree` makes the XML, which escapes every value, and no file is read.
Sources: the libvirt domain format (https://libvirt.org/formatdomain.html) and QEMU's `-netdev user` manual.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree as ET

from builder.vm.machine_spec import Disk, LibvirtNet, MachineSpec, NetworkCard, UserNet

METADATA_NS = "https://builder.invalid/xmlns/machine/1"
QEMU_NS = "http://libvirt.org/schemas/domain/qemu/1.0"
ET.register_namespace("builder", METADATA_NS)
ET.register_namespace("qemu", QEMU_NS)

# Guests of 2009 to 2020 mishandle more guest-physical address bits than this (EL7 finds no virtio BARs).
MAX_PHYS_BITS = 46
# Modules of memory that can be plugged in while a machine runs; each leaves an entry in the guest's tables.
MEMORY_SLOTS = 8
# Chassis asset tag of a machine that is to be saved; kickstarts/snippets/first-boot.sh looks for it.
HOLD = "builder-hold"
# Far above the slots that libvirt hands out on the root bus: the other devices are where they are without the cards.
# The guest finds the cards in the order of their slots.
CARD_SLOTS = tuple(f"{slot:#x}" for slot in range(0x10, 0x18))


def render(spec: MachineSpec, *, dac: bool = True) -> str:
    """The libvirt domain XML of a machine.

    Args:
        dac: libvirt gives files to QEMU's user (`qemu:///system`), so read-only ones are exempted; where it does
            not (`qemu:///session`) it refuses the exemption.

    Raises:
        ValueError: a combination that no machine can have (UEFI without a variables file, too many IDE drives or
            network cards, a serial that a drive would cut short).
    """
    _refuse_nonsense(spec)
    domain = ET.Element("domain", type="kvm" if spec.accel == "kvm" else "qemu")
    _text(domain, "name", spec.name)
    _text(domain, "uuid", str(spec.uuid))
    _metadata(domain, spec)
    _capacity(domain, spec)
    _os(domain, spec)
    if spec.hold:
        sysinfo = ET.SubElement(domain, "sysinfo", type="smbios")
        _text(ET.SubElement(sysinfo, "chassis"), "entry", HOLD, name="asset")
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
    if not spec.hold:
        for card, slot in zip(spec.cards, CARD_SLOTS, strict=False):
            _card(domain, devices, spec, card, slot)
    if spec.saved is not None:
        # Of a machine that libvirt does not keep there is no snapshot to go back to: QEMU's own argument says it.
        _arguments(domain, "-loadvm", spec.saved)
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
    if len(spec.cards) > len(CARD_SLOTS):
        raise ValueError(f"a machine takes {len(CARD_SLOTS)} network cards, not {len(spec.cards)}")
    if sum(isinstance(card.network, UserNet) for card in spec.cards) > 1:
        raise ValueError("one card of a machine can be on QEMU's own network: it gives all the same address")
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
    if spec.hold:
        ET.SubElement(os_, "smbios", mode="sysinfo")


def _cpu(domain: ET.Element, spec: MachineSpec) -> None:
    if spec.accel == "tcg":
        cpu = ET.SubElement(domain, "cpu", mode="maximum")
    else:
        cpu = ET.SubElement(domain, "cpu", mode="host-passthrough", migratable="off")
        if spec.hold or spec.keepsake is not None:
            # With it QEMU does not save a running machine ("State blocked by non-migratable CPU device", QEMU 7.2).
            ET.SubElement(cpu, "feature", policy="disable", name="invtsc")
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
    drives: tuple[Path | None, ...] = (None,) if spec.hold else spec.cdroms
    for number, cd in enumerate(drives):
        element = ET.SubElement(devices, "disk", type="file", device="cdrom")
        ET.SubElement(element, "driver", name="qemu", type="raw")
        if cd is not None:
            _shared(element, cd, dac)
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
    if not all(isinstance(card.network, UserNet) for card in spec.cards) and spec.devices == "virtio":
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


def _card(domain: ET.Element, devices: ET.Element, spec: MachineSpec, card: NetworkCard, slot: str) -> None:
    if isinstance(card.network, UserNet):
        _user_card(domain, spec, card.mac, card.network, slot)
        return
    model = "virtio" if spec.devices == "virtio" else "e1000"
    kind = "network" if isinstance(card.network, LibvirtNet) else "bridge"
    interface = ET.SubElement(devices, "interface", type=kind)
    ET.SubElement(interface, "mac", address=card.mac)
    ET.SubElement(interface, "source", {kind: card.network.name})
    ET.SubElement(interface, "model", type=model)
    ET.SubElement(interface, "address", type="pci", domain="0x0000", bus="0x00", slot=slot, function="0x0")


def _user_card(domain: ET.Element, spec: MachineSpec, mac: str, network: UserNet, slot: str) -> None:
    # libvirt 9.0 has no element for a forward of user-mode networking, so QEMU's own arguments say it.
    model = "virtio-net-pci" if spec.devices == "virtio" else "e1000"
    bus = "pcie.0" if spec.machine == "q35" else "pci.0"
    forward = f"hostfwd=tcp:127.0.0.1:{network.port}-{network.guest}:22"
    netdev = f"user,id=builder0,restrict={'on' if network.restrict else 'off'},{forward}"
    card = f"{model},netdev=builder0,mac={mac},bus={bus},addr={slot}"
    _arguments(domain, "-netdev", netdev, "-device", card)


def _arguments(domain: ET.Element, *words: str) -> None:
    """Hand QEMU arguments that libvirt has no elements for."""
    tag = f"{{{QEMU_NS}}}commandline"
    commandline = domain.find(tag)
    if commandline is None:
        commandline = ET.SubElement(domain, tag)
    for word in words:
        ET.SubElement(commandline, f"{{{QEMU_NS}}}arg", value=word)
