"""The one rule: of a clone that cannot be finished nothing stays, and those made before it stay whole.

The base's list of users is entered first and the record is written last: a clone that is killed half-way is found
by the next command, which removes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from builder import images
from builder.clones import delete, dhcp_reservation, request
from builder.clones.record import DISK, SEED, Vm, changing, list_vms, save, spec
from builder.clones.request import Request
from builder.errors import BuilderError, HostError
from builder.guest import seed
from builder.images import Image, User
from builder.iso import seed_cd
from builder.system import process
from builder.vm import qemu_img
from builder.vm.domains import Domains

Tell = Callable[[str], None]


def make(
    vms: Path,
    catalogue: Path,
    domains: Domains,
    image: Image,
    wanted: Request,
    *,
    accel: str,
    keys: tuple[str, ...],
    private: Path | None,
    atomic: bool = False,
    tell: Tell = lambda _: None,
) -> list[Vm]:
    """Make clones and define them; none is started.

    Args:
        keys: public keys that root accepts.
        private: the private half of one of them.
        atomic: remove those made before, too, when one fails.
        tell: called with a line for people after each.

    Raises:
        RecipeError: a value cannot be; nothing was changed.
        PublishError: a name or an address is taken, the base is gone; nothing was changed.
        BuilderError: one could not be made; its details name those that stand.
    """
    request.check_words(wanted)
    wanted = replace(wanted, network=dhcp_reservation.settled(wanted.network, domains.host.uri))
    made: list[Vm] = []
    with changing(vms), images.using(image):
        delete.mend(vms, catalogue, domains)
        delete.require_free(vms, domains, wanted.names())
        others = list_vms(vms)
        request.check_network(wanted, domains, others)
        drafts = request.drafts(wanted, image, domains, others, accel=accel, key=private)
        domains.require_reach([image.disk], [vms / "disk"])
        try:
            for vm in drafts:
                made.append(_one(vms, catalogue, domains, image, vm, keys, (*others, *drafts)))
                tell(f"{vm.name}: defined")
        except BaseException as fault:
            failed = drafts[min(len(made), len(drafts) - 1)].name
            if atomic:
                for vm in made:
                    delete.remove(vms, catalogue, domains, vm)
                made.clear()
            if isinstance(fault, BuilderError) and wanted.count > 1:
                raise _told(fault, failed, made, wanted.count) from fault
            raise
    return made


def _one(
    vms: Path,
    catalogue: Path,
    domains: Domains,
    image: Image,
    vm: Vm,
    keys: tuple[str, ...],
    others: tuple[Vm, ...],
) -> Vm:
    folder = vms / vm.name
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
        files = seed.files(request.identity(vm, keys))
        seed_cd.write_iso(folder / SEED, seed_cd.IDENTITY_LABEL, files, mode=0o444)
        domains.define(spec(vm, folder))
        save(vms, vm)
        kept = dhcp_reservation.keep(vm, [other for other in others if other.uuid != vm.uuid])
        if kept != vm:
            save(vms, kept)
        return kept
    except BaseException as fault:
        delete.remove(vms, catalogue, domains, vm)
        if isinstance(fault, OSError):
            raise HostError(f"{folder} cannot be filled: {fault.strerror or fault}", str(fault)) from fault
        raise


def _copy(image: Image, target: Path, size: int) -> None:
    """A disk that stands alone: shares its blocks with the image where the file system can, compressed as it is."""
    process.run(["cp", "--reflink=auto", "--sparse=always", image.disk, target])
    target.chmod(0o600)
    process.run(["qemu-img", "resize", "-q", "-f", "qcow2", target, str(size)])


def _told(fault: BuilderError, failed: str, made: list[Vm], count: int) -> BuilderError:
    """The same fault with what stands now."""
    stands = "none stands"
    if made:
        names = made[0].name if len(made) == 1 else f"{made[0].name} to {made[-1].name}"
        stands = f"{len(made)} of {count} stand, whole: {names}"
    return type(fault)(f"{failed} could not be made: {fault.brief}", f"{stands}\n{fault.details}".strip(), fault.hint)
