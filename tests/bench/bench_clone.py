"""Benchmark of clones: defined by builder, by virt-clone, by qemu-img and virsh by hand; for images of two sizes.

Each figure is the median of ROUNDS, all kinds taking turns. Run it alone: python -m tests.bench.bench_clone
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from builder import images
from builder.clones import record
from builder.clones.create import CreateOptions
from builder.clones.request import CloneRequest
from builder.clones.store import CloneStore
from builder.settings import Settings
from builder.vm import domain_xml, domains, qemu_img
from builder.vm.domains import Domains

ROUNDS = 5
HERD = 100
VERSIONS = 1000
PREFIX = f"bench-{os.getpid()}"
SIZES = {"small": 1 << 30, "large": 20 << 30}


@contextmanager
def house() -> Iterator[Path]:
    """A folder that QEMU's user can reach."""
    folder = Path(tempfile.mkdtemp(prefix="builder-bench-", dir="/var/tmp"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def publish(folder: Path, name: str, size: int) -> None:
    """An image of this virtual size with 64 MiB of data in it."""
    sealed = folder / f"{name}.qcow2"
    qemu_img.create(sealed, size, "qcow2")
    subprocess.run(["qemu-io", "-c", "write -P 7 0 64M", sealed], check=True, capture_output=True)
    images.publish(folder / "images", name, {f"{name}.qcow2": sealed}, {"disk": {"virtual_size": size}})


def clones(folder: Path, host: Domains) -> CloneStore:
    """All clones, on one connection for the whole bench."""
    return CloneStore(folder / "vms", folder / "images", host.host.uri, connect=lambda _: nullcontext(host))


def clone(folder: Path, host: Domains, image: str, name: str, count: int = 1, *, full: bool = False) -> None:
    base = images.load_image(folder / "images", image)
    request = CloneRequest(name, count=count, full=full)
    clones(folder, host).create(base, request, CreateOptions(accel="tcg", start=False))


def command(folder: Path, name: str) -> None:
    """The same through the command line, Python's start and all."""
    words = [sys.executable, "-m", "builder", "--artifacts", str(folder), "clone", "large", name, "--no-start"]
    subprocess.run(words, check=True, capture_output=True)


def by_hand(folder: Path, host: Domains, name: str) -> None:
    """No seed, no forward, no list of users: what the two programs alone need."""
    base = images.load_image(folder / "images", "large").disk
    overlay = folder / f"{name}.qcow2"
    words = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", "qcow2", str(overlay)]
    subprocess.run(words, check=True)
    vm = next(iter(clones(folder, host).vms()))
    xml = domain_xml.render(record.spec(vm, folder / "vms" / vm.name), dac=os.geteuid() == 0)
    xml = xml.replace(vm.name, name).replace(str(vm.uuid), "").replace("<uuid></uuid>", "")
    (folder / "by-hand.xml").write_text(xml)
    subprocess.run(
        ["virsh", "-q", "-c", host.host.uri, "define", str(folder / "by-hand.xml")], check=True, capture_output=True
    )


def virt_clone(host: Domains, original: str, name: str, target: Path) -> None:
    """What virt-manager does: a copy of the whole disk, and a machine that differs in name, UUID and MAC."""
    words = ["virt-clone", "--quiet", "--connect", host.host.uri, "--original", original, "--name", name]
    subprocess.run([*words, "--file", str(target)], check=True, capture_output=True)


@contextmanager
def pools_as_before(uri: str) -> Iterator[None]:
    """virt-clone makes a storage pool of every folder that it writes to; it goes again."""
    virsh = ["virsh", "-q", "-c", uri]

    def pools() -> set[str]:
        words = [*virsh, "pool-list", "--all", "--name"]
        return set(subprocess.run(words, check=True, capture_output=True, text=True).stdout.split())

    before = pools()
    try:
        yield
    finally:
        for pool in pools() - before:
            for act in ("pool-destroy", "pool-undefine"):
                subprocess.run([*virsh, act, pool], check=False, capture_output=True)


def took(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def delete(folder: Path, host: Domains, name: str) -> None:
    clones(folder, host).delete([name])


def measure_one(folder: Path, host: Domains) -> dict[str, float]:
    """Medians of a single clone, by kind."""
    clone(folder, host, "small", f"{PREFIX}-pattern")
    clone(folder, host, "large", f"{PREFIX}-whole", full=True)
    times: dict[str, list[float]] = {"small": [], "large": [], "command": [], "by hand": []}
    if shutil.which("virt-clone"):
        times["virt-clone"] = []
    for number in range(ROUNDS):
        for kind, found in times.items():
            name = f"{PREFIX}-{number}"
            if kind in ("by hand", "virt-clone"):
                target = folder / f"{name}.qcow2"
                if kind == "by hand":
                    found.append(took(lambda: by_hand(folder, host, name)))  # noqa: B023
                else:
                    found.append(took(lambda: virt_clone(host, f"{PREFIX}-whole", name, target)))  # noqa: B023
                subprocess.run(["virsh", "-q", "-c", host.host.uri, "undefine", name], check=True, capture_output=True)
                target.unlink()
                continue
            if kind == "command":
                found.append(took(lambda: command(folder, name)))  # noqa: B023
            else:
                found.append(took(lambda: clone(folder, host, kind, name)))  # noqa: B023
            delete(folder, host, name)
    delete(folder, host, f"{PREFIX}-pattern")
    delete(folder, host, f"{PREFIX}-whole")
    return {kind: statistics.median(found) for kind, found in times.items()}


def measure_herd(folder: Path, host: Domains) -> tuple[float, int]:
    """Seconds for a hundred clones, and bytes on disk of the largest."""
    seconds = took(lambda: clone(folder, host, "large", f"{PREFIX}-herd", HERD))
    herd = clones(folder, host).vms()
    largest = max(sum(path.stat().st_blocks * 512 for path in (folder / "vms" / vm.name).iterdir()) for vm in herd)
    for vm in herd:
        delete(folder, host, vm.name)
    return seconds, largest


def measure_list(folder: Path) -> float:
    """Seconds of `images list` with a thousand versions, each with the manifest of a real one."""
    catalogue = folder / "long" / "images" / "toy"
    facts = {"packages": [f"package-{number} 1.2.3-4.el7" for number in range(350)]}
    for number in range(VERSIONS):
        sha256 = hashlib.sha256(str(number).encode()).hexdigest()
        path = catalogue / sha256[:12]
        path.mkdir(parents=True)
        manifest = {
            "name": "toy",
            "version": path.name,
            "created": f"2026-01-01T00:{number // 60:02}:{number % 60:02}+00:00",
            "files": {"toy.qcow2": {"size": number, "sha256": sha256}},
            "verified": {"twins": {"twin-a": facts}},
        }
        (path / "manifest.json").write_text(json.dumps(manifest, indent=2))
    (catalogue / "latest").symlink_to(path.name)
    words = [sys.executable, "-m", "builder", "--artifacts", str(folder / "long"), "images", "list"]

    def listing() -> None:
        subprocess.run(words, check=True, capture_output=True)

    return statistics.median(took(listing) for _ in range(ROUNDS))


def main() -> None:
    """Measure and print."""
    uri = Settings(artifacts=Path(), recipes=(), templates=()).uri
    with house() as folder, domains.connect(uri) as host:
        for name, size in SIZES.items():
            publish(folder, name, size)
        with pools_as_before(uri):
            one = measure_one(folder, host)
        herd, largest = measure_herd(folder, host)
        listed = measure_list(folder)
    print(f"\nClones (median of {ROUNDS})")
    print(f"{'linked clone defined, 1 GiB image':44}{one['small']:8.3f} s   target 0.3 s")
    print(f"{'linked clone defined, 20 GiB image':44}{one['large']:8.3f} s   target 0.3 s")
    print(f"{'  the whole command':44}{one['command']:8.3f} s")
    print(f"{'  qemu-img create -b + virsh define':44}{one['by hand']:8.3f} s")
    print(f"{'  virt-clone':44}" + (f"{one['virt-clone']:8.3f} s" if "virt-clone" in one else "not installed"))
    print(f"{f'{HERD} linked clones':44}{herd:8.3f} s   target 30 s")
    print(f"{'  the largest on disk':44}{largest / 2**20:8.3f} MiB target 1 MiB")
    print(f"{f'images list, {VERSIONS} versions':44}{listed:8.3f} s   target 0.5 s")


if __name__ == "__main__":
    main()
