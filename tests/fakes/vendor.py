"""Small install media of the vendor's shape, made by the programs that vendors use."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.system.process import run

LABEL = "CentOS 7 x86_64"
ESCAPED = r"CentOS\x207\x20x86_64"
# 2020-11-03 14:55:29 UTC
BUILT = 1604415329
ISOLINUX_BIN = Path("/usr/lib/ISOLINUX/isolinux.bin")

ISOLINUX_CFG = rf"""default vesamenu.c32
timeout 600

display boot.msg

menu clear
menu background splash.png
menu title CentOS 7
menu tabmsg Press Tab for full configuration options on menu items.

label linux
  menu label ^Install CentOS 7
  kernel vmlinuz
  append initrd=initrd.img inst.stage2=hd:LABEL={ESCAPED} quiet

label check
  menu label Test this ^media & install CentOS 7
  menu default
  kernel vmlinuz
  append initrd=initrd.img inst.stage2=hd:LABEL={ESCAPED} rd.live.check quiet

menu separator

menu begin ^Troubleshooting
  menu title Troubleshooting

label vesa
  menu indent count 5
  menu label Install CentOS 7 in ^basic graphics mode
  kernel vmlinuz
  append initrd=initrd.img inst.stage2=hd:LABEL={ESCAPED} xdriver=vesa nomodeset quiet

label rescue
  menu label ^Rescue a CentOS system
  kernel vmlinuz
  append initrd=initrd.img inst.stage2=hd:LABEL={ESCAPED} rescue quiet

label local
  menu label Boot from ^local drive
  localboot 0xffff

menu end
"""

GRUB_CFG = rf"""set default="1"

function load_video {{
  insmod efi_gop
  insmod all_video
}}

load_video
set gfxpayload=keep
insmod gzio

set timeout=60

search --no-floppy --set=root -l '{LABEL}'

menuentry 'Install CentOS 7' --class fedora --class gnu-linux --class os {{
	linuxefi /images/pxeboot/vmlinuz inst.stage2=hd:LABEL={ESCAPED} quiet
	initrdefi /images/pxeboot/initrd.img
}}
menuentry 'Test this media & install CentOS 7' --class fedora --class gnu-linux {{
	linuxefi /images/pxeboot/vmlinuz inst.stage2=hd:LABEL={ESCAPED} rd.live.check quiet
	initrdefi /images/pxeboot/initrd.img
}}
submenu 'Troubleshooting -->' {{
	menuentry 'Rescue a CentOS system' --class fedora {{
		linuxefi /images/pxeboot/vmlinuz inst.stage2=hd:LABEL={ESCAPED} rescue quiet
		initrdefi /images/pxeboot/initrd.img
	}}
}}
"""

TREEINFO = """[general]
name = CentOS-7
family = CentOS
timestamp = 1603729576.26
variant =
version = 7
packagedir =
arch = x86_64

[stage2]
mainimage = LiveOS/squashfs.img

