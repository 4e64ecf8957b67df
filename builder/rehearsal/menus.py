"""The boot menus of a rehearsal medium: lorax's entries and default, in the grammars of isolinux and GRUB."""

from __future__ import annotations

import re

from builder.rehearsal.shapes import Shape

MENU_SECONDS = 60


def _entries(shape: Shape) -> list[tuple[str, str, str]]:
    """Title, isolinux's label, and what the kernel's command line has beside what all have."""
    name = f"{shape.title} {shape.version}"
    entries = [(f"Install {name}", "linux", ""), (f"Test this media & install {name}", "check", " rd.live.check")]
    return [*entries, (f"Install {name} in FIPS mode", "fips", " fips=1")] if shape.fips else entries


def _label(shape: Shape, backslash: str) -> str:
    """The volume id as a link below /dev/disk/by-label has it."""
    return re.sub(r"[^A-Za-z0-9#+.=@_-]", lambda found: f"{backslash}x{ord(found[0]):02x}", shape.volume_id)


def isolinux_cfg(shape: Shape) -> str:
    """The BIOS menu of isolinux; the check is the default, as on the vendor's medium."""
    arguments = f"inst.stage2=hd:LABEL={_label(shape, chr(92))}"
    lines = [
        "default vesamenu.c32",
        f"timeout {MENU_SECONDS * 10}",
        "",
        f"menu title {shape.title} {shape.version} (builder rehearsal)",
        "",
    ]
    for number, (title, label, more) in enumerate(_entries(shape)):
        lines += [f"label {label}", f"  menu label {'^' if number == 0 else ''}{title}"]
        lines += ["  menu default"] if number == 1 else []
        lines += ["  kernel vmlinuz", f"  append initrd=initrd.img {arguments}{more} quiet", ""]
    lines += ["label local", "  menu label Boot from ^local drive", "  localboot 0xffff", ""]
    return "\n".join(lines)


def grub_cfg(shape: Shape, loads: tuple[str, str]) -> str:
    """A menu of GRUB, with the same entries and default.

    Args:
        loads: the commands that load kernel and initramfs.
    """
    # GRUB takes one level of escapes out of an unquoted word; the vendor's has a patch that leaves \x20 alone.
    label = _label(shape, r"\\")
    arguments = f"inst.stage2=hd:LABEL={label}"
    arguments = f'"{arguments}"' if "\\" in label else arguments
    lines = ['set default="1"', "", f"set timeout={MENU_SECONDS}", ""]
    lines += [f"search --no-floppy --set=root -l '{shape.volume_id}'", ""]
    for title, _, more in _entries(shape):
        lines += [f"menuentry '{title}' --class fedora --class gnu-linux --class gnu --class os {{"]
        lines += [f"\t{loads[0]} /images/pxeboot/vmlinuz {arguments}{more} quiet"]
        lines += [f"\t{loads[1]} /images/pxeboot/initrd.img", "}"]
    return "\n".join([*lines, ""])
