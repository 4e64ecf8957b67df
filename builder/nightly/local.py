"""The executor that runs builds on this host: threads that wait for child processes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from builder.nightly.builds import ImageBuild
from builder.nightly.capacity import Capacity, host_capacity
from builder.nightly.progress import OnEvent
from builder.nightly.record import Result
from builder.nightly.scheduler import FAILED_FAST
from builder.nightly.worker import WorkerOptions, run_build, skipped
from builder.system.process import Children


@dataclass(frozen=True)
class LocalExecutor:
    """Runs builds on this host.

    Args:
        jobs: run at most so many at a time; None for as many as fit.
    """

    jobs: int | None = None

    @contextmanager
    def open(self, builds: Sequence[ImageBuild], options: WorkerOptions, on_event: OnEvent) -> Iterator[LocalPool]:
        """Open a pool as large as this host allows."""
        recipes = [build.recipe for build in builds if build.recipe]
        yield LocalPool(host_capacity(recipes, self.jobs, options.artifacts), options, on_event)


class LocalPool:
    """Threads, each of which waits for the child processes of one build."""

    def __init__(self, capacity: Capacity, options: WorkerOptions, on_event: OnEvent) -> None:
        self.capacity = capacity
        self._options, self._on_event = options, on_event
        self._threads = ThreadPoolExecutor(capacity.jobs, thread_name_prefix="build")
        self._children, self._failed = Children(), threading.Event()

    def submit(self, build: ImageBuild) -> Future[Result]:
        """Queue a build."""
        return self._threads.submit(self._run, build)

    def shutdown(self) -> None:
        """Start nothing more; do not wait for what runs."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def end(self, how: signal.Signals) -> None:
        """Send a signal to all child processes."""
        self._children.end(how)

    def _run(self, build: ImageBuild) -> Result:
        # Decided here: a thread takes its next build before anybody else has seen the result of the last one.
        if self._failed.is_set():
            return skipped(build, FAILED_FAST)
        result = run_build(build, self._options, self._children, self._on_event)
        if self._options.fail_fast and not result.good:
            self._failed.set()
        return result
