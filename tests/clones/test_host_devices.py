"""Devices of the host for a clone: only unused ones, and data is lost only where its device was named."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from builder.clones.record import spec
from builder.clones.store import CloneStore
from builder.errors import HostError, PublishError, RecipeError
from builder.system import host_devices
from builder.system.host_devices import BlockDevice
from builder.vm.domains import Domains
from tests.clones.conftest import CloneEnv

Loop = Callable[..., Path]
needs_loop = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/loop-control").exists(), reason="needs root and loop devices"
)


@pytest.fixture
def loop() -> Iterator[Loop]:
    """Makes block devices of 32 MiB out of files."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))

        def make(*options: str, filesystem: bool = False) -> Path:
            file = folder / f"{len(list(folder.iterdir()))}.img"
            file.touch()
            os.truncate(file, 32 << 20)
            if filesystem:
                subprocess.run(["mkfs.ext4", "-q", file], check=True, capture_output=True)
            words = ["losetup", "--find", "--show", *options, str(file)]
            node = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
            stack.callback(subprocess.run, ["losetup", "--detach", node], check=True)
            return Path(node)

        yield make


@needs_loop
def test_a_disk_that_nobody_uses(loop: Loop) -> None:
    node = loop()
    assert host_devices.block_device(str(node)) == BlockDevice(node, 32 << 20, "", ())


@needs_loop
def test_a_disk_with_data_is_refused(loop: Loop) -> None:
    node = loop(filesystem=True)
    for words in (str(node), f"{node},serial=QM00001"):
        with pytest.raises(HostError, match="bears data: ext4") as caught:
            host_devices.block_device(words)
        assert "no serial number" in caught.value.details


def test_data_goes_with_the_right_serial_number_only() -> None:
    device = BlockDevice(Path("/dev/sdx"), 1 << 30, "QM00001", ("gpt", "PMBR"))
    host_devices.require_meant(device, "QM00001")
    host_devices.require_meant(BlockDevice(Path("/dev/sdx"), 1 << 30, "QM00001", ()), "")
    for serial in ("", "QM00002"):
        with pytest.raises(HostError, match="bears data: gpt, PMBR") as caught:
            host_devices.require_meant(device, serial)
        assert "QM00001" in caught.value.details
        assert caught.value.hint.endswith("--host-disk /dev/sdx,serial=QM00001")


@needs_loop
def test_a_mounted_disk_is_refused(loop: Loop, tmp_path: Path) -> None:
    node = loop(filesystem=True)
    subprocess.run(["mount", node, tmp_path], check=True)
    try:
        with pytest.raises(HostError, match="is mounted") as caught:
            host_devices.block_device(f"{node},serial=x")
        assert str(tmp_path) in caught.value.details
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@needs_loop
def test_a_disk_that_something_holds_is_refused(loop: Loop) -> None:
    node = loop()
    holder = os.open(node, os.O_RDWR | os.O_EXCL)
    try:
        with pytest.raises(HostError, match="is in use on this host"):
            host_devices.block_device(str(node))
    finally:
        os.close(holder)


@needs_loop
def test_a_read_only_disk_is_refused(loop: Loop) -> None:
    with pytest.raises(HostError, match="is read-only"):
        host_devices.block_device(str(loop("--read-only")))


@pytest.mark.parametrize("words", ["sdb", "/dev/sdb,serial", "/dev/sdb,serial=", "/dev/sdb,name=x", ""])
def test_words_that_are_not_understood(words: str) -> None:
    with pytest.raises(RecipeError, match="not understood"):
        host_devices.block_device(words)


@pytest.mark.parametrize("path", ["/dev/null", "/etc/hostname", "/dev/no-such-disk"])
def test_what_is_no_block_device(path: str) -> None:
    with pytest.raises(HostError, match="is no block device"):
        host_devices.block_device(path)


@needs_loop
@pytest.mark.vm
def test_a_clone_gets_the_disk_and_nobody_else_does(
    house: CloneEnv, host: Domains, store: CloneStore, loop: Loop
) -> None:
    node = loop()
    (vm,) = house.make(host, "first", host_disks=(str(node),))
    with pytest.raises(PublishError, match=f"{node} belongs to {vm.name}"):
        house.make(host, "second", host_disks=(str(node),))
    with pytest.raises(RecipeError, match="named twice"):
        house.make(host, "second", host_disks=(str(node), str(node)))
    store.start(vm.name)
    try:
        opened = [link for link in Path("/proc").glob("[0-9]*/fd/*") if _leads_to(link, node)]
        assert opened, "QEMU has not opened the disk"
    finally:
        store.stop(vm.name, now=True, within=10)
    subprocess.run(["mkfs.ext4", "-q", node], check=True, capture_output=True)
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(["mount", node, place], check=True)
        try:
            with pytest.raises(HostError, match="is mounted"):
                store.start(vm.name)
        finally:
            subprocess.run(["umount", place], check=True)
    # It is the host's: the clone leaves it as it is.
    store.delete([vm.name])
    assert subprocess.run(["blkid", "-p", node], check=False, capture_output=True).stdout


