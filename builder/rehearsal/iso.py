"""Assemble the rehearsal ISO, in the shape of the vendor's; its application id says that it is not the vendor's.

Shape as published for CentOS 7.9.2009 and made by lorax (branch rhel7-branch, share/x86.tmpl): volume id, system
id, both El Torito entries, isohybrid with the EFI image, an implanted md5, and a default menu entry that checks it.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from builder.errors import HostError
from builder.system.packages import hint
from builder.system.process import run

VOLUME_ID = "CentOS 7 x86_64"
APPLICATION_ID = "BUILDER REHEARSAL OF CENTOS 7.9.2009, NOT THE VENDOR'S"
STAMP = 1603729576  # the date of the vendor's own tree: nothing here may depend on the time of building
MENU_SECONDS = 60

_ARGUMENTS = r"inst.stage2=hd:LABEL=CentOS\x207\x20x86_64"
# GRUB takes one level of escapes out of an unquoted word; the vendor's has a patch that leaves \x20 alone.
_GRUB_ARGUMENTS = r'"inst.stage2=hd:LABEL=CentOS\\x207\\x20x86_64"'
_ENTRIES = (("Install CentOS 7", "linux", ""), ("Test this media & install CentOS 7", "check", " rd.live.check"))

ISOLINUX = Path("/usr/lib/ISOLINUX/isolinux.bin")
MODULES = Path("/usr/lib/syslinux/modules/bios")
GRUB = Path("/usr/lib/grub/x86_64-efi")


def isolinux_cfg() -> str:
    """The BIOS menu; the check is the default, as on the vendor's medium."""
    lines = [
        "default vesamenu.c32",
        f"timeout {MENU_SECONDS * 10}",
        "",
        "menu title CentOS 7 (builder rehearsal)",
        "",
    ]
    for number, (title, label, more) in enumerate(_ENTRIES):
        lines += [f"label {label}", f"  menu label {'^' if number == 0 else ''}{title}"]
        lines += ["  menu default"] if more else []
        lines += ["  kernel vmlinuz", f"  append initrd=initrd.img {_ARGUMENTS}{more} quiet", ""]
    lines += ["label local", "  menu label Boot from ^local drive", "  localboot 0xffff", ""]
    return "\n".join(lines)


def grub_cfg() -> str:
    """The UEFI menu, with the same entries and default."""
    lines = ['set default="1"', "", f"set timeout={MENU_SECONDS}", ""]
    lines += [f"search --no-floppy --set=root -l '{VOLUME_ID}'", ""]
    for title, _, more in _ENTRIES:
        lines += [f"menuentry '{title}' --class fedora --class gnu-linux --class gnu --class os {{"]
        lines += [f"\tlinuxefi /images/pxeboot/vmlinuz {_GRUB_ARGUMENTS}{more} quiet"]
        lines += ["\tinitrdefi /images/pxeboot/initrd.img", "}"]
    return "\n".join([*lines, ""])


def _info(root: Path) -> None:
    (root / ".discinfo").write_text(f"{STAMP}.26\n7.9\nx86_64\n")
    (root / ".treeinfo").write_text(
        "[general]\nname = CentOS-7\nfamily = CentOS\n"
        f"timestamp = {STAMP}.26\nvariant =\nversion = 7\npackagedir =\narch = x86_64\n\n"
        "[stage2]\nmainimage = LiveOS/squashfs.img\n\n"
        "[images-x86_64]\nkernel = images/pxeboot/vmlinuz\ninitrd = images/pxeboot/initrd.img\n"
    )
    (root / "CentOS_BuildTag").write_text("builder rehearsal\n")
    (root / "EULA").write_text(
        "This is a rehearsal of a CentOS 7 install medium, put together by builder from the packages of the machine\n"
        "it was built on. It has none of the vendor's programs. Each package keeps the licence of its own.\n"
    )


