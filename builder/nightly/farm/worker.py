"""Run builds on a farm's worker; this module runs there.

Invariant: a build ends, as a whole process group, when the nightly run does not renew its lease. Dask does not stop
what it has begun, so a thread beside each build watches the lease.
"""

from __future__ import annotations

import contextlib
import os
import platform
import secrets as randomness
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distributed import Variable, get_client, get_worker

from builder.errors import RecipeError
from builder.host import config
from builder.media import gpg
from builder.nightly import worker as local_worker
from builder.nightly.builds import ImageBuild
from builder.nightly.farm import evidence as evidence_files
from builder.nightly.record import Result
from builder.nightly.worker import WorkerOptions, run_build, skipped
from builder.settings import inside
from builder.store.objects import remove
from builder.system.locks import attempt
from builder.system.process import Children

# Orders of the nightly run; others are names of signals.
GO, HALT = "go", "halt"
# What a build reads of the folder in which the run was started.
FOLDERS, KEYS = ("pipelines", "kickstarts", "provision"), "keys"
LARGEST_RECIPES = 16 << 20
# Seconds between SIGTERM and SIGKILL.
GRACE = 60.0


@dataclass(frozen=True)
class Task:
    """Options that all builds of a nightly run share, on any worker.

    Args:
        run: name of the lease, and of the topic of its events.
        lease: seconds.
        options, push: see `builder.nightly.worker.WorkerOptions`.
        files: the recipes and what belongs to them, by path.
        began: when the run began; seconds since the epoch.
    """

    run: str
    lease: float
    options: tuple[str, ...]
    push: tuple[str, ...]
    files: Mapping[str, bytes]
    began: float


@dataclass(frozen=True)
class BuildResult:
    """A result, and the files of its run by name."""

    result: Result
    evidence: dict[str, bytes] = field(default_factory=dict)


def collect_files(here: Path, builds: Sequence[ImageBuild]) -> dict[str, bytes]:
    """Read all files below this folder that the builds need.

    Raises:
        RecipeError: they are too large to be sent, or a recipe is elsewhere.
    """
    for build in builds:
        if Path(build.pipeline).is_file() and Path(os.path.relpath(build.pipeline, here)).parts[0] not in FOLDERS:
            raise RecipeError(f"{build.pipeline} cannot be sent to a farm", hint="put it into ./pipelines")
    paths = [path for name in FOLDERS for path in _files_below(here / name)]
    if sum(path.stat().st_size for path in paths) > LARGEST_RECIPES:
        raise RecipeError("the recipes are too large to be sent to a farm", f"more than {LARGEST_RECIPES >> 20} MiB")
    sent = {path.relative_to(here).as_posix(): path.read_bytes() for path in paths}
    # Of a key only its public half leaves this host, whatever else is in the file or beside it.
    keys = {path.relative_to(here).as_posix(): gpg.public_half(path) for path in _files_below(here / KEYS)}
    return sent | {name: key for name, key in keys.items() if key}


def _files_below(folder: Path) -> list[Path]:
    """List the files below a folder of a recipe repository.

    Raises:
        RecipeError: a link leads out of it.
    """
    below = sorted(folder.rglob("*")) if folder.is_dir() else []
    for path in [folder, *below]:
        if path.is_symlink() and inside(folder, path.relative_to(folder).as_posix()) is None:
            raise RecipeError(
                f"{path} cannot be sent to a farm", f"it is a link that leads out of {folder}", "copy the file there"
            )
    return [path for path in below if path.is_file()]


def work(task: Task, build: ImageBuild) -> BuildResult:
    """Run one build on this worker, with this worker's own store."""
    worker, children, over = get_worker(), Children(), threading.Event()
    variable = Variable(task.run, client=get_client())
    if _read_order(variable, task.lease)[1] != GO:
        return BuildResult(skipped(build, "the nightly run ended before it began"))
    artifacts = Path(os.environ.get("BUILDER_ARTIFACTS") or config.load().store or "artifacts").absolute()

    def on_event(build: ImageBuild, event: dict[str, Any]) -> None:
        worker.log_event(task.run, {"build": build.name, "event": event})

    watch = threading.Thread(
        target=_watch_lease, args=(variable, task.lease, children, over), name="lease", daemon=True
    )
    with unpack_files(artifacts / "farm", task.files) as folder:
        command = ("env", f"--chdir={folder}", *local_worker.BUILDER)
        began = time.monotonic() - max(0.0, time.time() - task.began)
        options = WorkerOptions(artifacts, task.options, began, command, task.push)
        watch.start()
        try:
            result = run_build(build, options, children, on_event)
        finally:
            over.set()
            watch.join()
    result.host = platform.node()
    result.kept = str(artifacts)
    return BuildResult(result, _evidence(result))


def _read_order(variable: Variable, timeout: float) -> tuple[int, str]:
    """Return the lease's number and the order; `(-1, HALT)` when the scheduler does not answer in time."""
    try:
        count, order = variable.get(timeout=timeout)
    except (OSError, RuntimeError, TimeoutError):
        return -1, HALT
    return count, order


def _watch_lease(variable: Variable, lease: float, children: Children, over: threading.Event) -> None:
    """End the build when the run orders it, or when the lease is not renewed in time."""
    last, renewed, ended = -1, time.monotonic(), 0.0
    every = lease / 6
    while not over.wait(every):
        count, order = _read_order(variable, every)
        now = time.monotonic()
        if count not in (-1, last):
            last, renewed = count, now
        if order == signal.SIGKILL.name or (ended and now - ended > GRACE):
            children.end(signal.SIGKILL)
        elif not ended and (order == signal.SIGTERM.name or now - renewed > lease):
            ended = now
            children.end(signal.SIGTERM)


@contextlib.contextmanager
def unpack_files(farm: Path, files: Mapping[str, bytes]) -> Iterator[Path]:
    """Write the recipes into a folder for the length of the block; removes what killed workers left of such folders."""
    farm.mkdir(parents=True, exist_ok=True)
    for lock in farm.glob("*.lock"):
        _remove_unused(lock)
    folder = farm / randomness.token_hex(8)
    lock = folder.with_suffix(".lock")
    handle = attempt(lock)
    assert handle is not None
    try:
        folder.mkdir(mode=0o700)
        for name, data in files.items():
            if (target := inside(folder, name)) is None:
                raise RecipeError(f"the nightly run sent a file that leads out of its folder: {name!r}")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        yield folder
    finally:
        os.close(handle)
        _remove_unused(lock)


def _remove_unused(lock: Path) -> None:
    """Remove a folder whose lock no living worker holds."""
    handle = attempt(lock, create=False)
    if handle is not None:
        remove(lock.with_suffix(""))
        lock.unlink(missing_ok=True)
        os.close(handle)


def _evidence(result: Result) -> dict[str, bytes]:
    """Read the files of the run, the small ones first, as many as may be sent."""
    evidence: dict[str, bytes] = {}
    left = evidence_files.LARGEST
    paths = [Path(result.folder) / name for name in result.evidence]
    for path in sorted(paths, key=lambda path: path.stat().st_size):
        left -= path.stat().st_size
        if left < 0:
            break
        evidence[path.relative_to(result.folder).as_posix()] = path.read_bytes()
    return evidence
