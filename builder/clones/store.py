"""`CloneStore`: all operations on clones in one place.

Invariant: it holds no logic; each operation is in the module of its subject.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from builder.clones import change, console, create, delete, lifecycle, login, ownership, rebase, snapshots
from builder.clones.change import ChangedVm, VmChanges
from builder.clones.create import CreateOptions
from builder.clones.lifecycle import Started, VmStatus
from builder.clones.record import Vm
from builder.clones.request import CloneRequest
from builder.clones.warm import WarmState
from builder.clones.workspace import Workspace
from builder.guest.ssh import GuestSession
from builder.images import Image
from builder.settings import Paths


class CloneStore(Workspace):
    """The clones of this host, and what can be done with them; libvirt stays connected for the length of its block."""

    def create(self, image: Image, request: CloneRequest, options: CreateOptions) -> list[Vm]:
        """Create clones and start them, see `builder.clones.create.create`."""
        return create.create(self, image, request, options)

    @contextmanager
    def warm_state(
        self, image: Image, request: CloneRequest, options: CreateOptions, paths: Paths
    ) -> Iterator[WarmState]:
        """Keep the state that clones go on from, see `builder.clones.warm.opened`."""
        with create.warm_state(self, image, request, options, paths) as state:
            yield state

    def statuses(self) -> list[VmStatus]:
        """List all complete clones with their states and newer images."""
        return lifecycle.statuses(self)

    def start(self, name: str, *, force: bool = False) -> Started:
        """Start a clone, see `builder.clones.lifecycle.start_any`."""
        return lifecycle.start_any(self, name, force=force)

    def stop(self, name: str, *, now: bool = False, within: float = 120, force: bool = False) -> None:
        """Stop a clone, see `builder.clones.lifecycle.stop`."""
        lifecycle.stop(self, name, now=now, within=within, force=force)

    def change(self, name: str, changes: VmChanges) -> ChangedVm:
        """Change memory, processors or network, see `builder.clones.change.change`."""
        return change.change(self, name, changes)

    def rebase(self, name: str, image: str | None = None) -> Vm:
        """Rebase the disk onto another image version, see `builder.clones.rebase.rebase`."""
        return rebase.rebase(self, name, image)

    def flatten(self, name: str) -> Vm:
        """Make the disk independent of its image, see `builder.clones.rebase.flatten`."""
        return rebase.flatten(self, name)

    def delete(self, names: Iterable[str]) -> list[Path]:
        """Delete clones, see `builder.clones.delete.delete_each`."""
        return delete.delete_each(self, names)

    @contextmanager
    def login(self, name: str, within: float) -> Iterator[GuestSession]:
        """Log in as root, see `builder.clones.login.session`."""
        with login.session(self, self.find(name), within) as session:
            yield session

    def ssh_command(self, name: str, within: float, command: Sequence[str] = ()) -> list[str]:
        """Return the ssh(1) command that logs in, see `builder.clones.login.ssh_command`."""
        return login.ssh_command(self, name, within, command)

    def console_command(self, name: str, *, force: bool = False) -> list[str]:
        """Return the virsh(1) command of the console, see `builder.clones.console.console_command`."""
        return console.console_command(self, name, force=force)

    def screenshot(self, name: str, file: Path) -> Path:
        """Write what the screen shows, see `builder.vm.domains.Domains.screenshot`."""
        domains = self.libvirt(ownership.find_clone(self, name).uri)
        lifecycle.require_on(domains, name)
        return domains.screenshot(name, file)

    def snapshots(self, name: str) -> list[tuple[str, str]]:
        """List snapshots with the state of the clone in each, the oldest first."""
        return snapshots.snapshots(self, name)

    def create_snapshot(self, name: str, snapshot: str) -> None:
        """Create a snapshot, see `builder.clones.snapshots.create_snapshot`."""
        snapshots.create_snapshot(self, name, snapshot)

    def revert_snapshot(self, name: str, snapshot: str) -> None:
        """Go back to a snapshot, see `builder.clones.snapshots.revert_snapshot`."""
        snapshots.revert_snapshot(self, name, snapshot)

    def delete_snapshot(self, name: str, snapshot: str) -> None:
        """Delete a snapshot, see `builder.clones.snapshots.delete_snapshot`."""
        snapshots.delete_snapshot(self, name, snapshot)
