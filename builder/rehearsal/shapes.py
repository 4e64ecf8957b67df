"""The shapes of rehearsal media, a literal for each release: names, places and layout of a vendor's medium.

Volume ids and versions are those of real media: CentOS 7.9.2009; Rocky Linux 8.10, 9.8 and 10.1 and Fedora 44
(osinfo-db; Rocky Linux's sig-core-toolkit, buildImage.tmpl.sh). Places and layout are lorax's (branches rhel7 to
rhel10, f44, share/templates.d/99-generic), versions of dracut those of the releases: 033, 049, 057, 107.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from builder.releases import Name

Layout = Literal["isohybrid", "isolinux", "grub2"]


@dataclass(frozen=True)
class Shape:
    """One medium.

    Args:
        title: the product, in the menu and in `.treeinfo`.
        version: of the product, in `.treeinfo`.
        volume_id: by which the menu finds the medium.
        system: the line of the installed system's /etc/redhat-release.
        os_id, os_name, os_version: ID, NAME and VERSION of its /etc/os-release.
        installer: what Anaconda calls itself in its first line.
        dracut: version of the initramfs's generator, in its first line.
        words: which of the files `boot/words-*` the initramfs speaks with.
        layout: how the ISO is pressed (`press.py`).
        table: the names of packages and groups.
        stage2: where the squashfs is.
        repositories: folders with a repository, by the name of the variant; the last one has the optional packages. One
            in the root needs no name.
        full: the version where it is more than `version`.
        fips: there is a third entry in the menu.
        grub_loads: the commands by which UEFI's menu loads kernel and initramfs.
    """

    title: str
    version: str
    volume_id: str
    system: str
    os_id: str
    os_name: str
    os_version: str
    installer: str
    dracut: str
    words: str = "057"
    layout: Layout = "grub2"
    table: str = "table-el8.json"
    stage2: str = "images/install.img"
    repositories: tuple[tuple[str, str], ...] = (("BaseOS", "BaseOS"), ("AppStream", "AppStream"))
    full: str = ""
    fips: bool = True
    grub_loads: tuple[str, str] = ("linuxefi", "initrdefi")

    @property
    def long_version(self) -> str:
        """The version with all its parts."""
        return self.full or self.version


SHAPES: dict[Name, Shape] = {
    "el7": Shape(
        "CentOS",
        "7",
        "CentOS 7 x86_64",
        "CentOS Linux release 7.9.2009 (Core)",
        os_id="centos",
        os_name="CentOS Linux",
        os_version="7 (Core)",
        installer="21.48.22.159-1",
        dracut="033-572.el7",
        words="033",
        layout="isohybrid",
        table="table.json",
        stage2="LiveOS/squashfs.img",
        repositories=(("", ""),),
        full="7.9",
        fips=False,
    ),
    "el8": Shape(
        "Rocky Linux",
        "8.10",
        "Rocky-8-10-x86_64-dvd",
        "Rocky Linux release 8.10 (Green Obsidian)",
        os_id="rocky",
        os_name="Rocky Linux",
        os_version="8.10 (Green Obsidian)",
        installer="33.16.10.5",
        dracut="049",
        words="033",
        layout="isohybrid",
        fips=False,
    ),
    "el9": Shape(
        "Rocky Linux",
        "9.8",
        "Rocky-9-8-x86_64-dvd",
        "Rocky Linux release 9.8 (Blue Onyx)",
        os_id="rocky",
        os_name="Rocky Linux",
        os_version="9.8 (Blue Onyx)",
        installer="34.25.7.19",
        dracut="057",
        layout="isolinux",
    ),
    "el10": Shape(
        "Rocky Linux",
        "10.1",
        "Rocky-10-1-x86_64-dvd",
        "Rocky Linux release 10.1 (Red Quartz)",
        os_id="rocky",
        os_name="Rocky Linux",
        os_version="10.1 (Red Quartz)",
        installer="40.22.3.57",
        dracut="107",
    ),
    "fedora": Shape(
        "Fedora",
        "44",
        "Fedora-S-dvd-x86_64-44",
        "Fedora release 44 (Forty Four)",
        os_id="fedora",
        os_name="Fedora Linux",
        os_version="44 (Server Edition)",
        installer="44.35",
        dracut="107",
        repositories=(("Server", ""),),
        fips=False,
        grub_loads=("linux", "initrd"),
    ),
}


def facts(release: Name) -> str:
    """The file that the initramfs sources and the installer reads: one `name='value'` a line, no quotes in a value."""
    shape = SHAPES[release]
    named = {
        "release": release,
        "title": shape.title,
        "version": shape.version,
        "system": shape.system,
        "os_id": shape.os_id,
        "os_name": shape.os_name,
        "os_version": shape.os_version,
        "installer": shape.installer,
        "dracut": shape.dracut,
        "words": shape.words,
        "table": shape.table,
    }
    return "".join(f"{name}='{value}'\n" for name, value in named.items())
