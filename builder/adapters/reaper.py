"""The one rule: whatever a daemon leaves behind is collected at once, until nothing of it is left.

Run as a program: `python reaper.py PROGRAM ARGUMENT…`. It starts the program, becomes the parent of everything that
the program detaches, collects each as it ends, and leaves with the last one.

libvirt detaches every QEMU it starts and takes it for alive as long as its entry in the process table stands. Where
process 1 collects orphans late or never (many containers), each start of a machine takes over a minute, since QEMU
is first asked several times what it can do. Needs nothing but the standard library, so that it runs as a lone file.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def main(argv: list[str]) -> int:
    """Start `argv` and collect until no child is left; the exit status is 0, or 127 when it could not start."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        return 127
    try:
        # The program gets back the signals that are ignored here.
        os.posix_spawn(argv[0], argv, dict(os.environ), setsigdef=[signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
    except OSError:
        return 127
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
