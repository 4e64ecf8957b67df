"""The folder of clones, and what all operations on clones share: records, lock, image catalogue, libvirt connections.

Invariant: a folder in it is a complete clone if and only if it has a `vm.json`; others are leftovers of an interrupted
command. The record is written last when a clone is created and removed first when it is deleted, so the next command
that holds the lock knows what to remove.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from builder.clones.record import CONSOLE, OWN, RECORD, REPORTS, SEED, Vm
from builder.errors import HostError, PublishError
from builder.iso import seed_cd
from builder.system import locks
from builder.system.atomic_file import replacing
from builder.vm import domains
from builder.vm.domains import Domains


class Workspace:
    """The folder of clones, with libvirt connections that are opened when first needed and closed with the block.

    Args:
        folder: one folder a clone.
        catalogue: the catalogue of images.
        uri: libvirt on which clones are created; each clone knows its own afterwards.
        connect: opens a connection.
    """

    def __init__(
        self,
        folder: Path,
        catalogue: Path,
        uri: str,
        connect: Callable[[str], AbstractContextManager[Domains]] = domains.connect,
    ) -> None:
        self.folder = folder
        self.catalogue = catalogue
        self.uri = uri
        self._connect = connect
        self._connections: dict[str, Domains] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connections.clear()
        self._stack.close()

    def libvirt(self, uri: str | None = None) -> Domains:
        """Return the connection to a libvirt of this host, by default the one on which clones are created.

        Raises:
            HostError: libvirt does not answer.
        """
        uri = uri or self.uri
        if uri not in self._connections:
            self._connections[uri] = self._stack.enter_context(self._connect(uri))
        return self._connections[uri]

    def path(self, name: str) -> Path:
        """Return the folder of a clone."""
        return self.folder / name

    def names(self) -> list[str]:
        """List the folders of clones by name, incomplete ones too."""
        if not self.folder.is_dir():
            return []
        with os.scandir(self.folder) as entries:
            return sorted(each.name for each in entries if each.is_dir(follow_symlinks=False) and each.name[0] != ".")

    def vms(self) -> list[Vm]:
        """List all complete clones, `web-2` before `web-10`; without those of `damaged`."""
        loaded = []
        for name in self.names():
            with suppress(PublishError):
                loaded.append(self._load(name))
        return sorted((vm for vm in loaded if vm is not None), key=lambda vm: _natural(vm.name))

    def damaged(self) -> dict[str, PublishError]:
        """Return why the records of clones cannot be read, by name."""
        errors = {}
        for name in self.names():
            try:
                self._load(name)
            except PublishError as error:
                errors[name] = error
        return errors

    def find(self, name: str) -> Vm:
        """Return the clone of this name.

        Raises:
            PublishError: there is none (the hint names those with similar names), or its record is damaged.
        """
        vm = self._load(name) if name in self.names() else None
        if vm is None:
            names = [each.name for each in self.vms()]
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
            raise PublishError(
                f"there is no VM {name}",
                f"VMs: {', '.join(names) or 'none'}",
                f"did you mean {' or '.join(near)}?" if near else "builder vm list",
            )
        return vm

    def save(self, vm: Vm) -> None:
        """Write a record by one rename."""
        with replacing(self.path(vm.name) / RECORD) as file:
            file.write(vm.model_dump_json(indent=2).encode() + b"\n")

    def write_seed(self, vm: Vm, files: Mapping[str, bytes]) -> None:
        """Write a clone's seed, which only QEMU's user and root can read: user-data may hold secrets.

        Only root can give a file away; an ordinary user's seed for the system's libvirt can be read by everybody.
        """
        path = self.path(vm.name) / SEED
        seed_cd.write_iso(path, seed_cd.IDENTITY_LABEL, files, mode=0o400)
        if (user := self.libvirt(vm.uri).host.qemu_user) is not None:
            try:
                os.chown(path, *user)
            except PermissionError:
                path.chmod(0o444)

    def own_files(self, name: str) -> list[Path]:
        """List the files in a clone's folder that belong to the clone."""
        if not self.path(name).is_dir():
            return []
        return [
            path
            for path in self.path(name).iterdir()
            if path.name in OWN
            or path.name.rpartition(".")[0] in (REPORTS, CONSOLE)
            or (path.name.startswith(tuple(f".{own}." for own in OWN)) and path.suffix == ".tmp")
        ]

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock under which clones are created, changed and deleted.

        Raises:
            HostError: the folder of clones cannot be created.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # QEMU runs as another user and opens the disks by name.
            self.folder.chmod(0o711)
        except OSError as error:
            raise HostError(f"cannot create {self.folder}: {error.strerror}") from error
        with locks.held(self.folder / ".lock", holder=f"process {os.getpid()}"):
            yield

    def _load(self, name: str) -> Vm | None:
        path = self.path(name) / RECORD
        try:
            vm = Vm.model_validate_json(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValidationError) as error:
            hint = f"repair {path}, or remove the VM: builder vm delete {name}"
            raise PublishError(f"the record of {name} cannot be read", str(error), hint) from error
        if vm.name != name:
            # A folder that was copied: whatever is done to it would be done to the other VM's domain.
            why = f"{path} is the record of {vm.name}"
            hint = f"remove the copy: builder vm delete {name}"
            raise PublishError(f"{name} is not a VM: its folder is a copy of that of {vm.name}", why, hint)
        return vm


def _natural(name: str) -> tuple[str, int]:
    """Sort `web-10` behind `web-2`."""
    head, _, tail = name.rpartition("-")
    return (head, int(tail)) if tail.isdecimal() else (name, 0)
