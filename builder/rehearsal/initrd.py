"""The one rule: one initramfs serves the installer and every machine installed from it, on whatever bus the disk is.

It is made by hand: busybox, one script and the modules of the devices that QEMU offers. It is a tenth of what the
distribution's generator makes, which is what a boot without KVM is made of.
"""

from __future__ import annotations

import io
import re
import stat
from collections.abc import Iterator
from pathlib import Path

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


def _names(modules: Path) -> dict[str, Path]:
    """Every module of the kernel by name (with underscores)."""
    found = {}
    for path in modules.rglob("*.ko*"):
        found[path.name.split(".ko")[0].replace("-", "_")] = path
    return found


def _needs(path: Path) -> list[str]:
    """Names of the modules that this one needs, read from its own record (also the soft ones)."""
    data = path.read_bytes()
    needs: list[str] = []
    for match in re.finditer(rb"(?:^|\0)depends=([^\0]*)\0", data):
        needs += match[1].decode().split(",")
    for match in re.finditer(rb"(?:^|\0)softdep=(?:pre|post): ([^\0]*)\0", data):
        needs += match[1].decode().split()
    return [need.replace("-", "_") for need in needs if need and not need.endswith(":")]


def closure(modules: Path, wanted: tuple[str, ...]) -> dict[str, Path]:
    """The wanted modules and everything they need, by name; a name the kernel has built in is left out."""
    every = _names(modules)
    chosen: dict[str, Path] = {}
    todo = list(wanted)
    while todo:
        name = todo.pop().replace("-", "_")
        if name in chosen or name not in every:
            continue
        chosen[name] = every[name]
        todo += _needs(every[name])
    return chosen


def expand(modules: Path) -> None:
    """Undo the compression some distributions give modules: busybox reads plain ones only.

    Raises:
        HostError: the program for the compression in use is missing.
    """
    for suffix, program in ((".zst", "zstd"), (".xz", "xz")):
        packed = sorted(modules.rglob(f"*.ko{suffix}"))
        for start in range(0, len(packed), 200):
            some = packed[start : start + 200]
            run([program, "-d", "-q", "-f", *some])
            for path in some:
                path.unlink(missing_ok=True)


def trim(tree: Path, version: str) -> None:
    """Leave in `tree`/lib/modules only what a virtual machine can use, with a fresh index.

    Raises:
        HostError: this kernel lacks a driver the medium cannot do without.
    """
    modules = tree / "lib" / "modules" / version
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
    """What the initramfs holds: (path, mode, content or link target)."""
    for folder in ("bin", "dev", "etc", "mnt", "proc", "run", "sys", "sysroot", "tmp", "lib", "lib/modules"):
        yield folder, stat.S_IFDIR | 0o755, b""
    yield "sbin", stat.S_IFLNK | 0o777, b"bin"
    yield "init", stat.S_IFREG | 0o755, (HERE / "boot" / "init").read_bytes()
    yield "bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes()
    for applet in run([busybox, "--list"]).stdout.split():
        if applet != "busybox":
            yield f"bin/{applet}", stat.S_IFLNK | 0o777, b"busybox"
    modules = tree / "lib" / "modules" / version
    small = work / "initrd"
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


def archive(entries: Iterator[tuple[str, int, bytes]] | list[tuple[str, int, bytes]]) -> bytes:
    """A newc cpio archive of (path, mode, content), owned by root, with no times in it."""
    out = io.BytesIO()
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        raw = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0)
        out.write(b"070701" + b"".join(b"%08X" % field for field in fields) + raw)
        out.write(b"\0" * (-out.tell() % 4))
        out.write(data)
        out.write(b"\0" * (-out.tell() % 4))
    return out.getvalue()


def make(busybox: Path, tree: Path, version: str, work: Path, out: Path) -> None:
    """Write the initramfs for kernel `version`, whose trimmed modules lie in `tree`."""
    plain = work / "initrd.cpio"
    plain.write_bytes(archive(_entries(busybox, tree, version, work)))
    run(["zstd", "-q", "-f", "-10", "-T0", "-o", out, plain])
