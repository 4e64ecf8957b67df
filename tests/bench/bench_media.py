"""Benchmark of the install medium: remastered by builder, by xorriso, and merely copied.

Each figure is the median of ROUNDS, all kinds taking turns, so that a busy minute of the machine hits all of them.
Everything is flushed to disk and the source is warm. Run it alone: python -m tests.bench.bench_media
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from builder.iso import inspect, remaster
from builder.iso.media_checksum import Implant
from builder.kickstart import preflight
from builder.pipeline import media_library
from builder.settings import BuildOptions, HostOptions, Paths
from builder.stage import Job, Ledger
from builder.stages import kickstart
from builder.stages import remaster as medium_stage
from builder.store.secrets import StoredSecrets
from builder.store.store import Store
from builder.system.process import run
from tests.conftest import Silent
from tests.fakes import vendor

ROUNDS = 5
KICKSTART = "cdrom\nclearpart --all\nreqpart\npart / --size=2048 --grow\n"
ROOM = preflight.Room(memory=2 << 30, disk=8 << 30, firmware="bios")
PACKAGES = 440
SIZES = {"LiveOS/squashfs.img": 370 << 20, "images/pxeboot/vmlinuz": 6_500_000, "images/pxeboot/initrd.img": 53_000_000}
ARGUMENTS = (rf"inst.ks=hd:LABEL={vendor.ESCAPED}:/ks.cfg", "inst.nosave=all", "console=tty0", "console=ttyS0,115200")


def make_medium(folder: Path, size: int = 1_000_000_000) -> Path:
    """A medium of about that many bytes, with as many files as the vendor's, and a list of packages as long."""
    tree = folder / "tree"
    tree.mkdir()
    shape = vendor.Shape(efi_size=9_011_200)
    vendor.tree(tree, shape)
    for name, length in SIZES.items():
        fill(tree / name, length)
    names = [f"package-{number:04d}" for number in range(PACKAGES)]
    for package in names:
        fill(tree / f"Packages/{package}-1.2.3-4.el7.x86_64.rpm", (size - sum(SIZES.values())) // PACKAGES)
    vendor.repodata(tree, names, provides=15)
    medium = vendor.press(tree, folder / "medium.iso", shape)
    run(["rm", "-r", tree])
    return medium


def fill(path: Path, length: int) -> None:
    """Bytes that no file system can leave out."""
    with path.open("r+b" if path.exists() else "wb") as file:
        for start in range(0, length, 1 << 20):
            file.write(os.urandom(min(1 << 20, length - start)))


def flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def copied(medium: Path, output: Path) -> None:
    run(["cp", "--reflink=never", medium, output])
    flush(output)


def ours(medium: Path, output: Path) -> None:
    remaster.remaster(medium, output, kickstart=b"cdrom\n", kernel_args=ARGUMENTS)


def xorriso(medium: Path, output: Path) -> None:
    """The same edits, by the usual means."""
    work = output.parent / "work"
    work.mkdir(exist_ok=True)
    (work / "ks.cfg").write_text("cdrom\n")
    (work / "isolinux.cfg").write_text(vendor.ISOLINUX_CFG)
    (work / "grub.cfg").write_text(vendor.GRUB_CFG)
    extract = ["xorriso", "-osirrox", "on", "-indev", str(medium), "-extract", "/images/efiboot.img"]
    run([*extract, work / "efiboot.img"])
    run(["chmod", "u+w", work / "efiboot.img"])
    run(["mcopy", "-o", "-i", work / "efiboot.img", work / "grub.cfg", "::/EFI/BOOT/grub.cfg"])
    argv = ["xorriso", "-indev", str(medium), "-outdev", str(output), "-boot_image", "any", "replay"]
    argv += ["-map", str(work / "ks.cfg"), "/ks.cfg"]
    for name, place in (
        ("isolinux.cfg", "/isolinux/isolinux.cfg"),
        ("grub.cfg", "/EFI/BOOT/grub.cfg"),
        ("efiboot.img", "/images/efiboot.img"),
    ):
        argv += ["-update", str(work / name), place]
    run(argv)
    run(["implantisomd5", "--force", output])
    flush(output)
    run(["rm", "-r", work])


def md5_alone(medium: Path, output: Path) -> None:
    """The part that nothing can make faster: one MD5 over the volume, nothing written."""
    size = medium.stat().st_size
    implant, buffer = Implant(size), memoryview(bytearray(1 << 20))
    with medium.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            implant.update(buffer[:count])


def inspected(medium: Path, output: Path) -> None:
    inspect.inspect(medium)


def listed(medium: Path, output: Path) -> None:
    inspect.inspect(medium, packages=True)


def compared(medium: Path, output: Path) -> None:
    preflight.require(f"{KICKSTART}%packages\n@core\npackage-0001\n%end\n", medium, ROOM)


def seeded(medium: Path, output: Path) -> None:
    """The medium stage with `delivery: seed`, the kernel taken out before."""
    job = _job(medium, output)
    try:
        medium_stage.run(job)
    finally:
        run(["rm", "-rf", job.out])


def _job(medium: Path, output: Path) -> Job[Any]:
    """A job of the medium stage on a store beside the medium, where the medium was taken in."""
    store = Store(medium.parent / ".store")
    known, _ = media_library.add(medium, store)
    kickstart_folder = medium.parent / "kickstart"
    kickstart_folder.mkdir(exist_ok=True)
    (kickstart_folder / kickstart.FILE).write_text(KICKSTART)
    out = store.temporary("bench", "remaster")
    out.mkdir()
    return Job(
        run_id="bench",
        digest="d" * 64,
        inputs=medium_stage.RemasterInputs(delivery="seed", memory=2 << 30, disk_size=8 << 30, firmware="bios"),
        needs={"fetch": known.path.parent, "kickstart": kickstart_folder},
        digests={"fetch": known.path.parent.name, "kickstart": "a" * 64},
        out=out,
        scratch=out,
        evidence=out,
        paths=Paths(medium.parent, (), ()),
        host=HostOptions(),
        build=BuildOptions(),
        secrets=StoredSecrets(store, "bench"),
        progress=Silent(),
        ledger=Ledger(),
    )


def written_by_seed(medium: Path, output: Path) -> int:
    """Bytes of the files that the seed delivery makes anew; what has a second name was there before."""
    job = _job(medium, output)
    try:
        medium_stage.run(job)
        return sum(facts.st_size for facts in map(os.stat, job.out.iterdir()) if facts.st_nlink == 1)
    finally:
        run(["rm", "-rf", job.out])


KINDS: dict[str, Callable[[Path, Path], None]] = {
    "cp": copied,
    "one MD5 of it, nothing written": md5_alone,
    "remaster, MD5 implanted": ours,
    "xorriso replay + implantisomd5": xorriso,
    "inspect": inspected,
    "inspect, with packages": listed,
    "preflight": compared,
    "seed delivery, kernel cached": seeded,
}


# In an interpreter of its own, which has nothing else loaded.
_ALONE = """
import sys
from pathlib import Path
from builder.iso import remaster
remaster.remaster(Path(sys.argv[1]), Path(sys.argv[2]), kickstart=b"cdrom", kernel_args=["quiet"])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def peak_memory(medium: Path, output: Path) -> int:
    """Largest resident set of a process that remasters, MiB."""
    return int(run([sys.executable, "-c", _ALONE, medium, output]).stdout) >> 10


def report(size: int, medians: dict[str, float], took: dict[str, list[float]]) -> None:
    """Print the table, and what was to be reached. `x cp`: how far from one sequential read and write."""
    copy, md5, remaster, other, *_, seed = medians.values()
    print(f"\nInstall medium of {size / 1e6:.0f} MB (median of {ROUNDS}, load {os.getloadavg()[0]:.1f})")
    print(f"{'what':32} {'median s':>9} {'x cp':>7} {'x MD5':>7}  rounds")
    for kind, median in medians.items():
        rounds = " ".join(f"{each:.2f}" for each in took[kind])
        print(f"{kind:32} {median:9.3f} {median / copy:7.2f} {median / md5:7.2f}  {rounds}")
    print(f"remaster: {remaster / copy:.2f} x cp (target 1.5), {other / remaster:.1f} x as fast as xorriso (target 3),")
    print(f"          {remaster / max(copy, md5):.2f} x its limit: cp, or one MD5 where that is slower")
    print(f"inspect: {medians['inspect']:.3f} s (target 0.3); seed delivery: {seed:.3f} s (target 0.3)")


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="builder-bench-", dir=os.environ.get("BENCH_DIR")) as name:
        folder = Path(name)
        medium, output = make_medium(folder), folder / "out.iso"
        copied(medium, output)
        output.unlink()
        seeded(medium, output)
        took: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for _ in range(ROUNDS):
            for kind, work in KINDS.items():
                start = time.monotonic()
                work(medium, output)
                took[kind].append(time.monotonic() - start)
                output.unlink(missing_ok=True)
        report(medium.stat().st_size, {kind: statistics.median(times) for kind, times in took.items()}, took)
        seed_size = written_by_seed(medium, output)
        print(f"seed delivery, written: {seed_size} bytes (target {2 << 20})")
        print(f"remaster, memory of its process: {peak_memory(medium, output)} MiB (target 64)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
