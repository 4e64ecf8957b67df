"""The one rule: each build of a night comes to its own end; one that fails stops none of the others.

The builds are spread by a `concurrent.futures` executor: threads that wait for child processes on one host.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass

from builder.adapters.process import Children
from builder.errors import Interrupted
from builder.nightly.building import Orders, Tell, perform
from builder.nightly.matrix import Build
from builder.nightly.record import Result

# What a build that is told to end needs to take its machines down.
GRACE = 60.0


@dataclass(frozen=True)
class Ended:
    """How a night's builds ended; `interrupt` is what cut it short."""

    results: tuple[Result, ...]
    interrupt: Interrupted | KeyboardInterrupt | None = None


def spread(
    builds: Sequence[Build],
    orders: Orders,
    jobs: int,
    tell: Tell,
    done: Callable[[Result], None],
    *,
    fail_fast: bool = False,
    grace: float = GRACE,
) -> Ended:
    """Run the builds, some at a time.

    Args:
        tell: gets each event of each build, from several threads.
        done: gets each result as it comes, in this thread.
        fail_fast: start nothing more after the first failure; what runs comes to its end.
        grace: seconds that builds get to end themselves after an interrupt.
    """
    children, halt = Children(), threading.Event()

    def one(build: Build) -> Result:
        # Looked at here: a thread takes its next build before anybody has seen how the last one ended.
        if halt.is_set():
            return _not_built(build, "another build failed before it began (--fail-fast)")
        result = perform(build, orders, children, tell)
        if fail_fast and not result.good:
            halt.set()
        return result

    results: dict[str, Result] = {}
    interrupt: Interrupted | KeyboardInterrupt | None = None
    with ThreadPoolExecutor(jobs, thread_name_prefix="build") as pool:
        futures = {pool.submit(one, build): build for build in builds}
        try:
            for future in as_completed(futures):
                results[futures[future].name] = future.result()
                done(future.result())
        except (Interrupted, KeyboardInterrupt) as cut:
            interrupt = cut
        finally:
            # Also when something broke: the executor waits for its threads, and they for their children.
            _wind_up(pool, futures, children, grace)
        for future, build in futures.items():
            if build.name not in results and not future.cancelled():
                results[build.name] = future.result()
                done(results[build.name])
    for build in builds:
        if build.name not in results:
            results[build.name] = _not_built(build, "interrupted before it began")
            done(results[build.name])
    return Ended(tuple(results[build.name] for build in builds), interrupt)


def _not_built(build: Build, why: str) -> Result:
    return Result(name=build.name, pipeline=build.pipeline, sets=dict(build.sets), verdict="not built", why=why)


def _wind_up(pool: Executor, futures: dict[Future[Result], Build], children: Children, grace: float) -> None:
    """End what still runs: first kindly, then without asking. Does nothing when all came to their end."""
    pool.shutdown(wait=False, cancel_futures=True)
    running = [future for future in futures if not future.done()]
    if running:
        children.end(signal.SIGTERM)
        if wait(running, timeout=grace).not_done:
            children.end(signal.SIGKILL)
