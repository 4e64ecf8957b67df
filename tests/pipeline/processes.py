"""Processes for the tests, forked from a small server, and SIGKILL at every point at which they change a file."""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["__main__", "pytest", "tests.pipeline.toys"])

# Audit events (docs.python.org, "Audit events table") that come just before something on disk is changed or locked.
CHANGES = {
    "fcntl.flock", "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink",
    "os.truncate", "os.utime", "tempfile.mkstemp", "sqlite3.connect",
}  # fmt: skip


def is_change(event: str, args: tuple[Any, ...]) -> bool:
    """Whether the event announces a change of a file or directory."""
    if event == "open":
        return isinstance(args[2], int) and bool(args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return event in CHANGES


@functools.cache
def _start_server() -> None:
    """Start the server without coverage, which would slow what it forks and learn nothing from it: it is killed."""
    config = os.environ.pop("COVERAGE_PROCESS_CONFIG", None)
    forkserver.ensure_running()
    if config is not None:
        os.environ["COVERAGE_PROCESS_CONFIG"] = config


def start(work: Callable[..., None], *args: Any) -> ForkServerProcess:
    """Begin `work` in a process of its own."""
    _start_server()
    process = FORKS.Process(target=work, args=args)
    process.start()
    return process


def status(process: ForkServerProcess) -> int:
    """Wait for the process; its exit status, negative for a signal."""
    process.join(60)
    code = process.exitcode
    if code is None:
        process.kill()
        process.join()
        raise AssertionError(f"process {process.pid} did not end")
    process.close()
    return code


def _die_before(change: int, work: Callable[..., None], args: tuple[Any, ...]) -> None:
    left = itertools.count(change, -1)

    def hook(event: str, values: tuple[Any, ...]) -> None:
        if is_change(event, values) and next(left) == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    work(*args)


def killed_before_each_change(
    work: Callable[..., None], args_for: Callable[[int], tuple[Any, ...]], every: int = 1
) -> Iterator[int]:
    """Start `work` again and again; kill it before its first change of a file, then before its second, and so on.

    Yields the number of the change after each kill, and ends when the work comes to its end.
    """
    for change in itertools.count(1, every):
        code = status(start(_die_before, change, work, args_for(change)))
        if code == 0:
            return
        assert code == -signal.SIGKILL
        yield change
