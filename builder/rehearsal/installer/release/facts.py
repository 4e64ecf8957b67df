# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""The releases that are installed, a literal for each, and the product that the medium says it is.

Sources: Anaconda's branches rhel7, rhel-8, rhel-9, rhel-10 and main, pyanaconda/: core/kickstart/version.py (handlers),
kickstart.py (sections), platform.py and modules/storage/platform.py (sizes), blivet's default disk label (rhel-10,
release-notes.rst), data/anaconda.conf (preserved_arguments), modules/network/network_interface.py and
modules/network/config_file.py (network files), installation.py (the order of files around %post).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from . import words
from .words import Words

# Written by the initramfs, from the medium's shape.
PLACE = Path("/run/install/release")


@dataclass(frozen=True)
class Release:
    """One release.

    Args:
        handler: pykickstart's name of its syntax.
        trees: folders of target/ that are laid over the new system, in order.
        units: enabled in it.
        authentication: the package that `auth` and its like need.
        patched: what its pykickstart knows beside the handler is in el7_checker.py.
        anaconda_section: %anaconda is known.
        keyfiles: network lines become NetworkManager's keyfiles, not ifcfg files.
        bare_options: options of the kernel's command line count without inst., too.
        preserved: options that the new system's kernel line gets beside those that all preserve.
        esp, boot: MiB of /boot/efi and /boot where the installer makes them.
        gpt: disks get a GPT for BIOS, too.
        efi_stub: UEFI's grub.cfg only names that of /boot/grub2.
        result_first: the kickstart that was carried out is written before %post, not behind it.
        script_asks: a script that failed is shown, and waits, in cmdline mode, too.
        asks_late: what is missing is asked about when packages are about to be installed.
        tells_failures: in cmdline mode packages that cannot be installed end as other errors do; and the scripts for a
            failure run whenever an installation is stopped.
        space: in cmdline mode too little space is said and passed over, not looked at, or ends the installation.
        words: what it says.
    """

    name: str
    handler: str
    trees: tuple[str, ...]
    words: Words
    units: tuple[str, ...] = ("sshd.service", "NetworkManager.service")
    authentication: str = "authselect"
    patched: bool = False
    anaconda_section: bool = True
    keyfiles: bool = True
    bare_options: bool = False
    preserved: tuple[str, ...] = ("rd.net.dns", "rd.net.dns-resolve-mode", "rd.net.dns-backend", "console")
    esp: int = 200
    boot: int = 1024
    gpt: bool = False
    efi_stub: bool = True
    result_first: bool = True
    script_asks: bool = True
    asks_late: bool = False
    tells_failures: bool = True
    space: str = "passed over"


EL7 = Release(
    "el7",
    "RHEL7",
    ("el7",),
    words.EL7,
    units=("sshd.service", "network.service"),
    authentication="authconfig",
    patched=True,
    keyfiles=False,
    bare_options=True,
    preserved=(),
    efi_stub=False,
    result_first=False,
    script_asks=False,
    tells_failures=False,
    space="said",
)
_EL10 = Release(
    "el10",
    "RHEL10",
    ("el8", "el9"),
    words.EL10,
    anaconda_section=False,
    esp=500,
    boot=2048,
    gpt=True,
    asks_late=True,
    space="ends",
)
RELEASES = {
    release.name: release
    for release in (
        EL7,
        Release("el8", "RHEL8", ("el8",), words.EL8, keyfiles=False, bare_options=True, preserved=(), efi_stub=False),
        Release("el9", "RHEL9", ("el8", "el9"), words.EL9),
        _EL10,
        replace(_EL10, name="fedora", handler="F44"),
    )
}


@dataclass(frozen=True)
class Product:
    """What the medium says of itself (builder's shapes.py, `facts`)."""

    release: Release
    title: str = "CentOS"
    version: str = "7"
    system: str = "CentOS Linux release 7.9.2009 (Core)"
    os_id: str = "centos"
    os_name: str = "CentOS Linux"
    os_version: str = "7 (Core)"
    installer: str = "21.48.22.159-1"
    table: str = "table.json"


def product(text: str) -> Product:
    """Read the medium's facts: `name='value'` lines; what no field is for is passed over."""
    said = dict(line.rstrip("'").split("='", 1) for line in text.splitlines())
    known = {name: said[name] for name in Product.__dataclass_fields__ if name != "release"}
    return Product(RELEASES[said["release"]], **known)
