"""Make the one initramfs that serves the installer and every machine installed from it, whatever bus its disk is on.

It holds busybox, one script and the modules of the devices that QEMU offers. It is a tenth of the size of one from the
distribution's generator; without KVM, size decides how long a boot takes.
"""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from builder.errors import HostError
from builder.system.process import run

HERE = Path(__file__).parent

# Buses and disks, by driver name; what they depend on comes along.
DISKS = (
    *("virtio_pci", "virtio_mmio", "virtio_scsi", "virtio_blk", "virtio_console", "virtio_rng", "virtio_net"),
    *("ahci", "ata_piix", "ata_generic", "sd_mod", "sr_mod", "sg", "nvme"),
    *("xhci_pci", "ehci_pci", "uhci_hcd", "usb_storage", "uas"),
)
FILES = (
    *("isofs", "loop", "squashfs", "overlay", "xfs", "ext4", "vfat", "efivarfs", "crc32c_generic", "crc32c_intel"),
    *("nls_ascii", "nls_cp437", "nls_iso8859_1", "nls_utf8"),
)
# Wanted by a running system only. The button is what a shutdown by ACPI presses.
SYSTEM = (
    *("e1000", "e1000e", "button", "evdev", "autofs4", "configfs", "fuse", "virtio_balloon", "qemu_fw_cfg"),
    *("efi_pstore", "dm_mod", "nf_tables", "nfnetlink", "8139cp", "i6300esb", "rng_core", "binfmt_misc"),
)


@dataclass(frozen=True)
class Index:
    """Holds what a kernel's own index says about its modules (names with underscores).

    Args:
        files: the file of each module, by name.
        needs: names of the modules that each one needs loaded before it, also the soft ones.
    """

    files: dict[str, Path]
    needs: dict[str, list[str]]


def merge_usr(tree: Path) -> None:
    """Give an unpacked kernel a merged /usr, whichever of the two places its package has the modules in."""
    lib = tree / "lib"
    (tree / "usr" / "lib").mkdir(parents=True, exist_ok=True)
    if lib.is_dir() and not lib.is_symlink():
        shutil.copytree(lib, tree / "usr" / "lib", symlinks=True, dirs_exist_ok=True, copy_function=os.link)
        shutil.rmtree(lib)
    if not lib.is_symlink():
        lib.symlink_to("usr/lib")


def find_kernel(tree: Path) -> str:
    """Lay the kernel of an unpacked, merged tree into boot/, and return its version.

    Debian's packages have it beside the modules since Linux 7, as Fedora's do.

    Raises:
        HostError: there is none.
    """
    boot = tree / "boot"
    boot.mkdir(exist_ok=True)
    for path in (tree / "usr" / "lib" / "modules").glob("*/vmlinuz"):
        path.rename(boot / f"vmlinuz-{path.parent.name}")
    versions = sorted(path.name.removeprefix("vmlinuz-") for path in boot.glob("vmlinuz-*"))
    if not versions:
        raise HostError("the kernel packages of this distribution hold no kernel where one is looked for")
    return versions[-1]


def _module(word: str) -> str:
    """The name of a module, from its file's name or from a record."""
    return word.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def read_index(modules: Path) -> Index:
    """Read `modules`/modules.dep and modules.softdep, which depmod(8) writes.

    A module's own record is not asked: of a compressed module it cannot be read as it lies there.
    """
    files: dict[str, Path] = {}
    needs: dict[str, list[str]] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        file, _, others = line.partition(":")
        files[_module(file)] = modules / file
        needs[_module(file)] = [_module(other) for other in others.split()]
    soft = modules / "modules.softdep"
    for line in soft.read_text().splitlines() if soft.exists() else ():
        command, *words = line.split()
        if command == "softdep" and words:
            needs.setdefault(_module(words[0]), []).extend(_module(word) for word in words[1:] if word[-1] != ":")
    return Index(files, needs)


def closure(modules: Path, wanted: tuple[str, ...]) -> dict[str, Path]:
    """The wanted modules and everything they need, by name; a name the kernel has built in is left out."""
    index = read_index(modules)
    chosen: dict[str, Path] = {}
    todo = list(wanted)
    while todo:
        name = _module(todo.pop())
        if name not in chosen and name in index.files:
            chosen[name] = index.files[name]
            todo += index.needs[name]
    return chosen


