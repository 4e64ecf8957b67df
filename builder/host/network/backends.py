"""Back ends for what manages a host's network, one record each: NetworkManager, ifcfg files, runtime.

A back end renders files, names the command that reloads them, and takes over the running bridge. `runtime` writes no
files: its bridge lasts until the next reboot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from builder.host import distro as host_system
from builder.host.network import ifcfg, keyfile
from builder.host.network.bridge_request import Name
from builder.host.network.validate import BridgePlan
from builder.system import process

ANSWER = 5.0  # seconds for nmcli
UNMANAGED = "10 "  # NM_DEVICE_STATE_UNMANAGED


@dataclass(frozen=True)
class Backend:
    """One way to keep a card's configuration.

    Args:
        render: files by path.
        mode: of these files.
        reload: run after an undo, so that files that came back or went are noticed.
        take_over: commands that hand the running bridge to the back end, once these files are written.
        runs: it runs this card of the host.
    """

    render: Callable[[BridgePlan], dict[Path, str]]
    mode: int
    reload: tuple[str, ...]
    take_over: Callable[[Iterable[str]], list[list[str]]]
    runs: Callable[[str], bool]


def choose(uplink: str) -> Name:
    """Return the first backend that manages a card of this host."""
    return next(name for name, backend in BACKENDS.items() if backend.runs(uplink))


def _managed(uplink: str) -> bool:
    """NetworkManager runs, and this card is not one that it leaves to others."""
    if not keyfile.FOLDER.is_dir() or host_system.program("nmcli") is None:
        return False
    asked = process.run(["nmcli", "-g", "GENERAL.STATE", "device", "show", uplink], timeout=ANSWER, check=False)
    return asked.status == 0 and not asked.stdout.startswith(UNMANAGED)


def _activate(files: Iterable[str]) -> list[list[str]]:
    """NetworkManager adopts a bridge that has the same address without dropping it."""
    names = [Path(path).name.removesuffix(".nmconnection") for path in files]
    return [["nmcli", "connection", "load", *files], *(["nmcli", "connection", "up", name] for name in names)]


BACKENDS: dict[Name, Backend] = {
    "networkmanager": Backend(
        keyfile.render,
        0o600,
        ("nmcli", "connection", "reload"),
        _activate,
        _managed,
    ),
    # initscripts read their files at boot and on ifup only: the running bridge stays as it is.
    "ifcfg": Backend(ifcfg.render, 0o644, (), lambda _: [], lambda _: ifcfg.FOLDER.is_dir()),
    "runtime": Backend(lambda _: {}, 0o644, (), lambda _: [], lambda _: True),
}
