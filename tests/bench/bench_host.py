"""Benchmark of preparing a host: a check, and how long a bridge interrupts its network (in namespaces of its own)."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from pathlib import Path

from tests.bench.bench_cli import median
from tests.host.conftest import GATEWAY, OWN, World, asking, two_hosts

MOVES = 5
PREPARE = (
    "host",
    "prepare",
    "--network-only",
    "--bridge",
    "br0",
    "--uplink",
    "up0",
    "--backend",
    "runtime",
    "--no-confirm",
)
STATIC = ("--address", f"{OWN}/24", "--gateway", GATEWAY)


def silence(world: World, *words: str) -> float:
    """Seconds that the gateway got no answer while a command of builder's ran."""
    with asking(world) as found:
        done = world[0].builder(*words)
    assert done.returncode == 0, done.stderr
    return found.longest


def main() -> None:
    """Print the table; the bridge is measured for root only."""
    print(f"{'this host':32} {'median':>9}  target")
    took = median([sys.executable, "-m", "builder", "host", "check"], Path.cwd())
    print(f"{'builder host check':32} {took:8.3f}s  ≤ 2 s")
    if os.geteuid() != 0:
        print("not root: a bridge is not measured")
        return
    with tempfile.TemporaryDirectory() as work, two_hosts(Path(work)) as world:
        there, back = [], []
        for _ in range(MOVES):
            there.append(silence(world, *PREPARE, *STATIC))
            back.append(silence(world, "host", "restore"))
    for name, seconds in (("silent while br0 is made", there), ("silent while it is taken back", back)):
        print(f"{name:32} {statistics.median(seconds):8.3f}s  < 3 s  (worst of {MOVES}: {max(seconds):.3f}s)")


if __name__ == "__main__":
    main()
