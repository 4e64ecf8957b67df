"""Run the builds of a nightly run, several at a time, on an executor: this host or a farm.

Invariant: each build comes to its own end; one that fails stops none of the others, unless `--fail-fast` asks for it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, as_completed, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from builder.errors import Interrupted
from builder.nightly import record
from builder.nightly.builds import ImageBuild
from builder.nightly.capacity import Capacity
from builder.nightly.progress import OnEvent
from builder.nightly.record import Fault, Result
from builder.nightly.worker import WorkerOptions, fail, skipped

# Seconds that an interrupted build needs to shut its machines down.
GRACE = 60.0
CUT_SHORT = "interrupted before it began"
FAILED_FAST = "another build failed before it began (--fail-fast)"


class WorkerPool(Protocol):
    """Runs builds, several at a time."""

    @property
    def capacity(self) -> Capacity:
        """Number of builds that run at a time."""

    def submit(self, build: ImageBuild) -> Future[Result]:
        """Queue a build."""

    def shutdown(self) -> None:
        """Start nothing more; do not wait for what runs."""

    def end(self, how: signal.Signals) -> None:
        """End all builds that run: SIGTERM lets them shut their machines down, SIGKILL does not."""


class BuildExecutor(Protocol):
    """A place where builds run."""

    def open(
        self, builds: Sequence[ImageBuild], options: WorkerOptions, on_event: OnEvent
    ) -> AbstractContextManager[WorkerPool]:
        """Open the pool for these builds.

        Raises:
            BuilderError: they cannot run there.
        """


@dataclass(frozen=True)
class RunOutcome:
    """The results of all builds, in order, and the interrupt that cut the run short."""

    results: tuple[Result, ...]
    interrupt: Interrupted | KeyboardInterrupt | None = None


def run_all(
    builds: Sequence[ImageBuild],
    pool: WorkerPool,
    on_result: Callable[[Result], None],
    *,
    grace: float = GRACE,
    expected: Mapping[str, float] | None = None,
) -> RunOutcome:
    """Run the builds, as many at a time as the pool takes.

    Args:
        on_result: gets each result as it comes, in this thread.
        grace: seconds that builds get to end themselves after an interrupt.
        expected: seconds that builds took before, by name; the longest begin first.
    """
    results: dict[str, Result] = {}
    interrupt: Interrupted | KeyboardInterrupt | None = None
    before = expected or {}
    longest_first = sorted(builds, key=lambda build: -before.get(build.name, 0.0))
    futures: dict[Future[Result], ImageBuild] = {}
    try:
        for build in longest_first:
            futures[pool.submit(build)] = build
        for future in as_completed(futures):
            result = results[futures[future].name] = _result(future, futures[future])
            on_result(result)
    except (Interrupted, KeyboardInterrupt) as error:
        interrupt = error
    finally:
        _shut_down(pool, futures, grace)
    for future, build in futures.items():
        if build.name not in results and future.done() and not future.cancelled():
            results[build.name] = _result(future, build)
            on_result(results[build.name])
    running = {build.name for future, build in futures.items() if not future.done()}
    for build in builds:
        if build.name not in results:
            results[build.name] = _lost_contact(build) if build.name in running else skipped(build, CUT_SHORT)
            on_result(results[build.name])
    return RunOutcome(tuple(results[build.name] for build in builds), interrupt)


def _result(future: Future[Result], build: ImageBuild) -> Result:
    """Return the result of a build; an exception on the way to it is the failure of that build."""
    try:
        return record.checked(future.result())
    except Exception as error:
        return fail(skipped(build, ""), error)


def _lost_contact(build: ImageBuild) -> Result:
    """Return the result of a build on a worker that no longer answers: its lease will end it there."""
    result = skipped(build, "")
    result.verdict, result.exit_code = "interrupted", Interrupted.exit_code
    brief = "interrupted; its worker no longer answers"
    result.fault = Fault(kind="interrupted", exit_code=Interrupted.exit_code, brief=brief)
    return result


def _shut_down(pool: WorkerPool, futures: Mapping[Future[Result], ImageBuild], grace: float) -> None:
    """End what still runs, by SIGTERM first; does nothing when all builds have ended."""
    pool.shutdown()
    running = [future for future in futures if not future.done()]
    if running:
        pool.end(signal.SIGTERM)
        if wait(running, timeout=grace).not_done:
            pool.end(signal.SIGKILL)
            wait(running, timeout=grace)
