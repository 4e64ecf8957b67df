"""Create clones of an image, start them, and wait until root can log in.

Invariant: nothing stays of a clone that could not be created; with `atomic` nothing stays of the others either, however
far they came. A clone that is killed half-way is removed by the next command: the reference to its image is written
first and its record last.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from builder import images, settings
from builder.clones import delete, dhcp_reservation, lifecycle, login, request, warm
from builder.clones.record import DISK, Vm, spec
from builder.clones.request import CloneRequest
from builder.clones.ssh_keys import Key
from builder.clones.warm import WarmState
from builder.clones.workspace import Workspace
from builder.errors import BuilderError, HostError, RecipeError
from builder.guest import seed, ssh
from builder.guest.seed import Identity
from builder.images import Image, User
from builder.settings import Paths, Timeouts
from builder.system import host_facts, process
from builder.vm import held, qemu_img
from builder.vm.domains import HELD, Domains


@dataclass(frozen=True)
class CreateOptions:
    """The options of clones to create.

    Args:
        keys: root of the clones accepts each of them; builder logs in with the first whose private half is known.
        accel: how the machines run.
        start: start them.
        wait: wait until root can log in on all of them.
        atomic: keep all of them or none.
        warm: where the store is with the states that they go on from instead of booting; None boots them.
        report: called with lines of progress for people.
    """

    keys: tuple[Key, ...] = ()
    accel: settings.Accel = "auto"
    start: bool = True
    wait: bool = False
    atomic: bool = False
    warm: Paths | None = None
    report: Callable[[str], None] = lambda _: None

    @property
    def private_key(self) -> Path | None:
        """Return the file of the key that builder itself logs in with."""
        return next((key.private for key in self.keys if key.private is not None), None)


def create(workspace: Workspace, image: Image, requested: CloneRequest, options: CreateOptions) -> list[Vm]:
    """Create clones, and start them if that is wanted.

    Raises:
        RecipeError: the request does not fit the host or the image; nothing was changed.
        PublishError: a name or an address is taken, the base is gone; nothing was changed.
        BuilderError: one could not be created or started; the details say which are kept.
    """
    if options.wait:
        if options.private_key is None:
            raise RecipeError(
                "--wait needs the private key, which is not beside the public one",
                hint="give the private key to --ssh-key, or leave out --wait",
            )
        ssh.load_key(options.private_key)
    created: list[Vm] = []
    try:
        with _state(workspace, image, requested, options) as state:
            _define_all(workspace, image, requested, options, created, state)
            return _start_all(workspace, image, created, options, state) if options.start else created
    except BaseException as error:
        if options.atomic:
            delete.delete_all(workspace, created)
        if created and not isinstance(error, Exception):
            # An error says itself what became of the clones; whoever interrupts wants to know, too.
            options.report(_kept(created, requested, options))
        raise


@contextmanager
def _state(
    workspace: Workspace, image: Image, requested: CloneRequest, options: CreateOptions
) -> Iterator[WarmState | None]:
    """Yield the state that clones go on from; None for those that boot."""
    with ExitStack() as stack:
        state = None
        if options.warm is not None:
            # A request that does not fit the host is refused here; it is no reason to boot.
            pattern = _pattern(workspace, image, requested, options)
            host = workspace.libvirt().host
            try:
                state = stack.enter_context(warm.opened(options.warm, image, pattern, host, options.report))
            except HostError as error:
                options.report(f"not instant, booting: {error.brief}")
            except PermissionError as error:
                options.report(f"not instant, booting: the store is another user's: {error.filename}")
        yield state


@contextmanager
def warm_state(
    workspace: Workspace, image: Image, requested: CloneRequest, options: CreateOptions, paths: Paths
) -> Iterator[WarmState]:
    """Keep the state for the clones of a request for the length of the block, see `builder.clones.warm.opened`."""
    pattern = _pattern(workspace, image, requested, options)
    with warm.opened(paths, image, pattern, workspace.libvirt().host, options.report) as state:
        yield state


def _pattern(workspace: Workspace, image: Image, requested: CloneRequest, options: CreateOptions) -> Vm:
    """Return the record of the first clone of a request, as a pattern of the machine of all."""
    with images.using(image):
        [vm] = _drafts(workspace, image, replace(requested, count=1), options, workspace.libvirt())
    return vm


def _drafts(
    workspace: Workspace, image: Image, requested: CloneRequest, options: CreateOptions, domains: Domains
) -> list[Vm]:
    accel = domains.host.choose_accel(options.accel, False).name
    uri = domains.host.uri
    cards = (replace(card, network=dhcp_reservation.with_name(card.network, uri)) for card in requested.cards)
    requested = replace(requested, cards=tuple(cards))
    return request.drafts(requested, image, domains, workspace.vms(), accel=accel, key=options.private_key)


def _define_all(
    workspace: Workspace,
    image: Image,
    requested: CloneRequest,
    options: CreateOptions,
    created: list[Vm],
    state: WarmState | None,
) -> None:
    """Create the clones without starting them; `created` lists those that are complete, also after an error."""
    domains = workspace.libvirt()
    with workspace.lock(), images.using(image):
        delete.repair(workspace, domains)
        delete.require_free(workspace, domains, requested.names())
        others = workspace.vms()
        drafts = _drafts(workspace, image, requested, options, domains)
        identities = [_identity(vm, options.keys) for vm in drafts]
        domains.require_reach([image.disk], [workspace.folder / "disk"])
        for vm, identity in zip(drafts, identities, strict=True):
            try:
                files = seed.files(identity, os.urandom(seed.RANDOM) if state is not None else b"", requested.user_data)
                created.append(_define(workspace, image, vm, files, (*others, *drafts), state))
            except BuilderError as error:
                if requested.count == 1:
                    raise
                brief = f"{vm.name} could not be created: {error.brief}"
                raise _with_outcome(error, brief, _kept(created, requested, options)) from error
            if requested.count > 1:
                options.report(f"{vm.name}: defined")


def _identity(vm: Vm, keys: Sequence[Key]) -> Identity:
    cards = tuple(card.setup for card in vm.cards)
    return Identity(vm.instance, vm.hostname, tuple(key.line for key in keys), cards, vm.dns)


def _define(
    workspace: Workspace,
    image: Image,
    vm: Vm,
    files: Mapping[str, bytes],
    others: Sequence[Vm],
    state: WarmState | None,
) -> Vm:
    folder = workspace.path(vm.name)
    try:
        folder.mkdir()
        folder.chmod(0o711)
        if vm.base:
            since = datetime.now(UTC).isoformat(timespec="seconds")
            images.enter(image, User(str(vm.uuid), "clone", vm.name, str(folder / DISK), since))
            if state is None or not state.copy(folder / DISK):
                _overlay(image, folder / DISK, vm.disk_size)
        else:
            _copy(image, folder / DISK, vm.disk_size)
        workspace.write_seed(vm, files)
        workspace.libvirt(vm.uri).define(spec(vm, folder))
        workspace.save(vm)
        reserved = dhcp_reservation.keep(vm, [other for other in others if other.uuid != vm.uuid])
        if reserved != vm:
            workspace.save(reserved)
        return reserved
    except BaseException as error:
        delete.remove(workspace, vm)
        if isinstance(error, OSError):
            raise HostError(f"cannot write to {folder}: {error.strerror or error}", str(error)) from error
        raise


def _copy(image: Image, target: Path, size: int) -> None:
    """Copy the whole disk, compressed as it is; it shares its blocks with the image where the file system can."""
    process.run(["cp", "--reflink=auto", "--sparse=always", image.disk, target])
    target.chmod(0o600)
    qemu_img.grow(target, "qcow2", size)


def _overlay(image: Image, target: Path, size: int) -> None:
    qemu_img.create(target, size, "qcow2", backing=(image.disk, "qcow2"))
    target.chmod(0o600)


def _start_all(
    workspace: Workspace, image: Image, vms: Sequence[Vm], options: CreateOptions, state: WarmState | None
) -> list[Vm]:
    """Start clones and wait for them side by side; return those that run, with the addresses found meanwhile."""
    started: list[Vm] = []
    failed: dict[str, BuilderError] = {}
    at_once = _at_once(vms, options, state)
    for begin in range(0, len(vms), at_once):
        ours: list[Vm] = []
        for vm in vms[begin : begin + at_once]:
            try:
                ours.append(_start(workspace, image, vm, state))
            except BuilderError as error:
                failed[vm.name] = error
        if options.wait:
            within = login.limit(Timeouts().boot, ours)
            whom = f"{', '.join(vm.name for vm in ours)}: " if at_once < len(vms) else ""
            options.report(f"{whom}waiting up to {within / 60:.0f} minutes until root is in")
            failed |= login.wait_all(workspace, ours, within, options.report)
        started += ours
    if failed:
        first = next(iter(failed.values()))
        names = f"{len(failed)} of {len(vms)} failed: {', '.join(failed)}\n" if len(vms) > 1 else ""
        kept = "all were removed" if options.atomic else "the VMs were kept: builder vm list"
        raise _with_outcome(first, first.brief, f"{names}{kept}")
    return [workspace.find(vm.name) for vm in started]


def _at_once(vms: Sequence[Vm], options: CreateOptions, state: WarmState | None) -> int:
    """Return how many clones are started before root is in on them.

    Emulated machines that go on together take longer than one after the other (four on two processors 60 s, two and two
    47 s), for each has its own code to translate. When they boot it makes no difference.
    """
    if options.wait and state is not None and vms[0].accel == "tcg":
        return min(len(vms), host_facts.cpu_count())
    return len(vms)


def _start(workspace: Workspace, image: Image, vm: Vm, state: WarmState | None) -> Vm:
    """Start a clone, from the state if that can be loaded; a state is refused if the clone boots without it."""
    if state is None:
        return lifecycle.start(workspace, vm.name)
    fault = None
    # Another command may have changed it while others were waited for: then the state is not that of its machine.
    if not state.refused and workspace.find(vm.name) == vm:
        try:
            return lifecycle.start(workspace, vm.name, how=held.go_on)
        except HostError as error:
            fault = error
    with workspace.lock():
        if _is_as_made(workspace, vm):
            _overlay(image, workspace.path(vm.name) / DISK, vm.disk_size)
    started = lifecycle.start(workspace, vm.name)
    if fault is not None:
        state.refuse(": ".join(filter(None, (fault.brief, fault.output.strip()))))
    return started


def _is_as_made(workspace: Workspace, vm: Vm) -> bool:
    """Return whether a clone was never started: somebody else may have done that while others were waited for."""
    machine = workspace.libvirt(vm.uri).look(vm.name)
    return (
        workspace.find(vm.name).uuid == vm.uuid
        and lifecycle.state_of(vm, machine) == "off"
        and HELD in qemu_img.snapshots(workspace.path(vm.name) / DISK)
    )


def _kept(created: Sequence[Vm], requested: CloneRequest, options: CreateOptions) -> str:
    kept = created and not options.atomic
    if requested.count == 1:
        return f"{requested.name} was {'kept' if kept else 'not kept'}"
    if not kept:
        return "none were kept"
    names = created[0].name if len(created) == 1 else f"{created[0].name} to {created[-1].name}"
    return f"{len(created)} of {requested.count} are complete and were kept: {names}"


def _with_outcome(error: BuilderError, brief: str, outcome: str) -> BuilderError:
    """Return the same error with another brief and with what became of the clones."""
    new = type(error)(brief, f"{outcome}\n{error.details}".strip(), error.hint, output=error.output)
    new.diagnosis = error.diagnosis
    return new