def expand(modules: Path) -> None:
    """Undo the compression some distributions give modules: busybox reads plain ones only.

    Raises:
        HostError: a compression that is not known here, or zstd is missing.
    """
    readers = {".xz": lzma.decompress, ".gz": gzip.decompress}
    by_zstd = []
    for path in sorted(modules.rglob("*.ko.*")):
        if path.suffix == ".zst":
            by_zstd.append(path)
        elif path.suffix in readers:
            path.with_suffix("").write_bytes(readers[path.suffix](path.read_bytes()))
            path.unlink()
        else:
            raise HostError(f"the kernel's modules are compressed in a way that is not known here: {path.name}")
    if by_zstd:
        run(["zstd", "-d", "-q", "-f", "--rm", *by_zstd])


def trim(tree: Path, version: str) -> None:
    """Leave in `tree`/lib/modules only what a virtual machine can use, with a fresh index.

    Raises:
        HostError: this kernel lacks a driver the medium cannot do without.
    """
    modules = tree / "lib" / "modules" / version
    if not (modules / "modules.dep").exists():
        _index(tree, version)
    keep = closure(modules, (*DISKS, *FILES, *SYSTEM))
    builtin = (modules / "modules.builtin").read_text().replace("-", "_")
    for name in (*DISKS[:4], "ahci", "xfs", "isofs", "squashfs", "overlay"):
        if name not in keep and f"/{name}.ko" not in builtin:
            raise HostError(f"kernel {version} has no module {name}: no rehearsal medium can be made with it")
    kept = set(keep.values())
    for path in modules.rglob("*.ko*"):
        if path not in kept:
            path.unlink()
    expand(modules)
    _index(tree, version)


def _index(tree: Path, version: str) -> None:
    run(["depmod", "-b", tree, version])


def _entries(busybox: Path, tree: Path, version: str, work: Path) -> Iterator[tuple[str, int, bytes]]:
    """Contents of the initramfs: (path, mode, content or link target)."""
    for folder in ("bin", "dev", "etc", "mnt", "proc", "run", "sys", "sysroot", "tmp", "lib", "lib/modules"):
        yield folder, stat.S_IFDIR | 0o755, b""
    yield "sbin", stat.S_IFLNK | 0o777, b"bin"
    yield "init", stat.S_IFREG | 0o755, (HERE / "boot" / "init").read_bytes()
    for words in sorted((HERE / "boot").glob("words-*")):
        yield words.name, stat.S_IFREG | 0o644, words.read_bytes()
    yield "bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes()
    for applet in run([busybox, "--list"]).stdout.split():
        if applet != "busybox":
            yield f"bin/{applet}", stat.S_IFLNK | 0o777, b"busybox"
    modules = tree / "lib" / "modules" / version
    small = work / "initrd"
    merge_usr(small)
    for name, path in closure(modules, (*DISKS, *FILES)).items():
        target = small / "lib" / "modules" / version / f"{name}.ko"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        if (modules / name).exists():
            (small / "lib" / "modules" / version / name).write_bytes((modules / name).read_bytes())
    _index(small, version)
    yield f"lib/modules/{version}", stat.S_IFDIR | 0o755, b""
    for path in sorted((small / "lib" / "modules" / version).iterdir()):
        if path.suffix == ".ko" or path.name in (
            "modules.dep",
            "modules.alias",
            "modules.softdep",
            "modules.symbols",
        ):
            yield f"lib/modules/{version}/{path.name}", stat.S_IFREG | 0o644, path.read_bytes()


def archive(entries: Iterable[tuple[str, int, bytes]], out: BinaryIO) -> None:
    """Write a newc cpio archive of (path, mode, content), owned by root, with no times in it.

    Args:
        out: tells its position, which is a multiple of 4.
    """
    for number, (name, mode, data) in enumerate(chain(entries, [("TRAILER!!!", 0, b"")]), start=1):
        raw = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0)
        out.write(b"070701" + b"".join(b"%08X" % field for field in fields) + raw)
        out.write(b"\0" * (-out.tell() % 4))
        out.write(data)
        out.write(b"\0" * (-out.tell() % 4))


def make(busybox: Path, tree: Path, version: str, work: Path, out: Path) -> None:
    """Write the initramfs for kernel `version`, whose trimmed modules lie in `tree`."""
    plain = work / "initrd.cpio"
    with plain.open("wb") as file:
        archive(_entries(busybox, tree, version, work), file)
    run(["zstd", "-q", "-f", "-10", "-T0", "-o", out, plain])


def append(image: Path, files: dict[str, bytes]) -> None:
    """Put more files into an initramfs: a second archive behind the first.

    (Linux, Documentation/driver-api/early-userspace/buffer-format.rst: an initramfs is any number of archives.)
    """
    with image.open("ab") as file:
        file.write(b"\0" * (-image.stat().st_size % 4))
        archive([(name, stat.S_IFREG | 0o644, data) for name, data in files.items()], file)
