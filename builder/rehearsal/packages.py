"""Resolve and download the packages of the medium with the host's own apt; no archive is named here.

apt resolves the list against an empty system, with the package lists that the host has; the download uses the same
answer. The kernel and busybox are unpacked by hand, so that no initramfs generator comes with them.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.errors import HostError
from builder.system.digests import sha256_file
from builder.system.process import run

# Installed in the target (and so in the installer, which runs from the same file system).
TARGET = (
    "bash",
    "chrony",
    "dbus",
    "dosfstools",
    "e2fsprogs",
    "fdisk",
    "grub-efi-amd64-bin",
    "grub-pc-bin",
    "grub2-common",
    "iproute2",
    "iputils-ping",
    "kmod",
    "less",
    "locales",
    "login",
    "mount",
    "openssh-client",
    "openssh-server",
    "parted",
    "passwd",
    "procps",
    "python3",
    "squashfs-tools",
    "sudo",
    "systemd",
    "systemd-sysv",
    "tzdata",
    "udev",
    "util-linux",
    "xfsprogs",
)

# Laid into Packages/, with what they need, and installed in the guest when a kickstart asks for them.
OPTIONAL = ("acpid", "cloud-guest-utils", "cloud-init", "lvm2", "nano", "qemu-guest-agent", "tree")

# Unpacked by hand: never configured, and what only their scripts need is left out.
KERNELS = {"debian": "linux-image-amd64", "ubuntu": "linux-image-generic"}

# Debian lets apt choose between a package that needs perl and an empty one.
EMPTY = {"debian": ("usr-is-merged",), "ubuntu": ()}
BUSYBOX = "busybox-static"

_INST = re.compile(r"^Inst (?P<name>\S+) (?:\[\S+\] )?\((?P<version>\S+)", re.MULTILINE)
# Debian has split them in four since Linux 7.
_KERNEL_FILES = re.compile(r"linux-(base|binary|image|modules)-\d")


@dataclass(frozen=True)
class Host:
    """The distribution whose packages are used.

    Args:
        family: `debian` or `ubuntu`.
        codename: as in the host's os-release (`bookworm`).
    """

    family: str
    codename: str


def this_host() -> Host:
    """Say which distribution this is.

    Raises:
        HostError: neither Debian nor Ubuntu on x86_64.
    """
    release = platform.freedesktop_os_release()
    names = [release.get("ID", ""), *release.get("ID_LIKE", "").split()]
    family = "ubuntu" if "ubuntu" in names else "debian"
    codename = release.get("UBUNTU_CODENAME") or release.get("VERSION_CODENAME", "")
    if family not in names or not codename or platform.machine() != "x86_64":
        raise HostError(
            "the rehearsal medium is built from the packages of a Debian or Ubuntu host on x86_64",
            details=f"this is {release.get('PRETTY_NAME', 'unknown')} on {platform.machine()}",
            hint="give a real medium with --media FILE, or write a rehearsal medium on such a host: "
            "builder media rehearsal --output FILE",
        )
    return Host(family, codename)


def _apt(*words: str) -> tuple[str, ...]:
    """apt-get for an empty system with the host's package lists; needs no privilege and takes no lock."""
    return (
        "apt-get",
        *("-o", "Dir::State::status=/dev/null", "-o", "Debug::NoLocking=1"),
        *("-o", "APT::Get::List-Cleanup=0", "-o", "APT::Sandbox::User="),
        *("--no-install-recommends", "--yes"),
        *words,
    )


def wanted(host: Host) -> tuple[str, ...]:
    """The packages asked for by name; apt adds what they depend on."""
    return (*TARGET, *EMPTY[host.family], *OPTIONAL, KERNELS[host.family], BUSYBOX)


def optional(host: Host) -> set[str]:
    """The names of what is laid into Packages/: the optional packages, and what they add to the rest.

    Raises:
        HostError: as `resolve`.
    """
    rest = [name for name in wanted(host) if name not in OPTIONAL]
    return set(resolve(host)) - set(_resolve(rest))


def resolve(host: Host) -> dict[str, str]:
    """Every package that would be fetched now, with its version. No network.

    Raises:
        HostError: the host has no usable package lists.
    """
    return _resolve(wanted(host))


def _resolve(names: Sequence[str]) -> dict[str, str]:
    done = run(_apt("--simulate", "install", "?essential", *names), check=False)
    if done.status != 0:
        raise HostError(
            "apt cannot resolve the packages of the rehearsal medium",
            output=done.error_text,
            hint="apt-get update",
        )
    return {match["name"]: match["version"] for match in _INST.finditer(done.stdout)}


def download(host: Host, work: Path) -> list[Path]:
    """Fetch all packages into `work`/archives with the host's apt and return the files.

    Raises:
        HostError: apt cannot fetch them.
    """
    archives = work / "archives"
    (archives / "partial").mkdir(parents=True)
    run(
        _apt("-o", f"Dir::Cache::archives={archives}", "--download-only", "install", "?essential", *wanted(host)),
    )
    return sorted(archives.glob("*.deb"))


def name_of(deb: Path) -> str:
    """The package's name, from the file name apt gave it."""
    return deb.name.split("_", 1)[0]


def split(debs: Sequence[Path], host: Host) -> tuple[list[Path], list[Path], Path]:
    """Part the downloaded files into (for mmdebstrap, kernel files, busybox)."""
    kernels = [deb for deb in debs if _KERNEL_FILES.match(name_of(deb))]
    busybox = next(deb for deb in debs if name_of(deb) == BUSYBOX)
    aside = {*kernels, busybox}
    return [deb for deb in debs if deb not in aside and name_of(deb) != KERNELS[host.family]], kernels, busybox


def index(debs: Sequence[Path], archives: Path, codename: str) -> None:
    """Make `archives` an archive that mmdebstrap can read: write Packages and Release for `debs` beside them."""
    stanzas = []
    for deb in debs:
        control = run(["dpkg-deb", "--field", deb]).stdout.rstrip()
        sha256 = sha256_file(deb)
        stanzas.append(f"{control}\nFilename: ./{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {sha256}\n")
    packages = "\n".join(stanzas).encode()
    (archives / "Packages").write_bytes(packages)
    (archives / "Release").write_text(
        f"Suite: {codename}\nCodename: {codename}\nArchitectures: amd64\nDate: Thu, 01 Jan 1970 00:00:00 UTC\n"
        f"SHA256:\n {hashlib.sha256(packages).hexdigest()} {len(packages)} Packages\n"
    )


def unpack(deb: Path, into: Path) -> None:
    """Lay the files of one package into `into`, without running its scripts."""
    into.mkdir(parents=True, exist_ok=True)
    run(["dpkg-deb", "--extract", deb, into])


def apt_state() -> str:
    """A cheap mark that moves when the host's package lists or apt settings do (stat only)."""
    seen: list[tuple[str, int, int]] = []
    for folder in ("/var/lib/apt/lists", "/etc/apt", "/etc/apt/sources.list.d", "/etc/apt/preferences.d"):
        if not Path(folder).is_dir():
            continue
        for entry in sorted(os.scandir(folder), key=lambda each: each.name):
            if entry.is_file():
                stat = entry.stat()
                seen.append((entry.path, stat.st_size, stat.st_mtime_ns))
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()


def room(work: Path, need: int) -> None:
    """Refuse to start where `need` bytes are not free.

    Raises:
        HostError: too little space.
    """
    free = shutil.disk_usage(work).free
    if free < need:
        raise HostError(f"too little space in {work}: {free >> 20} MiB free, {need >> 20} MiB needed")
