"""Roll an uplink back to a snapshot, in a process of its own that reads the snapshot from standard input.

Invariant: a rollback that began runs to its end, whatever happens to the command that started it.
"""

from __future__ import annotations

import json
import signal
import sys

from builder.errors import BuilderError
from builder.system import netlink, process
from builder.system.netlink import Snapshot

# It runs in /: with -P no folder there is taken for this program.
PROGRAM = (sys.executable, "-P", "-m", "builder.host.network.rollback")


def roll_back(before: Snapshot, bridge: str) -> None:
    """Give an uplink back what it had, and remove the bridge; a caller that is killed does not stop it.

    Raises:
        HostError: the uplink is gone, or the kernel refuses a part.
    """
    payload = json.dumps({"before": before.as_dict(), "bridge": bridge})
    process.run_through(PROGRAM, payload)


def main() -> int:
    """Do it; what goes wrong is told in a line."""
    for name in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    payload = json.load(sys.stdin)
    try:
        netlink.restore(Snapshot.from_dict(payload["before"]), payload["bridge"])
    except BuilderError as fault:
        sys.stdout.write(f"{fault.brief}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
