"""Benchmark of a nightly run without machines on a farm: 500 pipelines on 50 workers, compared with threads.

The builds are real child processes that report their stages, wait, and end with a published image. What a stage takes
is drawn from a history of real runs (`durations.json`, as `.store/durations/` keeps it), times a factor of each
pipeline (log-normal, for recipes differ), and scaled down. All time that is not such waiting counts as idle: starting
processes, Dask, evidence on its way, and the end of the run, when there is less to do than there are workers. The 50
workers are Dask workers in this process, reached over TCP; joining the farm counts, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from unittest.mock import patch

import dask
from distributed import LocalCluster

from builder import images
from builder.nightly import worker
from builder.nightly.builds import ImageBuild
from builder.nightly.farm import Tls
from builder.nightly.farm.executor import FarmExecutor
from builder.nightly.local import LocalExecutor
from builder.nightly.progress import OnEvent
from builder.nightly.scheduler import BuildExecutor, run_all
from builder.nightly.worker import WorkerOptions
from builder.system.digests import sha256_file

PIPELINES, WORKERS, EMPTY = 500, 50, 60
HISTORY = Path(__file__).with_name("durations.json")
# Seconds that the median build takes in the bench.
MEDIAN = 6.0
# On a farm each worker looks after itself on a host of its own; here 50 of them would keep one processor busy by that.
CALM = {
    "distributed.admin.system-monitor.interval": "60s",
    "distributed.worker.profile.enabled": False,
    "distributed.worker.memory.monitor-interval": "60s",
}
# Tells each stage that the pipeline's name (`p7_install=1.2_verify=0.8`) lists, and takes its time.
CHILD = """
cat "$0/planned" >&2
for word; do case $word in p*_*) stages=${word#*_};; esac; done
IFS=_
for stage in $stages; do
    printf '{"event": "started", "stage": "%s", "at": 0}\\n' "${stage%=*}" >&2
    sleep "${stage#*=}"
    printf '{"event": "ended", "stage": "%s", "seconds": %s}\\n' "${stage%=*}" "${stage#*=}" >&2
done
cat "$0/document"
"""


def drawn(draw: random.Random) -> list[dict[str, float]]:
    """The stages of each pipeline, in seconds of the bench."""
    phases: Mapping[str, Mapping[str, list[float]]] = json.loads(HISTORY.read_text())["phases"]
    found = []
    for _ in range(PIPELINES):
        factor = draw.lognormvariate(0, 0.5)
        found.append({name.partition("/")[0]: draw.choice(one["seconds"]) * factor for name, one in phases.items()})
    scale = MEDIAN / statistics.median(sum(one.values()) for one in found)
    # What is over in no time tells nothing of waiting, and every stage costs the bench a process.
    return [{name: seconds * scale for name, seconds in one.items() if seconds * scale > 0.02} for one in found]


def build(number: int, stages: Mapping[str, float]) -> ImageBuild:
    """A pipeline whose name says what it takes."""
    name = f"p{number}_{'_'.join(f'{stage}={seconds:.3f}' for stage, seconds in stages.items())}"
    return ImageBuild(name, name)


def prepare(folder: Path) -> tuple[str, ...]:
    """An image that all builds end with, and what they say; the words that start one."""
    (folder / "disk").write_bytes(bytes(1 << 20))
    stages = ("fetch", "kickstart", "remaster", "install", "seal", "verify", "publish")
    image = images.publish(
        folder / "images",
        "simulated",
        {"simulated.qcow2": folder / "disk"},
        {"verified": {"twins": {"twin-a": {"boot_seconds": 20, "packages": ["core 1"]}}}},
        {"simulated.qcow2": sha256_file(folder / "disk")},
    )
    run = folder / "runs" / "simulated"
    run.mkdir(parents=True)
    (run / "events.jsonl").write_text("{}\n" * 1000)
    rows = [{"stage": stage, "action": "run", "reason": "first run", "reason_kind": "first run"} for stage in stages]
    planned = {"event": "planned", "at": 0, "name": "simulated", "run": "simulated", "stages": rows}
    (folder / "planned").write_text(json.dumps(planned) + "\n")
    whole = {"name": "simulated", "folder": str(run), "image": {"version": image.version}, "built": list(stages)}
    (folder / "document").write_text(json.dumps(whole))
    return ("sh", "-c", CHILD, str(folder))


@contextlib.contextmanager
def workers(count: int, place: Path) -> Iterator[str]:
    """The address of a farm with one slot a worker."""
    with (
        dask.config.set(CALM),
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            processes=False,
            protocol="tcp://",
            host="127.0.0.1",
            dashboard_address=None,
            resources={"vm-slots": 1},
            local_directory=str(place),
        ) as cluster,
    ):
        yield cluster.scheduler_address


def wall_time(
    executor: BuildExecutor,
    builds: tuple[ImageBuild, ...],
    options: WorkerOptions,
    expected: Mapping[str, float],
) -> float:
    """Return the wall time of a nightly run, those that take longest first."""
    start, events = time.perf_counter(), []
    on_event: OnEvent = lambda *event: events.append(event)  # noqa: E731
    with executor.open(builds, options, on_event) as pool:
        outcome = run_all(builds, pool, lambda _: None, expected=expected)
    assert all(result.verdict == "published" for result in outcome.results), outcome.results[0]
    assert len(events) >= len(builds)
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    stages = drawn(random.Random(7))
    builds = tuple(build(number, one) for number, one in enumerate(stages))
    took = {one.name: sum(spent.values()) for one, spent in zip(builds, stages, strict=True)}
    empty = tuple(build(number, {}) for number in range(EMPTY))
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        here = Path(folder)
        command = prepare(here)
        with patch.object(worker, "BUILDER", command), patch.dict(os.environ, BUILDER_ARTIFACTS=folder):
            options = WorkerOptions(here, (), time.monotonic(), command)
            local = wall_time(LocalExecutor(1), empty, options, {})
            with workers(1, here) as address:
                remote = wall_time(FarmExecutor(address, Tls()), empty, options, {})
            with workers(WORKERS, here) as address:
                wall = wall_time(FarmExecutor(address, Tls()), builds, options, took)
    busy = sum(took.values()) / (WORKERS * wall)
    print(f"{'farm':44} {'measured':>9}  target   (load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cpus)")
    print(f"{f'{PIPELINES} builds, {WORKERS} workers: busy':44} {busy:9.1%}  ≥ 90 %   ({wall:.1f} s)")
    print(f"{'farm over threads, a build':44} {(remote - local) / EMPTY:8.3f}s  ≤ 1.0 s")


if __name__ == "__main__":
    main()
