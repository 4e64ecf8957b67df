"""A manifest as builder writes it, and versions laid into a catalogue by hand, as another host may make them."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

from tests.fakes.qcow2 import qcow2

MACHINE = {"vcpus": 2, "memory": 2 << 30, "firmware": "bios", "devices": "virtio", "machine": "q35"}
COPY = {
    "role": "twin-a",
    "machine_id": "158a973715f15292bcad4377e8e70f38",
    "hostname": "twin-a",
    "mac": "52:54:00:03:a1:57",
    "kernel": "6.1.0-57-amd64",
    "cmdline": "BOOT_IMAGE=/boot/vmlinuz-6.1.0-57-amd64 root=UUID=71848aee-8c8a-4288-bba9-33eba73a91dc ro quiet",
    "release": "CentOS Linux release 7.9.2009 (Core)",
    "host_keys": ["SHA256:OPP9c1YX/wQesDzcqdcGNqt/HskAN7H1QCld3ejR300"],
    "boot_seconds": 105.1,
    "packages": ["aic94xx-firmware 0-1.rehearsal", "alsa-firmware 0-1.rehearsal"],
    "services": ["builder-first-boot.service", "chronyd.service"],
    "users": ["backup 34", "root 0"],
    "ports": ["tcp 0.0.0.0:22"],
    "suid": ["/usr/bin/chfn"],
    "checks": ["root-is-writable"],
    "address": "",
}
# What `builder run` wrote into a manifest at the end of November 2026; long texts and lists are shortened.
WRITTEN: dict[str, Any] = {
    "recipe": "toy",
    "rehearsal": False,
    "architecture": "amd64",
    "os": "linux",
    "run": "20261129-234007-kg5k",
    "secrets_of": "toy",
    "booted_before_sealing": False,
    "disk": {"sha256": "", "size": 0, "virtual_size": 8 << 30, "format": "qcow2", "compression": "zstd"},
    "stages": {
        "verify": {
            "digest": "124321e7292c25ccdf7847428f629c807f8a4d6884edbd43a6d0e7e94b90e4a5",
            "version": 5,
            "inputs": {**MACHINE, "checks": [["it runs", "true"]], "network": "user", "network_name": None},
            "seconds": 136.198,
            "ledger": {"seconds": {"host": 1.84}, "moved": {"hash": 113933312.0}},
            "run": "20261129-234007-kg5k",
        },
        "install": {"version": 1, "inputs": {**MACHINE, "disk_size": 8 << 30}, "seconds": 64.8},
        "kickstart": {"inputs": {"template": "toy.ks.j2", "vars": {"packages": []}}, "seconds": 0.3},
        "remaster": {"inputs": {"memory": 2 << 30, "firmware": "bios", "kernel_args": ["quiet"]}, "seconds": 0.4},
        "fetch": {"inputs": {"sha256": None, "rehearsal": None, "signed_by": None}, "seconds": 65.9},
    },
    "tools": {"qemu": "QEMU emulator version 7.2.22", "libvirt": "9.0.0"},
    "verified": {"accel": "tcg", "private_keys": [], "twins": {"twin-a": COPY, "twin-b": COPY}},
}


def written(disk: bytes, name: str = "toy") -> dict[str, Any]:
    """The manifest of an image whose disk begins with these bytes."""
    disk = qcow2(disk)
    sha256 = hashlib.sha256(disk).hexdigest()
    manifest = copy.deepcopy(WRITTEN)
    manifest["disk"] |= {"sha256": sha256, "size": len(disk)}
    manifest |= {"name": name, "version": sha256[:12], "created": "2026-11-29T23:44:41+00:00"}
    return manifest | {"files": {f"{name}.qcow2": {"size": len(disk), "sha256": sha256}}}


def placed(manifest: dict[str, Any], place: str, value: object) -> dict[str, Any]:
    """The same manifest with another value at a place: `stages.verify.inputs.vcpus`."""
    changed = copy.deepcopy(manifest)
    *path, last = place.split("/")
    here = changed
    for part in path:
        here = here[part]
    here[last] = value
    return changed


def lay(catalogue: Path, manifest: object, disk: bytes = b"disk", name: str = "toy") -> Path:
    """Put a version into the catalogue as a pull leaves it, whatever its manifest says; with right sums."""
    disk = qcow2(disk)
    version = hashlib.sha256(disk).hexdigest()[:12]
    folder = catalogue / name / version
    folder.mkdir(parents=True)
    (folder / f"{name}.qcow2").write_bytes(disk)
    content = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    (folder / "manifest.json").write_bytes(content)
    sums(folder)
    (folder.parent / "latest").unlink(missing_ok=True)
    (folder.parent / "latest").symlink_to(version)
    return folder


def sums(folder: Path) -> None:
    """Write SHA256SUMS anew, as whoever changes a file would."""
    names = sorted(path.name for path in folder.iterdir() if path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / "SHA256SUMS").unlink(missing_ok=True)
    (folder / "SHA256SUMS").write_text("".join(lines))
