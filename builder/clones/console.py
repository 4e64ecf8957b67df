"""The serial console of a clone on a terminal, by virsh(1).

Invariant: virsh attaches the terminal; builder says which machine it is, and how to leave.
"""

from __future__ import annotations

from builder.clones import lifecycle, ownership
from builder.clones.workspace import Workspace
from builder.system import process


def console_command(workspace: Workspace, name: str, *, force: bool = False) -> list[str]:
    """Return the command that attaches this terminal to the serial console of a machine.

    virsh opens the same libvirt: the socket of `qemu:///session` is found by way of $XDG_RUNTIME_DIR and
    $XDG_CACHE_HOME, which it inherits (https://libvirt.org/manpages/virsh.html, "console").

    Args:
        force: detach other terminals; accept a machine that builder did not make.

    Raises:
        PublishError: there is no such VM, or it is off.
        HostError: virsh is not installed.
    """
    domains, _ = ownership.resolve(workspace, name, force=force)
    lifecycle.require_on(domains, name)
    command = [process.find("virsh"), "--connect", domains.host.uri, "console", "--domain", name]
    return [*command, "--force"] if force else command
