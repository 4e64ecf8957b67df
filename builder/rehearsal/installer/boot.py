# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""Install the boot loader of the new system.

Invariant: the system boots with the kernel line that Anaconda would give it: its root, what `bootloader --append` says,
what is preserved of the installer's own line, and the installer's last console=.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from . import log, program
from .bootargs import BootArgs
from .disk import storage
from .disk.layout import Layout
from .disk.storage import ROOT
from .disk.volumes import kernel_words
from .release.facts import Product


def kernel_line(args: BootArgs, append: str, volumes: Sequence[str] = (), preserved: Sequence[str] = ()) -> str:
    """The value of GRUB_CMDLINE_LINUX.

    Args:
        append: `bootloader --append`.
        volumes: the words that name the volumes to be there first.
        preserved: options that are taken over beside those that all releases take over.
    """
    words = [*append.split(), *volumes]
    names = {word.partition("=")[0] for word in words}
    if args.serial:
        if f"console={args.console}" not in words:
            words.append(f"console={args.console}")
    elif "quiet" not in names:
        words += ["rhgb", "quiet"]
    words += [word for word in args.preserved(preserved) if word.partition("=")[0] not in names]
    return " ".join(dict.fromkeys(words))


def defaults(args: BootArgs, ks: Any, volumes: Sequence[str] = ()) -> str:
    """The text of /etc/default/grub."""
    timeout = ks.bootloader.timeout
    line = kernel_line(args, ks.bootloader.appendLine or "", volumes, ks.release.preserved)
    lines = [
        f"GRUB_TIMEOUT={5 if timeout is None else timeout}",
        "GRUB_DISTRIBUTOR=\"$(sed 's, release .*$,,g' /etc/system-release)\"",
        "GRUB_DEFAULT=saved",
        "GRUB_DISABLE_SUBMENU=true",
    ]
    match = re.fullmatch(r"ttyS(\d+)(?:,(\d+).*)?", args.console or "")
    if match:
        speed = match[2] or "9600"
        lines.append('GRUB_TERMINAL="serial console"')
        lines.append(f'GRUB_SERIAL_COMMAND="serial --unit={match[1]} --speed={speed}"')
    else:
        lines.append('GRUB_TERMINAL_OUTPUT="console"')
    lines.append(f'GRUB_CMDLINE_LINUX="{line}"')
    lines.append('GRUB_DISABLE_RECOVERY="true"')
    return "\n".join([*lines, ""])


def install(ks: Any, args: BootArgs, layout: Layout, product: Product, *, efi: bool) -> None:
    """Write the configuration and put the boot loader on the disk, unless the kickstart wants none.

    Raises:
        ProgramError: grub-install failed.
    """
    if ks.bootloader.location == "none":
        log.info("anaconda", "skipping boot loader install per user request")
        return
    (ROOT / "etc/default/grub").write_text(defaults(args, ks, kernel_words(layout)))
    if efi:
        own = f"EFI/{product.os_id}/grub.cfg"
        folder = (ROOT / "boot/efi" / own).parent
        folder.mkdir(parents=True, exist_ok=True)
        program.run(
            *("grub-install", "--target=x86_64-efi", "--efi-directory=/boot/efi", "--boot-directory=/boot"),
            *("--removable", "--no-nvram"),
            root=ROOT,
        )
        _configure_efi(layout, own, stub=ks.release.efi_stub)
        return
    node = f"/dev/{layout.boot}"
    program.run("grub-install", "--target=i386-pc", "--boot-directory=/boot", "--no-floppy", node, root=ROOT)
    program.run("grub2-mkconfig", "-o", "/boot/grub2/grub.cfg", root=ROOT)


def _configure_efi(layout: Layout, own: str, *, stub: bool) -> None:
    """Write both grub.cfg of a machine with UEFI: the real one, and one that names it.

    Args:
        own: that of the distribution, below /boot/efi.
        stub: it is the one that names the other (from EL9 on); GRUB itself starts with /boot/grub2/grub.cfg here.
    """
    if stub:
        by_mount = {one.request.mount: one for one in layout.formatted}
        boot, place = (by_mount["/boot"], "/grub2") if "/boot" in by_mount else (by_mount["/"], "/boot/grub2")
        text = f"search --no-floppy --fs-uuid --set=dev {storage.uuid(boot)}\nconfigfile ($dev){place}/grub.cfg\n"
        (ROOT / "boot/efi" / own).write_text(text)
        program.run("grub2-mkconfig", "-o", "/boot/grub2/grub.cfg", root=ROOT)
        return
    esp = next(partition for partition in layout.partitions if partition.request.mount == "/boot/efi")
    text = f"search --no-floppy --fs-uuid --set=esp {storage.uuid(esp)}\nconfigfile ($esp)/{own}\n"
    (ROOT / "boot/grub2/grub.cfg").write_text(text)
    program.run("grub2-mkconfig", "-o", f"/boot/efi/{own}", root=ROOT)
