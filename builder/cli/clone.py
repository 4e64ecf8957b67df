"""The one rule: what was made is told, also when something else could not be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from builder.cli.options import AllowRehearsal, Connect, Json, registry_login_of_environment, require_local_uri
from builder.cli.output import display_path, note, print_json, print_lines, write
from builder.cli.state import State
from builder.errors import RecipeError
from builder.settings import Accel, Settings, Timeouts

if TYPE_CHECKING:
    from builder.clones.record import Vm
    from builder.clones.request import Request
    from builder.clones.ssh_keys import Key
    from builder.vm.domains import Domains


def clone(
    ctx: typer.Context,
    image: Annotated[
        str, typer.Argument(metavar="IMAGE[@VERSION]|oci://…", help="A golden image, here or in a registry.")
    ],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the new VM; NAME-1 and so on with --count.")],
    count: Annotated[int, typer.Option("--count", metavar="N", min=1, max=1000, help="Make so many.")] = 1,
    ssh_key: Annotated[
        Path | None, typer.Option("--ssh-key", metavar="FILE", help="Root accepts this key; else a key of builder's.")
    ] = None,
    hostname: Annotated[str | None, typer.Option("--hostname", help="In place of NAME.")] = None,
    address: Annotated[
        str | None, typer.Option("--address", metavar="CIDR", help="Static IPv4 address; the next ones with --count.")
    ] = None,
    gateway: Annotated[str | None, typer.Option("--gateway", metavar="IP", help="Default router.")] = None,
    dns: Annotated[list[str] | None, typer.Option("--dns", metavar="IP", help="Name server; repeatable.")] = None,
    memory: Annotated[str | None, typer.Option("--memory", metavar="SIZE", help="E.g. 2GiB.")] = None,
    vcpus: Annotated[int | None, typer.Option("--vcpus", metavar="N", min=1, max=255, help="Processors.")] = None,
    disk_size: Annotated[
        str | None, typer.Option("--disk-size", metavar="SIZE", help="Grow the disk, and the root file system.")
    ] = None,
    network: Annotated[
        str, typer.Option("--network", metavar="NET", help="user, nat, nat:NAME or bridge:NAME.")
    ] = "user",
    devices: Annotated[
        Literal["virtio", "emulated"] | None, typer.Option("--devices", help="Paravirtual, or SATA and e1000.")
    ] = None,
    host_disk: Annotated[
        list[str] | None,
        typer.Option(
            "--host-disk",
            metavar="PATH[,serial=S]",
            help="Also a block device of this host; one that bears data only with its serial number.",
        ),
    ] = None,
    host_device: Annotated[
        list[str] | None, typer.Option("--host-device", metavar="PCI", help="Also a PCI device of this host.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="A disk of its own instead of an overlay.")] = False,
    start: Annotated[bool, typer.Option("--start/--no-start", help="Switch it on.")] = True,
    wait: Annotated[bool, typer.Option("--wait", help="Until root can log in over SSH.")] = False,
    atomic: Annotated[bool, typer.Option("--atomic", help="All of --count or none.")] = False,
    inventory: Annotated[bool, typer.Option("--ansible-inventory", help="Print an inventory for Ansible.")] = False,
    config: Annotated[bool, typer.Option("--ssh-config", help="Print Host blocks for ssh_config.")] = False,
    allow_rehearsal: AllowRehearsal = False,
    accel: Annotated[Accel, typer.Option("--accel", help="KVM where it can be trusted, or one of the two.")] = "auto",
    connect: Connect = None,
    as_json: Json = False,
) -> None:
    """Make new VMs from a golden image, in a second."""
    if wait and not start:
        raise RecipeError("--wait and --no-start exclude each other", hint="leave out one of them")
    if inventory + config + as_json > 1:
        raise RecipeError("only one of --ansible-inventory, --ssh-config and --json can be printed")
    settings = ctx.ensure_object(State).settings(connect=require_local_uri(connect), accel=accel)
    from builder.clones.request import Request, check_words

    wanted = Request(
        name=name,
        count=count,
        hostname=hostname,
        address=address,
        gateway=gateway,
        dns=tuple(dns or ()),
        memory=_bytes("--memory", memory),
        vcpus=vcpus,
        disk_size=_bytes("--disk-size", disk_size),
        network=network,
        devices=devices,
        full=full,
        host_disks=tuple(host_disk or ()),
        host_devices=tuple(host_device or ()),
    )
    check_words(wanted)
    if image.startswith("oci://"):
        image = _pulled(settings, image, allow_rehearsal=allow_rehearsal, as_json=as_json)
    made, key = _make(settings, image, wanted, ssh_key, start=start, wait=wait, atomic=atomic)
    vms = settings.artifacts / "vms"
    if as_json:
        print_json([facts(vms, vm) for vm in made])
        return
    if inventory or config:
        from builder.clones import formats

        write((formats.ansible_inventory if inventory else formats.ssh_config)(vms, made))
        return
    print_lines(_as_lines(made, key, started=start))


def _pulled(settings: Settings, address: str, *, allow_rehearsal: bool, as_json: bool) -> str:
    """The image at this address, in the catalogue."""
    from builder import console
    from builder.registry import transfer

    login = transfer.login_from(*registry_login_of_environment())
    with console.watcher(as_json=as_json) as watched:
        done = transfer.pull(address, settings.images, login, watched, allow_rehearsal=allow_rehearsal)
    return f"{done.image.name}@{done.image.version}"


def _make(
    settings: Settings, image: str, wanted: Request, ssh_key: Path | None, *, start: bool, wait: bool, atomic: bool
) -> tuple[list[Vm], Key]:
    from builder import images
    from builder.clones import create, ssh_keys
    from builder.store.store import Store
    from builder.vm import domains

    base = images.load_image(settings.images, image)
    key = ssh_keys.given(ssh_key) if ssh_key else ssh_keys.own(Store(settings.store))
    if wait and key.private is None:
        raise RecipeError(
            "--wait needs the private key, and it is not beside the public one",
            hint="give the private key to --ssh-key, or leave --wait out",
        )
    vms = settings.artifacts / "vms"
    with domains.connect(settings.uri) as host:
        accel = host.host.choose_accel(settings.accel, settings.require_kvm)
        made = create.make(
            vms,
            settings.images,
            host,
            base,
            wanted,
            accel=accel.name,
            keys=(key.line,),
            private=key.private,
            atomic=atomic,
            tell=note if wanted.count > 1 else lambda _: None,
        )
        if start:
            made = _start(settings, host, made, wait=wait, atomic=atomic)
    return made, key


def _start(settings: Settings, host: Domains, made: list[Vm], *, wait: bool, atomic: bool) -> list[Vm]:
    """Start them all, and wait for all side by side; clones that fail stay, unless it is all or none."""
    from builder.clones import lifecycle, login, record

    vms = settings.artifacts / "vms"
    names = [vm.name for vm in made]
    done = False
    try:
        started, failed = lifecycle.start_all(vms, host, names)
        if wait:
            within = login.limit(Timeouts().boot, started)
            note(f"waiting up to {within / 60:.0f} minutes until root is in")
            failed |= login.wait_all(vms, host, started, within, note)
        if failed:
            name, fault = next(iter(failed.items()))
            more = f"{len(failed)} of {len(made)} failed: {', '.join(failed)}\n" if len(made) > 1 else ""
            kept = "all were removed" if atomic else "the VMs stay: builder vm list"
            raise type(fault)(fault.brief, f"{more}{kept}\n{fault.details}".strip(), fault.hint)
        done = True
        # With the addresses that were found meanwhile.
        return [record.find(vms, vm.name) for vm in started]
    finally:
        if atomic and not done:
            for name in names:
                lifecycle.delete(vms, settings.images, host, name)


def facts(vms: Path, vm: Vm) -> dict[str, Any]:
    """A clone for programs."""
    told = vm.model_dump(mode="json")
    return {**told, "folder": str(vms / vm.name)}


def _bytes(option: str, text: str | None) -> int | None:
    if text is None:
        return None
    from builder.recipe.models import size

    try:
        return size(int(text) if text.isdecimal() else text)
    except ValueError as fault:
        raise RecipeError(f"{option}: {fault}") from None


def _as_lines(made: list[Vm], key: Key, *, started: bool) -> list[str]:
    from builder.clones.lifecycle import place

    told = []
    for vm in made:
        where = place(vm)
        told.append(
            f"{vm.name}  {'started' if started else 'defined'}  {f'{where[0]}:{where[1]}' if where else vm.network}"
        )
    first = made[0]
    own = str(display_path(key.private)) if key.private else "the key whose public half was given"
    return [
        *told,
        f"image    {first.image}@{first.version}",
        f"key      {own}",
        f"next     builder vm {'ssh' if started else 'start'} {first.name}",
    ]
