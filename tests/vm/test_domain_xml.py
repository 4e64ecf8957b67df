"""The XML of each kind of machine, compared with files, libvirt's own schema and libvirt's own parser.

After an intended change: `GOLDEN=write pytest tests/vm/test_domain_xml.py`, and read the diff.
"""

from __future__ import annotations

import dataclasses
import os
import re
import uuid
from pathlib import Path

import libvirt
import pytest

from builder.vm.domain_xml import files, render
from builder.vm.machine_spec import BridgeNet, DirectKernel, Disk, Layer, LibvirtNet, MachineSpec, NetworkCard, UserNet

GOLDEN = Path(__file__).parents[1] / "golden" / "domain_xml"
WORK = Path("/var/lib/builder/work")
INSTALL = MachineSpec(
    name="builder-20260101-install",
    uuid=uuid.UUID("12345678-1234-4234-8234-123456789abc"),
    run_id="20260101-abcdef",
    role="install",
    mac="52:54:00:12:34:56",
    vcpus=2,
    memory=2048,
    disks=(Disk(WORK / "disk.raw", "raw", "BUILDER"),),
    cdroms=(WORK / "medium.iso",),
    boot="cdrom",
    serial1=WORK / "ttyS1.log",
    channels={"org.fedoraproject.anaconda.log.0": WORK / "anaconda.log"},
    network=UserNet(restrict=True),
)
OVERLAY = Disk(
    WORK / "twin.qcow2",
    "qcow2",
    "BUILDER",
    backing=(Layer(WORK / "layer.qcow2", "qcow2"), Layer(WORK / "base.raw", "raw")),
    cache="writeback",
    detect_zeroes=True,
)
OTHERS = (NetworkCard("52:54:00:12:34:57", BridgeNet("br0")), NetworkCard("52:54:00:12:34:58", UserNet(port=2222)))
SPECS = {
    "install-bios-tcg": INSTALL,
    "install-uefi-kvm": dataclasses.replace(
        INSTALL, firmware="uefi", nvram=WORK / "nvram.fd", accel="kvm", host_phys_bits=48
    ),
    "kvm-46-bits": dataclasses.replace(INSTALL, accel="kvm", host_phys_bits=46),
    "pc-emulated": dataclasses.replace(INSTALL, machine="pc", devices="emulated"),
    "q35-emulated": dataclasses.replace(INSTALL, devices="emulated"),
    "direct-kernel": dataclasses.replace(
        INSTALL,
        kernel=DirectKernel(WORK / "vmlinuz", WORK / "initrd.img", "inst.ks=hd:LABEL=BUILDER_KS:/ks.cfg console=ttyS0"),
    ),
    "twin": dataclasses.replace(
        INSTALL, role="twin-a", disks=(OVERLAY,), boot="disk", network=UserNet(), on_reboot="restart", channels={}
    ),
    "goes-on": dataclasses.replace(
        INSTALL, role="instant-a", disks=(OVERLAY,), boot="disk", network=UserNet(), channels={}, saved="builder-held"
    ),
    "nat": dataclasses.replace(INSTALL, network=LibvirtNet("default"), console_log=WORK / "ttyS0.log"),
    "bridge-emulated": dataclasses.replace(INSTALL, network=BridgeNet("br0"), devices="emulated"),
    "cards": dataclasses.replace(INSTALL, network=LibvirtNet("default"), other_cards=OTHERS),
    "cards-emulated": dataclasses.replace(INSTALL, devices="emulated", other_cards=OTHERS[:1]),
    "host-devices": dataclasses.replace(
        INSTALL, host_disks=(Path("/dev/disk/by-id/ata-QEMU_1"),), host_devices=("0000:01:00.0", "0000:01:00.1")
    ),
    "grows": dataclasses.replace(INSTALL, most_vcpus=16, most_memory=8192),
    "grows-kvm": dataclasses.replace(INSTALL, accel="kvm", host_phys_bits=48, most_vcpus=16, most_memory=8192),
    "held": dataclasses.replace(
        INSTALL, role="warm", disks=(OVERLAY,), cdroms=(), boot="disk", network=LibvirtNet("default"), hold=True
    ),
    "odd-characters": dataclasses.replace(
        INSTALL,
        run_id="<&>\"'",
        serial1=WORK / "a&b <c> 'd' \"e\"",
        kernel=DirectKernel(WORK / "k&k", WORK / "i<i", "x=\"a b\" y='<&>' z=é"),
    ),
}


@pytest.mark.parametrize("name", SPECS)
def test_xml_is_what_was_looked_at(name: str) -> None:
    golden = GOLDEN / f"{name}.xml"
    if os.environ.get("GOLDEN") == "write":
        golden.write_text(render(SPECS[name]), encoding="utf-8")
    assert render(SPECS[name]) == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SPECS)
def test_libvirt_finds_it_valid_and_reads_back_what_was_meant(name: str) -> None:
    spec = SPECS[name]
    connection = libvirt.open("test:///default")
    try:
        # Only the type is changed, for the driver that needs no daemon; the schema is the same.
        text = re.sub(r'^<domain type="\w+"', '<domain type="test"', render(spec))
        domain = connection.defineXMLFlags(text, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
        told = domain.XMLDesc(0)
        assert domain.name() == spec.name
        assert domain.UUIDString() == str(spec.uuid)
        metadata = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, "https://builder.invalid/xmlns/machine/1")
        domain.undefine()
    finally:
        connection.close()
    assert f"role='{spec.role}'" in metadata.replace('"', "'")
    assert told.count("relabel='no'") == len(spec.cdroms) + sum(len(disk.backing) for disk in spec.disks)


def test_session_gets_no_exemption_from_relabelling() -> None:
    assert "seclabel" not in render(SPECS["twin"], dac=False)


def test_files_that_qemu_must_reach() -> None:
    read, own = files(dataclasses.replace(SPECS["twin"], firmware="uefi", nvram=WORK / "nvram.fd"))
    assert read == [WORK / "layer.qcow2", WORK / "base.raw", WORK / "medium.iso"]
    assert own == [WORK / "twin.qcow2", WORK / "nvram.fd"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"firmware": "uefi"}, "variables"),
        ({"disks": (Disk(WORK / "x", "raw", "A" * 21),)}, "20 characters"),
        ({"machine": "pc", "devices": "emulated", "cdroms": (WORK / "a",) * 4}, "4 IDE"),
    ],
)
def test_impossible_machines_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        render(dataclasses.replace(INSTALL, **change))  # type: ignore[arg-type]
