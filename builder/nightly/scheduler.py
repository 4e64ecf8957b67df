"""The one rule: each build of a night comes to its own end; one that fails stops none of the others.

The builds are spread by a `concurrent.futures` executor: threads that wait for child processes on one host, or a farm
(`builder.nightly.farm.client`).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from typing import Any, Protocol

from builder.errors import HostError, Interrupted
from builder.nightly.builds import Build
from builder.nightly.record import Fault, Result
from builder.nightly.worker import Orders, Tell, perform
from builder.system.process import Children

# What a build that is told to end needs to take its machines down.
GRACE = 60.0
CUT = "interrupted before it began"
HALTED = "another build failed before it began (--fail-fast)"


@dataclass(frozen=True)
class Ended:
    """How a night's builds ended; `interrupt` is what cut it short."""

    results: tuple[Result, ...]
    interrupt: Interrupted | KeyboardInterrupt | None = None


class Crew(Protocol):
    """Who does the work: an executor, what it is given for each build, and how all of it is told to end."""

    @property
    def executor(self) -> Executor: ...
    @property
    def work(self) -> Callable[[Build], Any]: ...
    def unpack(self, found: Any) -> Result: ...
    def halt(self) -> None: ...
    def end(self, how: signal.Signals) -> None: ...


class Threads:
    """The work done on this host: threads that wait for child processes."""

    def __init__(self, orders: Orders, jobs: int, tell: Tell, *, fail_fast: bool = False) -> None:
        self.executor = ThreadPoolExecutor(jobs, thread_name_prefix="build")
        self._orders, self._tell, self._fail_fast = orders, tell, fail_fast
        self._children, self._halt = Children(), threading.Event()

    def work(self, build: Build) -> Result:
        """Run one build to its end."""
        # Looked at here: a thread takes its next build before anybody has seen how the last one ended.
        if self._halt.is_set():
            return not_built(build, HALTED)
        result = perform(build, self._orders, self._children, self._tell)
        if self._fail_fast and not result.good:
            self._halt.set()
        return result

    def unpack(self, found: Result) -> Result:
        """It is here already."""
        return found

    def halt(self) -> None:
        """Start nothing more."""
        self._halt.set()

    def end(self, how: signal.Signals) -> None:
        """End all children."""
        self._children.end(how)


def spread(
    builds: Sequence[Build],
    crew: Crew,
    done: Callable[[Result], None],
    *,
    fail_fast: bool = False,
    grace: float = GRACE,
    expected: Mapping[str, float] | None = None,
) -> Ended:
    """Run the builds, some at a time.

    Args:
        done: gets each result as it comes, in this thread.
        fail_fast: start nothing more after the first failure; what runs comes to its end.
        grace: seconds that builds get to end themselves after an interrupt.
        expected: seconds that builds took before, by name; the longest begin first.
    """
    results: dict[str, Result] = {}
    interrupt: Interrupted | KeyboardInterrupt | None = None
    before = expected or {}
    longest_first = sorted(builds, key=lambda build: -before.get(build.name, 0.0))
    with crew.executor as pool:
        futures = {pool.submit(crew.work, build): build for build in longest_first}
        try:
            for future in as_completed(futures):
                result = results[futures[future].name] = _outcome(future, futures[future], crew)
                if fail_fast and not result.good:
                    crew.halt()
                done(result)
        except (Interrupted, KeyboardInterrupt) as cut:
            interrupt = cut
        finally:
            # Also when something broke: the executor waits for its threads, and they for their children.
            _wind_up(pool, futures, crew, grace)
        for future, build in futures.items():
            if build.name not in results and future.done() and not future.cancelled():
                results[build.name] = _outcome(future, build, crew)
                done(results[build.name])
    deaf = {build.name for future, build in futures.items() if not future.done()}
    for build in builds:
        if build.name not in results:
            results[build.name] = _unheard(build) if build.name in deaf else not_built(build, CUT)
            done(results[build.name])
    return Ended(tuple(results[build.name] for build in builds), interrupt)


def _outcome(future: Future[Any], build: Build, crew: Crew) -> Result:
    """What became of a build, also when those who did it are gone."""
    try:
        return crew.unpack(future.result())
    except (Interrupted, KeyboardInterrupt):
        raise
    except (Exception, CancelledError) as fault:
        if isinstance(crew, Threads):
            raise
        told = Fault(kind="host", exit_code=HostError.exit_code, brief="the farm lost the build", details=str(fault))
        blank = not_built(build, "")
        return blank.model_copy(update={"verdict": "failed", "exit_code": HostError.exit_code, "fault": told})


def _unheard(build: Build) -> Result:
    """The result of a build on a worker that does not answer: its lease will end it there."""
    code = Interrupted.exit_code
    told = Fault(kind="interrupted", exit_code=code, brief="interrupted; its worker does not answer any more")
    return not_built(build, "").model_copy(update={"verdict": "interrupted", "exit_code": code, "fault": told})


def not_built(build: Build, why: str) -> Result:
    """The result of a build that never began."""
    return Result(
        name=build.name,
        pipeline=build.pipeline,
        sets=dict(build.sets),
        rehearsal=build.rehearsal,
        verdict="not built",
        why=why,
    )


def _wind_up(pool: Executor, futures: dict[Future[Any], Build], crew: Crew, grace: float) -> None:
    """End what still runs: first kindly, then without asking. Does nothing when all came to their end."""
    pool.shutdown(wait=False, cancel_futures=True)
    running = [future for future in futures if not future.done()]
    if running:
        crew.end(signal.SIGTERM)
        if wait(running, timeout=grace).not_done:
            crew.end(signal.SIGKILL)
            wait(running, timeout=grace)
