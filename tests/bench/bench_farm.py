"""A night without machines on a farm: 500 pipelines on 50 workers, and what the farm costs beside threads.

The builds are real child processes that only wait; how long is drawn (log-normal, median 120 s, a long tail up to ten
minutes) and scaled down by 30. The 50 workers are Dask workers in this process, spoken to over TCP.
"""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from distributed import LocalCluster

from builder.nightly import building, farm
from builder.nightly.building import Orders
from builder.nightly.matrix import Build
from builder.nightly.night import Crew, Threads, spread

PIPELINES, WORKERS, SCALE = 500, 50, 30
EMPTY = 60
# Waits for as long as the pipeline's name says.
CHILD = ("sh", "-c", 'for word; do case $word in p*-*) exec sleep "${word#p*-}";; esac; done', "child")


def night(crew: Crew, builds: tuple[Build, ...]) -> float:
    """Wall time of all builds, those that take longest first."""
    start = time.perf_counter()
    expected = {build.name: float(build.name.partition("-")[2]) for build in builds}
    spread(builds, crew, lambda _: None, expected=expected)
    return time.perf_counter() - start


@contextlib.contextmanager
def workers(count: int, builds: tuple[Build, ...], artifacts: Path) -> Iterator[farm.Farm]:
    """A farm with one slot a worker."""
    with (
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            processes=False,
            protocol="tcp://",
            host="127.0.0.1",
            dashboard_address=None,
            resources={"vm-slots": 1},
            local_directory=str(artifacts),
        ) as cluster,
        farm.joined(cluster.scheduler_address, farm.Tls(), builds, (), lambda *_: None, artifacts) as crew,
    ):
        yield crew


def main() -> None:
    """Print the table."""
    draw = random.Random(7)
    took = [min(600.0, draw.lognormvariate(4.787, 0.5)) / SCALE for _ in range(PIPELINES)]
    builds = tuple(Build(f"p{number}-{seconds:.3f}", f"p{number}-{seconds:.3f}") for number, seconds in enumerate(took))
    empty = tuple(Build(f"p{number}-0", f"p{number}-0") for number in range(EMPTY))
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(building, "BUILDER", CHILD),
        patch.dict(os.environ, BUILDER_ARTIFACTS=folder),
        contextlib.chdir(folder),
    ):
        here = Path(folder)
        local = night(Threads(Orders(here, (), time.monotonic(), CHILD), 1, lambda *_: None), empty)
        with workers(1, empty, here) as crew:
            far = night(crew, empty)
        with workers(WORKERS, builds, here) as crew:
            wall = night(crew, builds)
    busy = sum(took) / (WORKERS * wall)
    print(f"{'farm':44} {'measured':>9}  target   (load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cpus)")
    print(f"{f'{PIPELINES} builds, {WORKERS} workers: busy':44} {busy:9.1%}  ≥ 90 %   ({wall:.1f} s)")
    print(f"{'farm over threads, a build':44} {(far - local) / EMPTY:8.3f}s  ≤ 1.0 s")


if __name__ == "__main__":
    main()