def _isolinux(root: Path, kernel: Path, initrd: Path) -> None:
    folder = root / "isolinux"
    folder.mkdir()
    (folder / "isolinux.cfg").write_text(isolinux_cfg())
    shutil.copyfile(ISOLINUX, folder / "isolinux.bin")
    for name in ("ldlinux.c32", "libcom32.c32", "libutil.c32", "vesamenu.c32"):
        shutil.copyfile(MODULES / name, folder / name)
    pxeboot = root / "images" / "pxeboot"
    pxeboot.mkdir(parents=True)
    # One copy of the bytes under both names: genisoimage keeps hard links.
    for source, name in ((kernel, "vmlinuz"), (initrd, "initrd.img")):
        shutil.copyfile(source, folder / name)
        os.link(folder / name, pxeboot / name)


def _efi(root: Path) -> None:
    boot = root / "EFI" / "BOOT"
    boot.mkdir(parents=True)
    (boot / "grub.cfg").write_text(grub_cfg())
    names = "all_video boot cat configfile echo fat gzio iso9660 linux linuxefi ls minicmd normal part_gpt part_msdos"
    names += " reboot search search_fs_file search_fs_uuid search_label serial sleep terminal test"
    # No configuration inside: GRUB takes the folder it was loaded from, the ISO's on a CD and efiboot.img's on a
    # stick, as with the vendor's.
    have = [name for name in names.split() if (GRUB / f"{name}.mod").exists()]
    run(["grub-mkimage", "-d", GRUB, "-O", "x86_64-efi", "-p", "/EFI/BOOT", "-o", boot / "BOOTX64.EFI", *have])
    image = root / "images" / "efiboot.img"
    with image.open("wb") as file:
        file.truncate(9011200)
    run(["mkfs.vfat", "-n", "ANACONDA", "-i", "7C9A0709", image])
    run(["mmd", "-i", image, "::EFI", "::EFI/BOOT"])
    for name in ("BOOTX64.EFI", "grub.cfg"):
        run(["mcopy", "-i", image, boot / name, f"::EFI/BOOT/{name}"])


def comps(table: dict[str, Any]) -> str:
    """The group file: what `@core` and `@^minimal` are."""
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', "<comps>"]
    for group, names in table["groups"].items():
        lines += ["  <group>", f"    <id>{group}</id>", f"    <name>{group.title()}</name>"]
        lines += ["    <description>Smallest possible installation</description>", "    <default>false</default>"]
        lines += ["    <uservisible>false</uservisible>", "    <packagelist>"]
        lines += [f'      <packagereq type="mandatory">{name}</packagereq>' for name in names]
        lines += ["    </packagelist>", "  </group>"]
    for name, groups in table["environments"].items():
        lines += ["  <environment>", f"    <id>{name}</id>", "    <name>Minimal Install</name>"]
        lines += ["    <description>Basic functionality.</description>", "    <display_order>3</display_order>"]
        lines += ["    <grouplist>", *(f"      <groupid>{group}</groupid>" for group in groups), "    </grouplist>"]
        lines += ["  </environment>"]
    return "\n".join([*lines, "</comps>", ""])


@contextmanager
def _createrepo(work: Path) -> Iterator[Any]:
    """The createrepo_c library. Its librpm complains on standard error where the host has no rpm: give it a home."""
    home = work / "rpm"
    home.mkdir()
    for name in ("rpmrc", "macros"):
        (home / name).touch()
    before = os.environ.get("RPM_CONFIGDIR")
    os.environ["RPM_CONFIGDIR"] = str(home)
    try:
        import createrepo_c

        yield createrepo_c
    finally:
        if before is None:
            del os.environ["RPM_CONFIGDIR"]
        else:
            os.environ["RPM_CONFIGDIR"] = before


def _package(createrepo_c: Any, name: str, file: Path, root: Path) -> Any:
    """A record of the metadata: real place and size of the file that brings the name."""
    package = createrepo_c.Package()
    package.name, package.arch, package.epoch = name, "x86_64", "0"
    package.version, package.release = "7.9.2009", "rehearsal.el7"
    package.summary = package.description = f"{name}, as the rehearsal medium has it"
    package.rpm_license, package.rpm_group, package.rpm_vendor = "various", "Unspecified", "builder rehearsal"
    package.checksum_type = "sha256"
    package.location_href = str(file.relative_to(root))
    package.pkgId = hashlib.sha256(f"{name} {package.location_href}".encode()).hexdigest()
    package.size_package = package.size_installed = package.size_archive = file.stat().st_size
    package.time_file = package.time_build = STAMP
    package.provides = [(name, "EQ", "0", "7.9.2009", "rehearsal.el7", False)]
    return package


