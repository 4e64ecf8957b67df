"""The command `builder clone`.

Invariant: a request that is not valid is refused before an image is pulled.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from builder import console, images
from builder.cli.options import (
    Accelerator,
    AllowRehearsal,
    Connect,
    Json,
    Signed,
    in_order,
    registry_login_of_environment,
    require_local_uri,
)
from builder.cli.output import display_path, emit, note
from builder.cli.state import State
from builder.cli.vm_options import AnsibleInventory, Memory, SshConfig, Vcpus, parse_size, require_one_format
from builder.clones import formats, ssh_keys
from builder.clones.cards import CardRequest, card_requests
from builder.clones.create import CreateOptions
from builder.clones.record import Vm
from builder.clones.request import CloneRequest
from builder.clones.ssh_keys import Key
from builder.clones.store import CloneStore
from builder.errors import RecipeError
from builder.guest import user_data
from builder.registry import transfer
from builder.settings import Settings
from builder.store.store import Store


def clone(
    ctx: typer.Context,
    image: Annotated[
        str, typer.Argument(metavar="IMAGE[@VERSION]|oci://…", help="A golden image, here or in a registry.")
    ],
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the new VM; with --count NAME-1, NAME-2 and so on.")
    ],
    count: Annotated[int, typer.Option("--count", metavar="N", min=1, max=1000, help="Create this many VMs.")] = 1,
    ssh_key: Annotated[
        list[Path] | None,
        typer.Option(
            "--ssh-key", metavar="FILE", help="Let root log in with this key (default: a key of builder); repeatable."
        ),
    ] = None,
    hostname: Annotated[
        str | None, typer.Option("--hostname", metavar="HOST", help="Set this host name (default: NAME).")
    ] = None,
    address: Annotated[
        list[str] | None,
        typer.Option(
            "--address",
            metavar="CIDR|dhcp",
            help="Set a static address, of IPv4 and of IPv6; with --count also the next ones.",
        ),
    ] = None,
    gateway: Annotated[
        list[str] | None, typer.Option("--gateway", metavar="IP", help="Set the default router; for one card.")
    ] = None,
    dns: Annotated[list[str] | None, typer.Option("--dns", metavar="IP", help="Add a name server; repeatable.")] = None,
    memory: Memory = None,
    vcpus: Vcpus = None,
    disk_size: Annotated[
        str | None,
        typer.Option("--disk-size", metavar="SIZE", help="Grow the disk and the root file system to this size."),
    ] = None,
    network: Annotated[
        list[str] | None,
        typer.Option(
            "--network",
            metavar="NET",
            help="Connect a card to user, nat, nat:NAME or bridge:NAME (default: user). Again for another card: of "
            "several, each has the --address and --gateway that follow it.",
        ),
    ] = None,
    devices: Annotated[
        Literal["virtio", "emulated"] | None,
        typer.Option("--devices", help="Use paravirtual devices, or SATA and e1000."),
    ] = None,
    host_disk: Annotated[
        list[str] | None,
        typer.Option(
            "--host-disk",
            metavar="PATH[,serial=S]",
            help="Add a block device of this host; one that has data on it only with its serial number.",
        ),
    ] = None,
    host_device: Annotated[
        list[str] | None, typer.Option("--host-device", metavar="PCI", help="Add a PCI device of this host.")
    ] = None,
    user_data_file: Annotated[
        Path | None,
        typer.Option("--user-data", metavar="FILE", help="Give cloud-init this user-data; for images that have it."),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Copy the whole disk instead of making an overlay.")] = False,
    start: Annotated[bool, typer.Option("--start/--no-start", help="Start the VM, or only define it.")] = True,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until root can log in over SSH.")] = False,
    instant: Annotated[
        bool,
        typer.Option("--instant", help="Go on from a saved boot instead of booting; saved first where there is none."),
    ] = False,
    atomic: Annotated[
        bool, typer.Option("--atomic", help="Keep all VMs or none: remove all of them if one fails.")
    ] = False,
    inventory: AnsibleInventory = False,
    config: SshConfig = False,
    signed: Signed = False,
    allow_rehearsal: AllowRehearsal = False,
    accel: Accelerator = "auto",
    connect: Connect = None,
    as_json: Json = False,
) -> None:
    """Create VMs from a golden image, in a second."""
    if wait and not start:
        raise RecipeError("--wait and --no-start exclude each other", hint="leave out one of them")
    if instant and (full or host_disk or host_device or not start):
        given = "--full" if full else "--no-start" if not start else "a device of this host"
        raise RecipeError(f"--instant and {given} exclude each other", hint="leave out one of them")
    require_one_format(inventory=inventory, config=config, as_json=as_json)
    settings = ctx.ensure_object(State).settings(connect=require_local_uri(connect))
    cards = card_requests(in_order(ctx, {"--network": network, "--address": address, "--gateway": gateway}))
    request = CloneRequest(
        name=name,
        count=count,
        hostname=hostname,
        cards=cards,
        dns=tuple(dns or ()),
        memory=parse_size("--memory", memory),
        vcpus=vcpus,
        disk_size=parse_size("--disk-size", disk_size),
        devices=devices,
        full=full,
        host_disks=tuple(host_disk or ()),
        host_devices=tuple(host_device or ()),
        user_data=user_data.read(user_data_file) if user_data_file else b"",
    )
    if (inventory or config) and _is_found_late(request.cards) and not wait:
        raise RecipeError(
            "the addresses of VMs on a bridge are known only once they are up",
            "--ansible-inventory and --ssh-config list them",
            "add --wait, or give --address",
        )
    keys = ssh_keys.read_keys(ssh_key) if ssh_key else (ssh_keys.builder_key(Store(settings.store)),)
    signed = signed or settings.require_signed
    if image.startswith("oci://"):
        image = _pulled(settings, image, signed=signed, allow_rehearsal=allow_rehearsal, as_json=as_json)
    base = images.load_image(settings.images, image)
    if signed:
        images.require_signed(base.path)
    if len(request.cards) > 1 and not as_json:
        for number, card in enumerate(request.cards, start=1):
            note(f"card {number}: {card}")
    options = CreateOptions(
        keys=keys, accel=accel, start=start, wait=wait, atomic=atomic, warm=settings if instant else None, report=note
    )
    with CloneStore(settings.vms, settings.images, settings.uri) as store:
        vms = store.create(base, request, options)
        text: str | list[str] = _lines(vms, keys, started=start)
        if inventory or config:
            text = (formats.ansible_inventory if inventory else formats.ssh_config)(store, vms)
    emit([formats.as_dict(store, vm) for vm in vms], text, as_json)


def _is_found_late(cards: Sequence[CardRequest]) -> bool:
    """Return whether the address that builder logs in at is known only when the guest is up."""
    first = cards[0]
    return first.network.startswith("bridge:") and first.setup.dhcp and all(card.network != "user" for card in cards)


def _pulled(settings: Settings, address: str, *, signed: bool, allow_rehearsal: bool, as_json: bool) -> str:
    """Pull the image at this address; return its name and version."""
    login = transfer.login_from(*registry_login_of_environment())
    with console.watcher(as_json=as_json) as watched:
        done = transfer.pull(address, settings.images, login, watched, signed=signed, allow_rehearsal=allow_rehearsal)
    return f"{done.image.name}@{done.image.version}"


def _lines(vms: Sequence[Vm], keys: Sequence[Key], *, started: bool) -> list[str]:
    text = []
    for vm in vms:
        text.append(f"{vm.name}  {'started' if started else 'defined'}  {formats.where(vm)}")
    first = vms[0]
    return [
        *text,
        f"image    {first.image}@{first.version}",
        *(f"key      {_shown(key)}" for key in keys),
        f"next     builder vm {'ssh' if started else 'start'} {first.name}",
    ]


def _shown(key: Key) -> str:
    """Return where the private half of a key is, as far as builder knows; else which key it is."""
    if key.private is not None:
        return str(display_path(key.private))
    comment = " ".join(key.line.split()[2:])
    return f"the private half of {comment or 'the public key that was given'}"
