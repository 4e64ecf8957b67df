"""Benchmark of instant clones: from the command's start to root's first answer over SSH, cold and instant.

The image is a rehearsal, built here unless BUILDER_BENCH_ARTIFACTS names a folder that has one. Run it alone:
python -m tests.bench.bench_instant [COUNT]...
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench.bench_job import PIPELINE, row

IMAGE = f"{PIPELINE}-rehearsal"
COUNTS = (1, 4, 10)


@contextmanager
def house() -> Iterator[Path]:
    """An artifacts folder with the image; one that was given stays."""
    if given := os.environ.get("BUILDER_BENCH_ARTIFACTS"):
        yield Path(given)
        return
    folder = Path(tempfile.mkdtemp(prefix="builder-bench-", dir="/var/tmp"))
    folder.chmod(0o711)
    try:
        builder(folder, "run", PIPELINE, "--media", "rehearsal", "--accel", "tcg")
        yield folder
    finally:
        shutil.rmtree(folder)


def builder(folder: Path, *words: str) -> Any:
    command = [sys.executable, "-m", "builder", "--artifacts", str(folder), *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def cloned(folder: Path, count: int, *options: str) -> float:
    """Seconds until root is in on all clones."""
    name = f"bench-{os.getpid()}"
    start = time.perf_counter()
    made = builder(folder, "clone", IMAGE, name, "--count", str(count), "--accel", "tcg", "--wait", *options)
    took = time.perf_counter() - start
    builder(folder, "vm", "delete", *(vm["name"] for vm in made))
    return took


def main(counts: tuple[int, ...] = COUNTS) -> None:
    """Measure and print."""
    print(f"\nInstant clones, TCG, {os.cpu_count()} cores")
    with house() as folder:
        start = time.perf_counter()
        state = builder(folder, "images", "warm", IMAGE, "--accel", "tcg")
        if state["made"]:
            row("warm state made", time.perf_counter() - start, "s", "≤ one boot + 3 s")
        row("  on disk", state["bytes"] / 2**20, "MiB", "≤ 1.2 × the guest's used memory")
        for count in counts:
            cold, instant = cloned(folder, count), cloned(folder, count, "--instant")
            row(f"{count} cold", cold, "s")
            row(f"{count} instant", instant, "s", f"{instant / cold:.2f} of cold; ≤ {0.125 if count == 1 else 0.2}")


if __name__ == "__main__":
    main(tuple(map(int, sys.argv[1:])) or COUNTS)
