"""Machines that boot a boot sector of ours, on the libvirt that builder itself finds or starts."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.settings import Settings
from builder.vm.connection import Hypervisor, connect
from builder.vm.machine_spec import Disk, MachineSpec
from tests.fakes.boot_sector import boot_sector, disk_image

MakeSpec = Callable[..., MachineSpec]
ROOT = Path(__file__).parents[2]
UNSHARE = ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="name spaces need root")


def in_own_namespaces(*words: str, first: str = "") -> subprocess.CompletedProcess[str]:
    """Run Python where no libvirt runs yet: whatever it starts or kills is nobody else's, and ends with it.

    Args:
        first: shell commands that run before it.
    """
    mounts = "".join(f"mount -t tmpfs tmpfs {path}; " for path in ("/run", "/var/lib/libvirt", "/var/cache/libvirt"))
    return subprocess.run(
        [*UNSHARE, "sh", "-c", f'{mounts} ip link set lo up; {first} "$@"', "sh", sys.executable, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="session")
def hypervisor() -> Iterator[Hypervisor]:
    uri = Settings(artifacts=Path(), recipes=(), templates=()).uri
    with connect(uri) as opened:
        yield opened


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that QEMU's user can reach, unlike pytest's own."""
    directory = Path(tempfile.mkdtemp(prefix="builder-test-", dir="/var/tmp"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def make_spec(place: Path) -> MakeSpec:
    """A machine with one disk that boots the sector described by `sector`."""

    def make(sector: dict[str, Any] | None = None, **changes: Any) -> MachineSpec:
        own = uuid.uuid4()
        disk = disk_image(place / f"{own}.raw", boot_sector(**(sector or {})))
        spec = MachineSpec(
            name=f"builder-test-{own}",
            uuid=own,
            run_id=f"test-{own}",
            role="install",
            mac="52:54:00:" + ":".join(f"{byte:02x}" for byte in own.bytes[:3]),
            memory=64,
            disks=(Disk(disk, "raw", "BUILDER"),),
            serial1=place / f"{own}.ttyS1",
        )
        return dataclasses.replace(spec, **changes)

    return make


@pytest.fixture(scope="session")
def uri(hypervisor: Hypervisor) -> str:
    return hypervisor.uri