[images-x86_64]
kernel = images/pxeboot/vmlinuz
initrd = images/pxeboot/initrd.img
"""


PRIMARY = """<?xml version="1.0" encoding="UTF-8"?>
<metadata xmlns="http://linux.duke.edu/metadata/common" xmlns:rpm="http://linux.duke.edu/metadata/rpm"
 packages="{count}">
{packages}
</metadata>
"""
PACKAGE = """<package type="rpm"><name>{name}</name><arch>x86_64</arch><version epoch="0" ver="1" rel="2"/>
<checksum type="sha256" pkgid="YES">{sha}</checksum><summary>s</summary><description>d</description>
<packager/><url/><time file="1" build="1"/><size package="1" installed="1" archive="1"/>
<location href="Packages/{name}.rpm"/><format>{provides}</format></package>"""
COMPS = """<?xml version="1.0" encoding="UTF-8"?>
<comps><group><id>core</id><name>Core</name></group>
<environment><id>minimal</id><name>Minimal Install</name><grouplist><groupid>core</groupid></grouplist></environment>
</comps>
"""
REPOMD = """<?xml version="1.0" encoding="UTF-8"?>
<repomd xmlns="http://linux.duke.edu/metadata/repo"><revision>1</revision>
<data type="primary"><checksum type="sha256">{primary}</checksum><location href="repodata/primary.xml"/></data>
<data type="group"><checksum type="sha256">{group}</checksum><location href="repodata/comps.xml"/></data>
</repomd>
"""


@dataclass(frozen=True)
class Shape:
    """What a medium has, and what it has not."""

    label: str = LABEL
    application: str = ""
    bios: bool = True
    uefi: bool = True
    rock_ridge: bool = True
    joliet: bool = True
    translations: bool = True
    hybrid: str = "--uefi"
    implanted: bool = True
    efi_size: int = 2 << 20
    payload: int = 300_000


def tree(folder: Path, shape: Shape) -> None:
    """The files of a medium."""
    texts = {
        ".treeinfo": TREEINFO,
        ".discinfo": "1603728831.612616\n7.9\nx86_64\n",
        "EULA": "terms\n",
        "CentOS_BuildTag": "20201103-0000\n",
        "RPM-GPG-KEY-CentOS-Testing-7": "key\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    blobs = {
        "images/pxeboot/vmlinuz": 66_000,
        "images/pxeboot/initrd.img": 130_001,
        "LiveOS/squashfs.img": shape.payload,
        "Packages/a-very-long-package-name-indeed-1.2.3-456.el7_9.x86_64.rpm": 5_000,
    }
    for number, (name, size) in enumerate(blobs.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number + 1]) * size)
    if shape.bios:
        isolinux = folder / "isolinux"
        isolinux.mkdir()
        (isolinux / "isolinux.bin").write_bytes(ISOLINUX_BIN.read_bytes())
        (isolinux / "isolinux.cfg").write_text(labelled(ISOLINUX_CFG, shape))
        for name in ("vmlinuz", "initrd.img"):
            os.link(folder / "images/pxeboot" / name, isolinux / name)
    if shape.uefi:
        (folder / "EFI/BOOT").mkdir(parents=True)
        (folder / "EFI/BOOT/grub.cfg").write_text(labelled(GRUB_CFG, shape))
        (folder / "EFI/BOOT/BOOTX64.EFI").write_bytes(b"MZ" * 5000)
        efi_image(folder / "images/efiboot.img", folder / "EFI", shape.efi_size)
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (BUILT, BUILT))


def labelled(text: str, shape: Shape) -> str:
    """A menu that looks for the medium of this shape."""
    escaped = "".join(
        char if re.match(r"[\w#+.=@-]", char, re.ASCII) else rf"\x{ord(char):02x}" for char in shape.label
    )
    return text.replace(ESCAPED, escaped).replace(LABEL, shape.label)


def repodata(folder: Path, names: Sequence[str], provides: int = 0) -> None:
    """Lists of these packages and of the group core, as createrepo writes them.

    Args:
        provides: how many more names each package answers to.
    """
    place = folder / "repodata"
    place.mkdir(parents=True)
    packages = "".join(
        PACKAGE.format(
            name=name,
            sha=hashlib.sha256(name.encode()).hexdigest(),
            provides="".join(f'<rpm:entry name="lib{name}.so.{number}()(64bit)"/>' for number in range(provides)).join(
                ("<rpm:provides>", "</rpm:provides>")
            ),
        )
        for name in names
    )
    texts = {"primary": PRIMARY.format(packages=packages, count=len(names)), "group": COMPS}
    sums = {kind: hashlib.sha256(text.encode()).hexdigest() for kind, text in texts.items()}
    for kind, name in (("primary", "primary.xml"), ("group", "comps.xml")):
        (place / name).write_text(texts[kind])
    (place / "repomd.xml").write_text(REPOMD.format(**sums))


def efi_image(image: Path, content: Path, size: int) -> None:
    """A FAT image holding a copy of the EFI folder."""
    image.touch()
    os.truncate(image, size)
    run(["mkfs.fat", "-n", "ANACONDA", image])
    run(["mcopy", "-s", "-i", image, content, "::/"])


def press(folder: Path, iso: Path, shape: Shape) -> Path:
    """The ISO of a tree, as the vendor's tools make it."""
    argv: list[str | Path] = ["genisoimage", "-quiet", "-V", shape.label, "-sysid", "LINUX", "-A", shape.application]
    if shape.bios:
        argv += ["-b", "isolinux/isolinux.bin", "-c", "isolinux/boot.cat", "-boot-load-size", "4"]
        argv += ["-boot-info-table", "-no-emul-boot"]
    if shape.bios and shape.uefi:
        argv += ["-eltorito-alt-boot"]
    if shape.uefi:
        argv += ["-e", "images/efiboot.img", "-no-emul-boot"]
    argv += ["-R"] if shape.rock_ridge else []
    argv += ["-J", "-joliet-long"] if shape.joliet else []
    argv += ["-T"] if shape.translations else []
    run([*argv, "-o", iso, folder])
    if shape.hybrid and shape.bios:
        run(["isohybrid", *shape.hybrid.split(), iso] if shape.hybrid != "plain" else ["isohybrid", iso])
    if shape.implanted:
        run(["implantisomd5", "--force", iso])
    return iso