def repodata(root: Path, work: Path, table: dict[str, Any]) -> None:
    """Metadata in which every known EL7 name can be looked up; its files are named by their sha256."""
    folder = root / "repodata"
    folder.mkdir()
    text = folder / "c7-minimal-x86_64-comps.xml"
    text.write_text(comps(table))
    with _createrepo(work) as createrepo_c:
        repomd = createrepo_c.Repomd()
        repomd.set_revision(str(STAMP))
        openers = {
            "primary": createrepo_c.PrimaryXmlFile,
            "filelists": createrepo_c.FilelistsXmlFile,
            "other": createrepo_c.OtherXmlFile,
        }
        packages = [_package(createrepo_c, name, file, root) for name, file in sorted(_names(root, table).items())]
        for kind, opener in openers.items():
            path = folder / f"{kind}.xml"
            file = opener(str(path), createrepo_c.NO_COMPRESSION)
            file.set_num_of_pkgs(len(packages))
            for package in packages:
                file.add_pkg(package)
            file.close()
            _record(createrepo_c, repomd, kind, _packed(path))
            path.unlink()
        _record(createrepo_c, repomd, "group_gz", _packed(text))
        _record(createrepo_c, repomd, "group", text)
        (folder / "repomd.xml").write_text(repomd.xml_dump())


def _packed(path: Path) -> Path:
    packed = path.with_name(f"{path.name}.gz")
    packed.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    return packed


def _names(root: Path, table: dict[str, Any]) -> dict[str, Path]:
    """Every known EL7 name and the file of the medium that brings it."""
    names = {*table["always"], *table["more"], *(name for group in table["groups"].values() for name in group)}
    files = dict.fromkeys(names, root / "LiveOS" / "squashfs.img")
    for name, package in table["debs"].items():
        files[name] = next((root / "Packages").glob(f"{package}_*.deb"))
    return files


def _record(createrepo_c: Any, repomd: Any, kind: str, path: Path) -> None:
    record = createrepo_c.RepomdRecord(kind, str(path))
    record.fill(createrepo_c.SHA256)
    record.timestamp = STAMP
    record.rename_file()
    repomd.set_record(record)


def tools() -> None:
    """Look for everything the medium is made with before the long part starts.

    Raises:
        HostError: a program or a boot loader's file is missing; the hint has the command that brings it.
    """
    files = (ISOLINUX, MODULES / "vesamenu.c32", GRUB / "linux.mod")
    missing = [str(path) for path in files if not path.exists()]
    if missing:
        raise HostError(f"missing on this host: {', '.join(missing)}", hint=hint(*missing))


def assemble(
    root: Path, work: Path, *, kernel: Path, initrd: Path, debs: list[Path], table_file: Path, out: Path
) -> None:
    """Make the ISO at `out`; `root`/LiveOS/squashfs.img exists already.

    Raises:
        HostError: a program is missing or fails.
    """
    table = json.loads(table_file.read_text())
    _info(root)
    _isolinux(root, kernel, initrd)
    _efi(root)
    (root / "Packages").mkdir()
    for deb in debs:
        # The epoch's colon, which apt writes as %3a, is no matter to dpkg but a trap for readers of URLs.
        shutil.copyfile(deb, root / "Packages" / deb.name.replace("%3a", "_"))
    repodata(root, work, table)
    for path in sorted(root.rglob("*")):
        os.utime(path, (STAMP, STAMP))
    run(
        [
            *("genisoimage", "-quiet", "-o", out, "-V", VOLUME_ID, "-sysid", "LINUX", "-A", APPLICATION_ID),
            *("-b", "isolinux/isolinux.bin", "-c", "isolinux/boot.cat", "-boot-load-size", "4", "-boot-info-table"),
            *("-no-emul-boot", "-eltorito-alt-boot", "-e", "images/efiboot.img", "-no-emul-boot"),
            *("-R", "-J", "-joliet-long", "-T", root),
        ]
    )
    run(["isohybrid", "--uefi", out])
    run(["implantisomd5", "--force", out])
