"""Check and switch off sshd's lookup of client names; sshd reloads only a configuration that it has accepted.

In sshd_config the first value of an option wins (sshd_config(5)), so a line at the top decides.
"""

from __future__ import annotations

import re
from pathlib import Path

from builder.errors import BuilderError, HostError
from builder.host import distro as host_system
from builder.host.finding import HostFinding, read
from builder.system import process

CONFIG = Path("/etc/ssh/sshd_config")
LINES = "# Put here by builder: the first value wins.\nUseDNS no\n"
WHY = "a login waits for the reverse lookup of the client's address, often for many seconds"


def row() -> HostFinding:
    """Return whether sshd looks up its clients' names."""
    if host_system.program("sshd") is None and not CONFIG.exists():
        return HostFinding("sshd", "info", "is not installed", "no one can log in to this host over SSH")
    if uses_dns():
        return HostFinding("sshd", "warn", "UseDNS yes", WHY, "builder host prepare")
    return HostFinding("sshd", "ok", "UseDNS no")


def uses_dns() -> bool:
    """The value in force, asked of sshd itself; where it does not tell, the first one in the file."""
    if host_system.program("sshd"):
        try:
            output = process.run(["sshd", "-T"], timeout=2, check=False)
        except BuilderError:
            output = None
        found = re.search(r"^usedns (\w+)", output.stdout, re.M) if output else None
        if found:
            return found[1] == "yes"
    found = re.search(r"^\s*UseDNS[ \t=]+(\w+)", read(CONFIG), re.M | re.I)
    return found is not None and found[1].lower() == "yes"


def without_dns(text: str) -> str:
    """The same configuration with the lookup switched off."""
    return text if text.startswith(LINES) else LINES + text


def test(path: Path) -> None:
    """Let sshd judge a configuration.

    Raises:
        HostError: sshd refuses it.
    """
    if host_system.program("sshd") is None:
        return
    # A missing host key or /run/sshd is no fault of the file: sshd makes both when it starts.
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    done = process.run(["sshd", "-t", "-f", path], check=False)
    if done.status != 0 and "no hostkeys available" not in done.error_text:
        raise HostError(f"sshd refuses {path}, so it was left as it was", output=done.error_text)
