"""Benchmark of the main job: the medium, a first run, a run with nothing to do, the end of a guest, and Packer.

The medium is a rehearsal that is padded to the size of the vendor's, so that bytes cost what they will cost. Packer
gets the very ISO that builder remastered (kickstart included), the same machine, no checksum to verify and nothing to
type. It does not verify its image, so builder's time ends when the sealed disk exists. Run it alone:
python -m tests.bench.bench_job
"""

from __future__ import annotations

import json
import os
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from builder import console, recipe
from builder.cli.state import search_path
from builder.pipeline.execute import Context, execute
from builder.pipeline.pipelines import stages_of
from builder.pipeline.plan import plan
from builder.pipeline.resolve import resolve
from builder.rehearsal import medium as rehearsal
from builder.settings import BuildOptions, HostOptions, Paths, Settings
from builder.stage import Job, Ledger
from builder.stages import install, remaster
from builder.store.secrets import StoredSecrets
from builder.store.store import Store
from builder.vm.machine_spec import SYSTEM_DISK_SERIAL
from tests.conftest import Silent
from tests.fakes.boot_sector import boot_sector, cd_image

PIPELINE = "centos7-minimal"
SIZE = 1_000_000_000
IDLE, OFF, PEERS = 7, 5, 5
TOKEN = "5e" * 32
MOVING = ("copy", "convert", "hash", "search")


def row(name: str, amount: float, unit: str, target: str = "") -> None:
    print(f"{name:52}{amount:9.3f} {unit:4} {target}", flush=True)


def make_medium(folder: Path) -> Path:
    """A fresh rehearsal medium, and its padded copy; prints what the first costs."""
    small, big = folder / "rehearsal.iso", folder / "medium.iso"
    (folder / "work").mkdir()
    start = time.perf_counter()
    (folder / "base").mkdir()
    rehearsal.build_base(folder / "base", work=folder / "work", progress=Silent())
    rehearsal.press(folder / "base", "el7", small, work=folder / "work", progress=Silent())
    row("rehearsal medium built", time.perf_counter() - start, "s", "≤ 180 s")
    start = time.perf_counter()
    rehearsal.press(folder / "base", "el9", folder / "el9.iso", work=folder / "work", progress=Silent())
    row("rehearsal medium of a second release", time.perf_counter() - start, "s", "≤ 20 s")
    row("rehearsal medium, size", small.stat().st_size / 2**20, "MiB", "≤ 200 MiB")
    shutil.copyfile(small, big)
    with big.open("ab") as file:
        while file.tell() < SIZE:
            file.write(os.urandom(min(1 << 20, SIZE - file.tell())))
    big.chmod(0o444)
    return big


def builder(folder: Path, iso: Path, *more: str) -> list[str]:
    words = ["--artifacts", str(folder / "artifacts"), "run", PIPELINE, "--media", str(iso), "--accel", "tcg", *more]
    return [sys.executable, "-m", "builder", *words]


def watched(words: list[str]) -> tuple[str, float]:
    """What a command prints, and the most memory that its own process had resident, in MiB."""
    most = 0.0
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        over = threading.Event()

        def look() -> None:
            nonlocal most
            while not over.wait(0.1):
                try:
                    status = Path(f"/proc/{process.pid}/status").read_text()
                except OSError:
                    return
                found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
                most = max(most, *(int(kib) / 1024 for kib in found), 0)

        looking = threading.Thread(target=look)
        looking.start()
        out, err = process.communicate()
        over.set()
        looking.join()
    if process.returncode:
        raise SystemExit(err)
    return out, most


