"""Check whether the rehearsal medium can be built on this host, or has to be brought from another one."""

from __future__ import annotations

from builder.host import distro as host_system
from builder.host.check_libvirt import missing_text
from builder.host.distro import System, install_line
from builder.host.finding import HostFinding
from builder.system import packages


def row(system: System) -> HostFinding:
    """Look for the programs and boot loaders that build it."""
    if system.manager != "apt":
        why = "`builder media rehearsal --output FILE` writes one on such a host, `--media FILE` takes it here"
        return HostFinding("rehearsal", "info", "its medium is built on Debian or Ubuntu only", why)
    missing = [name for name in packages.brought_by({"rehearsal"}) if not host_system.present(name)]
    if missing:
        why = "only --media rehearsal needs them"
        return HostFinding("rehearsal", "info", missing_text(system, missing), why, install_line(system, missing))
    return HostFinding("rehearsal", "ok", "its medium can be built")
