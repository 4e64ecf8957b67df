"""Benchmark of the command line: help, and a run that finds nothing to do with a 1 GB medium in the store."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

RUNS = 7


def seconds(words: Sequence[str], cwd: Path) -> float:
    """Wall time of one run of a program, which must succeed."""
    start = time.perf_counter()
    subprocess.run(words, cwd=cwd, check=True, capture_output=True)
    return time.perf_counter() - start


def median(words: Sequence[str], cwd: Path) -> float:
    """Median of several runs, after one that warms the caches."""
    seconds(words, cwd)
    return statistics.median(seconds(words, cwd) for _ in range(RUNS))


def main() -> None:
    """Print the table; an idle run is measured only where an image was built before (`make run`)."""
    here = Path.cwd()
    builder = [sys.executable, "-m", "builder"]
    floor = median([sys.executable, "-c", "pass"], here)
    rows = [("python -c pass (floor)", floor, "")]
    rows.append(("builder --help", median([*builder, "--help"], here), "≤ 0.25 s"))
    rows.append(("builder plan", median([*builder, "plan", ORDER[0]], here), "≤ 0.35 s"))
    with tempfile.TemporaryDirectory(prefix="builder-bench-") as folder:
        rendered = Path(folder) / "ks.cfg"
        text = subprocess.run([*builder, "kickstart", "render", ORDER[0]], cwd=here, check=True, capture_output=True)
        rendered.write_bytes(text.stdout)
        rows.append(
            ("builder kickstart lint", median([*builder, "kickstart", "lint", str(rendered)], here), "≤ 0.35 s")
        )
    if (here / "artifacts" / "images").is_dir():
        rows.append(("builder plan, rehearsal", median([*builder, "plan", *ORDER], here), ""))
        rows.append(("builder run, nothing changed", median([*builder, "run", *ORDER], here), "≤ 1.0 s"))
    else:
        print("no image yet: run `make run` first to measure an idle run")
    print(f"{'command':32} {'median':>9}  target   (load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cpus)")
    for name, took, target in rows:
        print(f"{name:32} {took:8.3f}s  {target}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"peak memory of the largest command: {peak:.0f} MiB (target ≤ 110 MiB)")


ORDER = ("centos7-minimal", "--media", "rehearsal")

if __name__ == "__main__":
    main()