def whole_runs(folder: Path, iso: Path) -> Any:
    """A first run, then runs with nothing to do; the first one's own account."""
    start = time.perf_counter()
    out, memory = watched(builder(folder, iso, "--keep-intermediates", "--json"))
    row("first run, medium of 1 GB", time.perf_counter() - start, "s", "≤ 300 s (medium already built)")
    told = json.loads(out)
    took = told["times"]
    row("  outside guests", took["rest"] + took["kinds"].get("host", 0.0), "s", "≤ 3 s and the bytes below")
    row("  of that until machines run", took["kinds"].get("host", 0.0), "s")
    for kind in MOVING:
        if kind in took["kinds"]:
            row(f"  {kind}, {took['moved'].get(kind, 0) / 2**20:.0f} MiB", took["kinds"][kind], "s")
    row("  in the guests", took["kinds"]["guest"], "s")
    row("  builder's own memory, at most", memory, "MiB", "≤ 110 MiB")
    times = []
    for _ in range(IDLE):
        start = time.perf_counter()
        subprocess.run(builder(folder, iso, "--keep-intermediates"), check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    row(f"run with nothing changed, median of {IDLE}", statistics.median(times), "s", "≤ 1.0 s")
    return told


def off_to_over(folder: Path) -> float:
    """Seconds from the end of QEMU to the end of the install stage, for a guest of 512 bytes."""
    folder.mkdir(mode=0o711)
    folders = {name: folder / name for name in ("remaster", "kickstart", "out", "scratch", "evidence")}
    for one in folders.values():
        one.mkdir(mode=0o711)
    cd_image(folders["remaster"] / remaster.FILE, boot_sector(ttys1=f"BUILDER INSTALLED {TOKEN}\n".encode()))
    job = Job(
        run_id=f"bench-{os.getpid()}-{folder.name}",
        digest="d" * 64,
        inputs=install.InstallInputs(
            vcpus=1, memory=64 << 20, firmware="bios", devices="virtio", machine="q35", disk_size=1 << 20
        ),
        needs={name: folders[name] for name in ("remaster", "kickstart")},
        digests={"remaster": "m" * 64, "kickstart": TOKEN},
        out=folders["out"],
        scratch=folders["scratch"],
        evidence=folders["evidence"],
        paths=Paths(folder, (), ()),
        host=HostOptions(accel="tcg"),
        build=BuildOptions(),
        secrets=StoredSecrets(Store(folder / ".store"), "bench"),
        progress=Silent(),
        ledger=Ledger(),
    )
    ended = 0.0

    def follow() -> None:
        nonlocal ended
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if (number := qemu_of(job.run_id)) is not None:
                handle = os.pidfd_open(number)
                select.select([handle], [], [], 60)
                ended = time.perf_counter()
                os.close(handle)
                return

    following = threading.Thread(target=follow)
    following.start()
    install.run(job)
    over = time.perf_counter()
    following.join()
    return over - ended


def qemu_of(run_id: str) -> int | None:
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if line.split(b"\0")[0].endswith(b"qemu-system-x86_64") and run_id.encode() in line:
            return int(entry.name)
    return None


def until_sealed(artifacts: Path, iso: Path) -> None:
    """Install anew and seal, in a process of its own."""
    settings = Settings(
        artifacts, search_path("pipelines"), search_path("kickstarts"), accel="tcg", keep_intermediates=True
    )
    chosen = recipe.load(PIPELINE, {}, settings.recipes)
    store = Store(settings.store)
    resolved = resolve(chosen, str(iso), store, settings)
    to_seal = stages_of(chosen)[:-2]
    wanted = plan(to_seal, resolved.spec, store, settings, fresh={"install"})
    with console.watcher(as_json=True) as watching:
        execute(wanted, Context(store, settings, resolved.build, resolved.secrets), watching)


def packer(folder: Path, iso: Path, *, compressed: bool) -> None:
    """The same install by Packer's QEMU builder."""
    shutil.rmtree(folder / "packed", ignore_errors=True)
    arguments = [["-cpu", "max"], ["-serial", f"file:{folder}/ttyS0"], ["-serial", f"file:{folder}/ttyS1"]]
    devices = ("virtio-scsi-pci,id=scsi0", f"scsi-hd,bus=scsi0.0,drive=drive0,serial={SYSTEM_DISK_SERIAL}")
    arguments += [["-device", device] for device in (*devices, "virtio-net-pci,netdev=user.0", "virtio-rng-pci")]
    machine = {
        "type": "qemu",
        "iso_url": str(iso),
        "iso_checksum": "none",
        "communicator": "none",
        "shutdown_timeout": "30m",
        "boot_wait": "-1s",
        "headless": True,
        "accelerator": "tcg",
        "machine_type": "q35",
        "cpus": 2,
        "memory": 2048,
        "disk_size": "8G",
        "disk_interface": "virtio-scsi",
        "disk_discard": "unmap",
        "disk_cache": "unsafe",
        "disk_compression": compressed,
        "skip_compaction": not compressed,
        "format": "qcow2",
        "output_directory": str(folder / "packed"),
        "qemuargs": arguments,
    }
    template = folder / "packer.json"
    template.write_text(json.dumps({"builders": [machine]}))
    environment = {**os.environ, "CHECKPOINT_DISABLE": "1", "PACKER_CACHE_DIR": str(folder / "cache")}
    done = subprocess.run(["packer", "build", template], env=environment, capture_output=True, text=True, check=False)
    if done.returncode or "BUILDER INSTALLED" not in (folder / "ttyS1").read_text():
        raise SystemExit(f"packer failed\n{done.stdout}{done.stderr}")


def against_packer(folder: Path, iso: Path, told: Any) -> None:
    """Both by turns, so that a busy minute hits all of them."""
    digests = {stage["stage"]: stage["digest"] for stage in told["stages"]}
    remastered = folder / "artifacts" / ".store" / "objects" / digests["remaster"] / remaster.FILE
    ours = [sys.executable, "-m", "tests.bench.bench_job", str(folder / "artifacts"), str(iso)]
    kinds: dict[str, Callable[[], object]] = {
        "builder": lambda: subprocess.run(ours, check=True, capture_output=True),
        "packed": lambda: packer(folder, remastered, compressed=True),
        "plain": lambda: packer(folder, remastered, compressed=False),
    }
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(PEERS):
        for kind, work in kinds.items():
            start = time.perf_counter()
            work()
            found[kind].append(time.perf_counter() - start)
    median = {kind: statistics.median(times) for kind, times in found.items()}
    version = subprocess.run(["packer", "version"], capture_output=True, text=True, check=True).stdout.split()[1]
    row(f"install and seal, median of {PEERS}", median["builder"], "s")
    row(f"  Packer {version}, compressed", median["packed"], "s")
    row(f"  Packer {version}, as it is", median["plain"], "s")
    row("  builder / Packer, compressed", median["builder"] / median["packed"], "", "≤ 0.85")
    row("  builder / Packer, as it is", median["builder"] / median["plain"], "", "(its file is larger)")


def main() -> None:
    """Measure and print."""
    print(f"\nThe main job (load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cpus, TCG)")
    folder = Path(tempfile.mkdtemp(prefix="builder-bench-", dir="/var/tmp"))
    folder.chmod(0o711)
    try:
        iso = make_medium(folder)
        told = whole_runs(folder, iso)
        row(
            f"guest off → stage over, median of {OFF}",
            statistics.median(map(off_to_over, places(folder))),
            "s",
            "≤ 0.1 s",
        )
        if shutil.which("packer"):
            against_packer(folder, iso, told)
        else:
            print("Packer is not installed: apt-get install packer, to have it measured beside builder")
    finally:
        shutil.rmtree(folder)


def places(folder: Path) -> list[Path]:
    return [folder / f"off-{number}" for number in range(OFF)]


if __name__ == "__main__":
    if len(sys.argv) == 3:
        until_sealed(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        main()