def _leads_to(link: Path, node: Path) -> bool:
    try:
        return link.stat().st_rdev == node.stat().st_rdev
    except OSError:
        return False


def card(root: Path, address: str, group: int, *, driver: str = "", kind: str = "0x020000") -> Path:
    """A PCI device as sysfs shows it."""
    folder = root / "devices" / address
    folder.mkdir(parents=True)
    (folder / "class").write_text(f"{kind}\n")
    members = root / "groups" / str(group) / "devices"
    members.mkdir(parents=True, exist_ok=True)
    (members / address).symlink_to(folder)
    (folder / "iommu_group").symlink_to(members.parent)
    if driver:
        (root / "drivers" / driver).mkdir(parents=True, exist_ok=True)
        (folder / "driver").symlink_to(root / "drivers" / driver)
    return folder


def test_a_pci_device_with_a_group_of_its_own(tmp_path: Path) -> None:
    card(tmp_path, "0000:01:00.0", 7, driver="e1000e")
    card(tmp_path, "0000:00:01.0", 7, driver="pcieport", kind="0x060400")
    assert host_devices.pci_device("01:00.0", tmp_path / "devices") == "0000:01:00.0"


def test_a_pci_device_that_shares_its_group(tmp_path: Path) -> None:
    card(tmp_path, "0000:01:00.0", 7, driver="e1000e")
    card(tmp_path, "0000:01:00.1", 7, driver="snd_hda_intel")
    card(tmp_path, "0000:01:00.2", 7, driver="vfio-pci")
    root = tmp_path / "devices"
    with pytest.raises(HostError, match="shares its IOMMU group") as caught:
        host_devices.pci_device("0000:01:00.0", root)
    assert caught.value.details == "0000:01:00.1 (snd_hda_intel)"
    assert host_devices.pci_device("0000:01:00.0", root, others={"0000:01:00.1"}) == "0000:01:00.0"


def test_pci_devices_of_the_host_itself(tmp_path: Path) -> None:
    root = tmp_path / "devices"
    (card(tmp_path, "0000:02:00.0", 1) / "boot_vga").write_text("1\n")
    (card(tmp_path, "0000:03:00.0", 2) / "virtio1" / "net" / "eth0").mkdir(parents=True)
    (root / "0000:03:00.0" / "virtio1" / "net" / "eth0" / "operstate").write_text("up\n")
    card(tmp_path, "0000:04:00.0", 3, kind="0x060400")
    for address, said in (("02:00.0", "the screen"), ("03:00.0", "network card eth0"), ("04:00.0", "is a bridge")):
        with pytest.raises(HostError, match=said):
            host_devices.pci_device(address, root)
    with pytest.raises(HostError, match="no PCI device 0000:05"):
        host_devices.pci_device("05:00.0", root)
    with pytest.raises(RecipeError, match="no PCI address"):
        host_devices.pci_device("eth0", root)


def test_without_an_iommu_no_device_is_handed_over(tmp_path: Path) -> None:
    (card(tmp_path, "0000:01:00.0", 7) / "iommu_group").unlink()
    with pytest.raises(HostError, match="no IOMMU is at work"):
        host_devices.pci_device("01:00.0", tmp_path / "devices")


@pytest.mark.vm
def test_libvirt_takes_the_pci_device(house: CloneEnv, host: Domains) -> None:
    (vm,) = house.make(host, "card")
    host.define(spec(vm.model_copy(update={"host_devices": ("0000:01:00.0",)}), house.vms / vm.name))
    shown = subprocess.run(
        ["virsh", "-c", house.uri, "dumpxml", vm.name], check=True, capture_output=True, text=True
    ).stdout
    assert "<hostdev mode='subsystem' type='pci' managed='yes'>" in shown
    assert "bus='0x01' slot='0x00' function='0x0'" in shown


def test_one_device_cannot_go_to_many(house: CloneEnv, host: Domains) -> None:
    with pytest.raises(RecipeError, match="one VM only"):
        house.make(host, "many", count=2, host_disks=("/dev/sdx",))
