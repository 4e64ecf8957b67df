"""Benchmark of sealing: builder's qemu-img options against others, and a trimmed disk against one filled with zeros.

The disk is like an installed one: text that compresses well, packed files that do not, and twice as much free space.
Each figure is the median of ROUNDS, all kinds taking turns. Run it alone: python -m tests.bench.bench_seal
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from builder.vm import qemu_img

ROUNDS = 3
MIB = 1 << 20
SIZE = 1536 * MIB
TEXT, PACKED = 384 * MIB, 128 * MIB
# Name, compression, further options. Ours is `disk.convert`, whatever it does.
OPTIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("as it comes", "zlib", ()),
    ("as it comes", "zstd", ()),
    ("-m 8 -W", "zlib", ("-m", "8", "-W")),
    ("-m 8", "zstd", ("-m", "8")),
    ("-m 2 -W", "zstd", ("-m", "2", "-W")),
    ("-m 16 -W", "zstd", ("-m", "16", "-W")),
    ("-m 8 -W -S 64k", "zstd", ("-m", "8", "-W", "-S", "64k")),
    ("-m 8 -W -S 0", "zstd", ("-m", "8", "-W", "-S", "0")),
)
OURS = "builder: seal"
FILLED = "builder: seal, free space filled with zeros"


def fill(path: Path, *, zeros: bool) -> None:
    """An installed disk; its free space a hole, as a trimmed one's, or written with zeros."""
    draw = random.Random(7)
    words = [bytes(draw.choices(range(97, 123), k=draw.randint(2, 9))) for _ in range(4000)]
    text = b" ".join(draw.choices(words, k=3 * MIB // 7))[:MIB]
    with path.open("wb") as file:
        for number in range((TEXT + PACKED) // MIB):
            packed = number % 4 == 3
            file.write(draw.randbytes(MIB) if packed else text[number:] + text[:number])
        if zeros:
            for _ in range((SIZE - TEXT - PACKED) // MIB):
                file.write(bytes(MIB))
        file.truncate(SIZE)
        os.fsync(file.fileno())


def others(source: Path, target: Path, kind: str, options: tuple[str, ...]) -> None:
    """qemu-img with other options."""
    words = ["qemu-img", "convert", "-q", *options, "-c", "-o", f"compression_type={kind}"]
    subprocess.run([*words, "-f", "raw", "-O", "qcow2", source, target], check=True)


def ours(source: Path, target: Path) -> None:
    """As the seal stage does it, without its checks."""
    qemu_img.convert(source, "raw", target, "qcow2", compression="zstd")


def kinds(raw: Path, filled: Path, target: Path) -> dict[str, Callable[[], None]]:
    """What is measured, by name."""
    found: dict[str, Callable[[], None]] = {
        f"qemu-img convert, {kind}, {name}": lambda kind=kind, options=options: others(raw, target, kind, options)  # type: ignore[misc]
        for name, kind, options in OPTIONS
    }
    return {OURS: lambda: ours(raw, target), **found, FILLED: lambda: ours(filled, target)}


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="builder-bench-", dir=os.environ.get("BENCH_DIR", "/var/tmp")) as name:
        folder = Path(name)
        raw, filled, target = folder / "trimmed.raw", folder / "filled.raw", folder / "out.qcow2"
        fill(raw, zeros=False)
        start = time.perf_counter()
        fill(filled, zeros=True)
        filling = time.perf_counter() - start
        measured = kinds(raw, filled, target)
        times: dict[str, list[float]] = {kind: [] for kind in measured}
        bytes_: dict[str, int] = {}
        for _ in range(ROUNDS):
            for kind, work in measured.items():
                start = time.perf_counter()
                work()
                times[kind].append(time.perf_counter() - start)
                bytes_[kind] = target.stat().st_size
                target.unlink()
        sparse = raw.stat().st_blocks * 512
    medians = {kind: statistics.median(found) for kind, found in times.items()}
    best = min(seconds for kind, seconds in medians.items() if kind not in (OURS, FILLED))
    print(f"\nSealing {sparse / MIB:.0f} MiB on a disk of {SIZE / MIB:.0f} MiB (median of {ROUNDS})")
    for kind, seconds in medians.items():
        print(f"{kind:44}{seconds:8.3f} s {bytes_[kind] / MIB:7.1f} MiB")
    print(f"{'builder, times the best other':44}{medians[OURS] / best:8.2f}     target 1.1")
    print(f"writing such a disk with its free space full of zeros took {filling:.1f} s: what trimming saves the guest")


if __name__ == "__main__":
    main()
