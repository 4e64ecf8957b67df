"""The one rule: a worker's build ends when nobody renews its lease, and then as a whole process group.

This part runs on the workers. Dask does not stop what it has begun: a thread beside each build looks after the lease.
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
from builder.nightly import worker as building
from builder.nightly.builds import Build
from builder.nightly.record import Result
from builder.nightly.scheduler import not_built
from builder.nightly.worker import Orders, perform
from builder.store.objects import remove
from builder.system.locks import attempt
from builder.system.process import Children

GO, HALT = "go", "halt"
# What a build reads of the folder in which the night was started.
FOLDERS = ("pipelines", "kickstarts", "provision", "keys")
LARGEST_RECIPES, LARGEST_EVIDENCE = 16 << 20, 8 << 20
GRACE = 60.0


@dataclass(frozen=True)
class Task:
    """What all builds of a night have in common, on whichever worker.

    Args:
        night: name of the lease, and of the topic of its events.
        lease: seconds.
        files: the recipes and what belongs to them, by path.
        began: when the night began; seconds since the epoch.
    """

    night: str
    lease: float
    options: tuple[str, ...]
    push: tuple[str, ...]
    files: Mapping[str, bytes]
    began: float


@dataclass(frozen=True)
class Delivery:
    """A result, and the files of its run by name."""

    result: Result
    evidence: dict[str, bytes] = field(default_factory=dict)


def carried(here: Path, builds: Sequence[Build]) -> dict[str, bytes]:
    """All that the builds read below this folder.

    Raises:
        RecipeError: it is too much to send, or a recipe lies elsewhere.
    """
    for build in builds:
        if Path(build.pipeline).is_file() and Path(os.path.relpath(build.pipeline, here)).parts[0] not in FOLDERS:
            raise RecipeError(f"{build.pipeline} is not sent to a farm", hint="put it into ./pipelines")
    paths = [path for name in FOLDERS for path in sorted((here / name).rglob("*")) if path.is_file()]
    if sum(path.stat().st_size for path in paths) > LARGEST_RECIPES:
        raise RecipeError("the recipes are too large to be sent to a farm", f"more than {LARGEST_RECIPES >> 20} MiB")
    return {path.relative_to(here).as_posix(): path.read_bytes() for path in paths}


def work(task: Task, build: Build) -> Delivery:
    """Run one build on this worker, with this worker's own store."""
    worker, children, over = get_worker(), Children(), threading.Event()
    variable = Variable(task.night, client=get_client())
    if _asked(variable, task.lease)[1] != GO:
        return Delivery(not_built(build, "the night ended before it began"))
    chosen = os.environ.get("BUILDER_ARTIFACTS") or config.load().store or "artifacts"
    artifacts = Path(chosen).absolute()

    def tell(build: Build, event: dict[str, Any]) -> None:
        worker.log_event(task.night, {"build": build.name, "event": event})

    watch = threading.Thread(target=_watch, args=(variable, task.lease, children, over), name="lease", daemon=True)
    with _laid_out(artifacts / "farm", task.files) as folder:
        command = ("env", f"--chdir={folder}", *building.BUILDER)
        began = time.monotonic() - max(0.0, time.time() - task.began)
        orders = Orders(artifacts, task.options, began, command, task.push)
        watch.start()
        try:
            result = perform(build, orders, children, tell)
        finally:
            over.set()
            watch.join()
    result.host = platform.node()
    result.kept = str(artifacts)
    return Delivery(result, _evidence(result))


def _asked(variable: Variable, within: float) -> tuple[int, str]:
    """What the night says; `(-1, HALT)` when it says nothing any more."""
    try:
        count, order = variable.get(timeout=within)
    except (OSError, RuntimeError, TimeoutError):
        return -1, HALT
    return count, order


def _watch(variable: Variable, lease: float, children: Children, over: threading.Event) -> None:
    """End the build when the night says so, or says nothing for as long as the lease."""
    last, heard, ended = -1, time.monotonic(), 0.0
    every = lease / 6
    while not over.wait(every):
        count, order = _asked(variable, every)
        now = time.monotonic()
        if count not in (-1, last):
            last, heard = count, now
        if order == signal.SIGKILL.name or (ended and now - ended > GRACE):
            children.end(signal.SIGKILL)
        elif not ended and (order == signal.SIGTERM.name or now - heard > lease):
            ended = now
            children.end(signal.SIGTERM)


@contextlib.contextmanager
def _laid_out(farm: Path, files: Mapping[str, bytes]) -> Iterator[Path]:
    """The night's recipes in a folder, and what killed workers left of such folders removed."""
    farm.mkdir(parents=True, exist_ok=True)
    for lock in farm.glob("*.lock"):
        _take(lock)
    folder = farm / randomness.token_hex(8)
    lock = folder.with_suffix(".lock")
    handle = attempt(lock)
    assert handle is not None
    try:
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        folder.mkdir(exist_ok=True)
        yield folder
    finally:
        os.close(handle)
        _take(lock)


def _take(lock: Path) -> None:
    """Remove a folder that no living worker holds."""
    handle = attempt(lock, create=False)
    if handle is not None:
        remove(lock.with_suffix(""))
        lock.unlink(missing_ok=True)
        os.close(handle)


def _evidence(result: Result) -> dict[str, bytes]:
    """The files of the run, the small ones first, as far as they can be sent."""
    found: dict[str, bytes] = {}
    room = LARGEST_EVIDENCE
    paths = [Path(result.folder) / name for name in result.evidence]
    for path in sorted(paths, key=lambda path: path.stat().st_size):
        room -= path.stat().st_size
        if room < 0:
            break
        found[path.relative_to(result.folder).as_posix()] = path.read_bytes()
    return found
