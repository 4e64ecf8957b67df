"""A catalogue with an image that boots a boot sector of ours, and a libvirt on which real clones of it are made."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from builder import images
from builder.clones.create import CreateOptions
from builder.clones.record import Vm
from builder.clones.request import CloneRequest
from builder.clones.store import CloneStore
from builder.images import Image
from builder.settings import Settings
from builder.vm import domains
from builder.vm.domains import Domains
from tests.fakes.boot_sector import boot_sector, disk_image

ROOT = Path(__file__).parents[2]
MADE_FOR = {"vcpus": 1, "memory": 64 << 20, "devices": "virtio", "machine": "q35", "firmware": "bios"}


@dataclass
class CloneEnv:
    """One artifacts folder that QEMU's user can reach.

    Args:
        prefix: of every machine's name, for libvirt is the whole host's.
    """

    folder: Path
    uri: str
    prefix: str = field(default_factory=lambda: f"t{secrets.token_hex(3)}")

    @property
    def vms(self) -> Path:
        """All clones."""
        return self.folder / "vms"

    @property
    def catalogue(self) -> Path:
        """All images."""
        return self.folder / "images"

    def name(self, name: str) -> str:
        """A name that nobody else on this host has."""
        return f"{self.prefix}-{name}"

    def publish(
        self,
        text: bytes = b"ready\r\nroot@sector# ",
        name: str = "toy",
        ttys1: bytes = b"",
        packages: tuple[str, ...] = (),
    ) -> Image:
        """An image that says this on its console, and something on ttyS1, and hangs."""
        work = self.folder / "work"
        work.mkdir(exist_ok=True)
        raw = disk_image(work / "disk.raw", boot_sector(ttys0=text, ttys1=ttys1, end="hang"))
        sealed = work / f"{secrets.token_hex(4)}.qcow2"
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, sealed], check=True)
        sealed.chmod(0o444)
        verified = {"twins": {"twin-a": {"packages": list(packages)}}}
        manifest = {"stages": {"verify": {"inputs": MADE_FOR, "seconds": 1.0}}, "verified": verified}
        return images.publish(self.catalogue, name, {f"{name}.qcow2": sealed}, manifest)

    def store(self, domains: Domains | None = None) -> CloneStore:
        """The clones; on this connection if one is given."""
        if domains is None:
            return CloneStore(self.vms, self.catalogue, self.uri)
        return CloneStore(self.vms, self.catalogue, self.uri, connect=lambda _: nullcontext(domains))

    def make(self, host: Domains, name: str, *, image: str = "toy", **changes: object) -> list[Vm]:
        """Clones, created in this process and not started."""
        atomic = bool(changes.pop("atomic", False))
        request = CloneRequest(self.name(name), **changes)  # type: ignore[arg-type]
        base = images.load_image(self.catalogue, image)
        return self.store(host).create(base, request, CreateOptions(accel="tcg", start=False, atomic=atomic))

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`python -m builder` on this house."""
        command = [sys.executable, "-m", "builder", "--artifacts", str(self.folder), *words]
        environment = {**os.environ, "COLUMNS": "80", "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=60, check=False
        )


@pytest.fixture
def house() -> Iterator[CloneEnv]:
    """A house with one image, `toy`; its machines go with it."""
    folder = Path(tempfile.mkdtemp(prefix="builder-test-", dir="/var/tmp"))
    folder.chmod(0o711)
    found = CloneEnv(folder, Settings(artifacts=folder, recipes=(), templates=()).uri)
    try:
        found.publish()
        yield found
    finally:
        with domains.connect(found.uri) as host:
            for one in host.all().values():
                if one.keepsake is not None and one.keepsake.get("folder", "").startswith(f"{folder}/"):
                    host.undefine(one.name, one.uuid)
        shutil.rmtree(folder)


@pytest.fixture
def store(house: CloneEnv, host: Domains) -> CloneStore:
    """The clones, on the connection of `host`."""
    return house.store(host)


@pytest.fixture
def host(house: CloneEnv) -> Iterator[Domains]:
    """libvirt."""
    with domains.connect(house.uri) as opened:
        yield opened
