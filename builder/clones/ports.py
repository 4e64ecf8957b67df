"""Ports of the host that are forwarded to the sshd of clones.

Invariant: a port is asked of the kernel once and stored; it changes only when another program has taken it.
"""

from __future__ import annotations

import socket
from collections.abc import Collection

HOST = "127.0.0.1"


def choose(taken: Collection[int]) -> int:
    """Return a free TCP port on 127.0.0.1 that no clone has."""
    tried: list[socket.socket] = []
    try:
        while True:
            probe = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            tried.append(probe)
            probe.bind((HOST, 0))
            port = int(probe.getsockname()[1])
            if port not in taken:
                return port
    finally:
        for probe in tried:
            probe.close()


def free(port: int) -> bool:
    """Return whether a server could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As QEMU asks for it: an address in TIME_WAIT is no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
    return True
