"""Reap every process that a daemon leaves behind, until none is left.

Run as a program: `python reaper.py [--logs SOCKET SECONDS] PROGRAM ARGUMENT…`. It starts the program, becomes the
parent of everything that the program detaches, reaps each as it ends, and exits with the last one. It needs only the
standard library, so that it runs as a lone file.

With `--logs` the program is virtlogd, which exits when it has had no client for a time, although it holds the logs of
running machines (libvirt 9.0): what they write from then on is lost. So while virtlogd has a log open, which is checked
at intervals, the reaper stays a client of it.

libvirt detaches every QEMU it starts and believes it alive as long as its entry is in the process table. Where process
1 reaps orphans late or never (many containers), each start of a machine takes over a minute, since QEMU is first asked
several times what it can do.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def main(argv: list[str]) -> int:
    """Start `argv` and collect until no child is left; the exit status is 0, or 127 when it could not start."""
    logs, every = None, None
    if argv[0] == "--logs":
        logs, every, argv = argv[1], float(argv[2]), argv[3:]
    ignored = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        return 127
    # The end of a child waits until it is asked for.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    try:
        # The program gets back the signals that are ignored or blocked here.
        child = os.posix_spawn(argv[0], argv, dict(os.environ), setsigdef=ignored, setsigmask=())
    except OSError:
        return 127
    line: socket.socket | None = None
    while True:
        if every is None:
            signal.sigwait({signal.SIGCHLD})
        else:
            signal.sigtimedwait({signal.SIGCHLD}, every)
        if not collect():
            return 0
        if logs is not None:
            line = held(line, logs, child)


def collect() -> bool:
    """Collect all that has ended; whether a child is left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def held(line: socket.socket | None, path: str, daemon: int) -> socket.socket | None:
    """The connection to a log daemon: there while it has a log open, gone when it has none."""
    if not has_logs(daemon):
        if line is not None:
            line.close()
        return None
    if line is not None:
        return line
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        line.connect(path)
    except OSError:
        line.close()
        return None
    return line


def has_logs(daemon: int) -> bool:
    """A log is open that is not the daemon's own; libvirt keeps one, `<machine>.log`, of each that runs."""
    try:
        opened = [path.readlink().name for path in Path(f"/proc/{daemon}/fd").iterdir()]
    except OSError:
        # A file was closed meanwhile, or all are: the next look shows it.
        return False
    return any(name.endswith(".log") and name != "virtlogd.log" for name in opened)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
