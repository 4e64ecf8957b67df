"""Create clones of an image, start them, and wait until root can log in.

Invariant: nothing stays of a clone that could not be created; with `atomic` nothing stays of the others either, however
far they came. A clone that is killed half-way is removed by the next command: the reference to its image is written
first and its record last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from builder import images, settings
from builder.clones import delete, dhcp_reservation, lifecycle, login, request
from builder.clones.record import DISK, SEED, Vm, spec
from builder.clones.request import CloneRequest
from builder.clones.ssh_keys import Key
from builder.clones.workspace import Workspace
from builder.errors import BuilderError, HostError, RecipeError
from builder.guest import seed
from builder.guest.seed import Identity
from builder.images import Image, User
from builder.iso import seed_cd
from builder.settings import Timeouts
from builder.system import process
from builder.vm import qemu_img


@dataclass(frozen=True)
class CreateOptions:
    """How clones are created.

    Args:
        key: root of the clones accepts it.
        accel: how the machines run.
        start: start them.
        wait: wait until root can log in on all of them.
        atomic: keep all of them or none.
        report: called with lines of progress for people.
    """

    key: Key | None = None
    accel: settings.Accel = "auto"
    start: bool = True
    wait: bool = False
    atomic: bool = False
    report: Callable[[str], None] = lambda _: None


def create(workspace: Workspace, image: Image, requested: CloneRequest, options: CreateOptions) -> list[Vm]:
    """Create clones, and start them if that is wanted.

    Raises:
        RecipeError: the request does not fit the host or the image; nothing was changed.
        PublishError: a name or an address is taken, the base is gone; nothing was changed.
        BuilderError: one could not be created or started; the details say which are kept.
    """
    if options.wait and (options.key is None or options.key.private is None):
        raise RecipeError(
            "--wait needs the private key, which is not beside the public one",
            hint="give the private key to --ssh-key, or leave out --wait",
        )
    created: list[Vm] = []
    try:
        _define_all(workspace, image, requested, options, created)
        return _start_all(workspace, created, options) if options.start else created
    except BaseException:
        if options.atomic:
            delete.delete_all(workspace, created)
        raise


def _define_all(
    workspace: Workspace, image: Image, requested: CloneRequest, options: CreateOptions, created: list[Vm]
) -> None:
    """Create the clones without starting them; `created` lists those that are complete, also after an error."""
    domains = workspace.libvirt()
    accel = domains.host.choose_accel(options.accel, False).name
    network = dhcp_reservation.with_name(requested.network, domains.host.uri)
    requested = replace(requested, network=network)
    with workspace.lock(), images.using(image):
        delete.repair(workspace, domains)
        delete.require_free(workspace, domains, requested.names())
        others = workspace.vms()
        private = options.key.private if options.key else None
        drafts = request.drafts(requested, image, domains, others, accel=accel, key=private)
        identities = [_identity(vm, options.key) for vm in drafts]
        domains.require_reach([image.disk], [workspace.folder / "disk"])
        for vm, identity in zip(drafts, identities, strict=True):
            try:
                created.append(_define(workspace, image, vm, identity, (*others, *drafts)))
            except BuilderError as error:
                if requested.count == 1:
                    raise
                brief = f"{vm.name} could not be created: {error.brief}"
                raise _with_outcome(error, brief, _kept(created, requested.count, options)) from error
            if requested.count > 1:
                options.report(f"{vm.name}: defined")


def _identity(vm: Vm, key: Key | None) -> Identity:
    return Identity(vm.instance, vm.hostname, (key.line,) if key else (), vm.address, vm.gateway, vm.dns, vm.mac)


def _define(workspace: Workspace, image: Image, vm: Vm, identity: Identity, others: Sequence[Vm]) -> Vm:
    folder = workspace.path(vm.name)
    try:
        folder.mkdir()
        folder.chmod(0o711)
        if vm.base:
            since = datetime.now(UTC).isoformat(timespec="seconds")
            images.enter(image, User(str(vm.uuid), "clone", vm.name, str(folder / DISK), since))
            qemu_img.create(folder / DISK, vm.disk_size, "qcow2", backing=(image.disk, "qcow2"))
            (folder / DISK).chmod(0o600)
        else:
            _copy(image, folder / DISK, vm.disk_size)
        seed_cd.write_iso(folder / SEED, seed_cd.IDENTITY_LABEL, seed.files(identity), mode=0o444)
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


def _start_all(workspace: Workspace, vms: Sequence[Vm], options: CreateOptions) -> list[Vm]:
    """Start clones and wait for all of them side by side; return those that run, with the addresses found meanwhile."""
    started: list[Vm] = []
    failed: dict[str, BuilderError] = {}
    for vm in vms:
        try:
            started.append(lifecycle.start(workspace, vm.name))
        except BuilderError as error:
            failed[vm.name] = error
    if options.wait:
        within = login.limit(Timeouts().boot, started)
        options.report(f"waiting up to {within / 60:.0f} minutes until root is in")
        failed |= login.wait_all(workspace, started, within, options.report)
    if failed:
        first = next(iter(failed.values()))
        names = f"{len(failed)} of {len(vms)} failed: {', '.join(failed)}\n" if len(vms) > 1 else ""
        kept = "all were removed" if options.atomic else "the VMs were kept: builder vm list"
        raise _with_outcome(first, first.brief, f"{names}{kept}")
    return [workspace.find(vm.name) for vm in started]


def _kept(created: Sequence[Vm], count: int, options: CreateOptions) -> str:
    if options.atomic or not created:
        return "none were kept"
    names = created[0].name if len(created) == 1 else f"{created[0].name} to {created[-1].name}"
    return f"{len(created)} of {count} are complete and were kept: {names}"


def _with_outcome(error: BuilderError, brief: str, outcome: str) -> BuilderError:
    """Return the same error with another brief and with what became of the clones."""
    new = type(error)(brief, f"{outcome}\n{error.details}".strip(), error.hint, output=error.output)
    new.diagnosis = error.diagnosis
    return new
