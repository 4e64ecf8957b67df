"""The releases of Enterprise Linux and Fedora that recipes can name, and what differs between them: one literal each.

Rocky Linux, AlmaLinux, CentOS Stream, Oracle Linux and RHEL count as one: they differ in ISO, list of checksums,
key and URL, which are a recipe's own data. What differs inside the guest is looked up there by its scripts.

Sources: pykickstart 3.78 (handlers); Anaconda 21.48.22.159, branches rhel-8 to rhel-10 and main (least memory of a text
install from a CD: pyanaconda/isys and core/hw.py; least size of /boot/efi: pyanaconda/platform.py and
modules/storage/platform.py); osinfo-db (memory that the vendors ask for); the x86-64 psABI (levels of CPUs).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Delivery = Literal["remaster", "seed"]
Cpu = Literal["x86-64", "x86-64-v2", "x86-64-v3"]
Name = Literal["el7", "el8", "el9", "el10", "fedora"]

# Words of /proc/cpuinfo that a level has beside those of the level below it (x86-64 psABI 1.0, table 3.1; Linux calls
# SSE3 `pni` and LZCNT `abm`, and shows OSXSAVE as `xsave`).
_V2 = frozenset({"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"})
_V3 = _V2 | {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"}
FLAGS: dict[Cpu, frozenset[str]] = {"x86-64": frozenset(), "x86-64-v2": _V2, "x86-64-v3": _V3}


@dataclass(frozen=True)
class Release:
    """Facts about one release.

    Args:
        name: as a recipe writes it.
        title: for people.
        handler: pykickstart's name of the kickstart syntax (`ksvalidator -v`).
        versions: pattern of the version in a medium's `.treeinfo`.
        delivery: how the kickstart reaches the installer where the recipe does not say.
        template: the shipped kickstart template.
        cpu: the least that its programs run on.
        memory: MiB that a machine needs at least.
        efi_partition: MiB that an EFI system partition made by `reqpart` or `autopart` takes at least.
        xorriso: its vendors' ISOs are made by xorriso, which alone can rewrite most of them (lorax of rhel9-branch and
            later, share/templates.d/99-generic/x86.tmpl; pungi 4.3.6 and Rocky Linux's empanadas make el8's DVDs so).
        own_checker: its installer is known better than by the handler: el7_checker.py, kickstart/el7_rules.py.
    """

    name: Name
    title: str
    handler: str
    versions: str
    delivery: Delivery = "seed"
    template: str = "el-minimal.ks.j2"
    cpu: Cpu = "x86-64"
    memory: int = 2048
    efi_partition: int = 500
    xorriso: bool = True
    own_checker: bool = False


RELEASES: dict[str, Release] = {
    release.name: release
    for release in (
        Release(
            "el7",
            "Enterprise Linux 7",
            "RHEL7",
            r"7([.-].*)?",
            delivery="remaster",
            template="centos7-minimal.ks.j2",
            memory=320,
            efi_partition=200,
            xorriso=False,
            own_checker=True,
        ),
        Release("el8", "Enterprise Linux 8", "RHEL8", r"8([.-].*)?", memory=1536, efi_partition=200),
        Release("el9", "Enterprise Linux 9", "RHEL9", r"9([.-].*)?", cpu="x86-64-v2", efi_partition=200),
        Release("el10", "Enterprise Linux 10", "RHEL10", r"10([.-].*)?", cpu="x86-64-v3"),
        Release("fedora", "Fedora 43 and 44", "F44", r"4[34]"),
    )
}
DEFAULT: Name = "el7"


def of_version(version: str) -> Release | None:
    """Return the release that a medium's `.treeinfo` belongs to; None where builder knows none."""
    return next((release for release in RELEASES.values() if re.fullmatch(release.versions, version)), None)
