"""The commands `builder vm`.

Invariant: a machine that builder did not make is touched only with --force (`builder.clones.ownership`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from builder import console as people
from builder.cli.options import Connect, Json, in_order, require_local_uri
from builder.cli.output import display_path, emit, note, print_lines
from builder.cli.state import State
from builder.cli.vm_options import AnsibleInventory, Memory, SshConfig, Vcpus, parse_size, require_one_format
from builder.clones import formats
from builder.clones.change import VmChanges
from builder.clones.lifecycle import VmStatus
from builder.clones.store import CloneStore
from builder.errors import RecipeError
from builder.system import process

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the VM.")]
Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of the VMs.")]
Force = Annotated[bool, typer.Option("--force", help="Accept a machine that builder did not make.")]


def list_(
    ctx: typer.Context, inventory: AnsibleInventory = False, config: SshConfig = False, as_json: Json = False
) -> None:
    """List the VMs: state, image, address, newer images."""
    require_one_format(inventory=inventory, config=config, as_json=as_json)
    with _open(ctx) as store:
        for error in store.damaged().values():
            note(f"{error.brief}: {error.hint}")
        if inventory or config:
            emit(None, (formats.ansible_inventory if inventory else formats.ssh_config)(store, store.vms()), False)
            return
        listed = store.statuses()
    data = [{**formats.as_dict(store, each.vm), "state": each.state, "newer": each.newer} for each in listed]
    rows = [_row(each) for each in listed]
    emit(data, people.table(["NAME", "STATE", "SSH", "IMAGE"], rows) if rows else "no VMs\n", as_json)


def start(
    ctx: typer.Context, names: Names, force: Force = False, connect: Connect = None, as_json: Json = False
) -> None:
    """Start VMs."""
    started = []
    with _open(ctx, connect) as store:
        for name in names:
            vm = store.start(name, force=force)
            started.append(vm)
            if not as_json:
                port = f" (another program has its port: now {vm.port})" if vm.moved else ""
                print_lines([f"{name}: running{port}"])
    emit([{"name": vm.name, "state": "running", "port": vm.port} for vm in started], [], as_json)


def stop(
    ctx: typer.Context,
    names: Names,
    now: Annotated[bool, typer.Option("--now", help="Cut the power instead of pressing the power button.")] = False,
    within: Annotated[
        float, typer.Option("--within", metavar="SECONDS", min=1, help="Wait this long for the guest to switch off.")
    ] = 120,
    force: Force = False,
    connect: Connect = None,
    as_json: Json = False,
) -> None:
    """Stop VMs: press the power button and wait."""
    with _open(ctx, connect) as store:
        for name in names:
            store.stop(name, now=now, within=within, force=force)
            if not as_json:
                print_lines([f"{name}: off"])
    emit([{"name": name, "state": "off"} for name in names], [], as_json)


def console(
    ctx: typer.Context,
    name: Name,
    force: Annotated[
        bool, typer.Option("--force", help="Detach other terminals; accept a machine that builder did not make.")
    ] = False,
    connect: Connect = None,
) -> None:
    """Attach this terminal to the serial console; Ctrl-] leaves."""
    with _open(ctx, connect) as store:
        command = store.console_command(name, force=force)
    note(f"console of {name}: Ctrl-] (^]) leaves; if another terminal has it, --force takes it over")
    process.hand_over(command)


def ssh(
    ctx: typer.Context,
    name: Name,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[COMMAND]...", help="Run this in the VM (default: a shell).")
    ] = None,
    within: Annotated[
        float, typer.Option("--within", metavar="SECONDS", min=1, help="Wait this long until root can log in.")
    ] = 60,
) -> None:
    """Log in as root over SSH, with the host key pinned."""
    with _open(ctx) as store:
        words = store.ssh_command(name, within, command or ())
    process.hand_over(words)


def screenshot(
    ctx: typer.Context,
    name: Name,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Write this PNG.")],
    as_json: Json = False,
) -> None:
    """Write what the VM's screen shows to a file."""
    with _open(ctx) as store:
        path = store.screenshot(name, file)
    emit({"file": str(path)}, [str(display_path(path))], as_json)


def set_(
    ctx: typer.Context,
    name: Name,
    memory: Memory = None,
    vcpus: Vcpus = None,
    network: Annotated[
        list[str] | None,
        typer.Option(
            "--network", metavar="NET", help="Connect it to user, nat, nat:NAME or bridge:NAME; once for each card."
        ),
    ] = None,
    address: Annotated[
        list[str] | None, typer.Option("--address", metavar="CIDR|dhcp", help="Give the card this address.")
    ] = None,
    gateway: Annotated[
        list[str] | None, typer.Option("--gateway", metavar="IP", help="Give the card this default router.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Change memory, processors or network cards of a VM.

    Changes take effect at once if the guest follows, otherwise at the next start.
    """
    cards = in_order(ctx, {"--network": network, "--address": address, "--gateway": gateway})
    changes = VmChanges(parse_size("--memory", memory), vcpus, tuple(cards))
    with _open(ctx) as store:
        changed = store.change(name, changes)
    networks = " ".join(changed.vm.networks)
    values = {"memory": f"{changed.vm.memory} MiB", "vcpus": changed.vm.vcpus, "networks": networks}
    text = []
    for kind in changes.kinds:
        when = " from its next start on" if kind in changed.waits else " now" if changed.running else ""
        word = "network" if kind == "networks" else kind
        text.append(f"{name}: {word} {values[kind]}{when}")
    data = {**formats.as_dict(store, changed.vm), "restart": bool(changed.waits), "waits": list(changed.waits)}
    emit(data, text, as_json)


def snapshot(
    ctx: typer.Context,
    name: Name,
    snapshot: Annotated[
        str | None, typer.Argument(metavar="[SNAPSHOT]", help="Name of the snapshot (default: list all of them).")
    ] = None,
    revert: Annotated[bool, typer.Option("--revert", help="Go back to the snapshot.")] = False,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the snapshot.")] = False,
    as_json: Json = False,
) -> None:
    """Create a snapshot, go back to one, or list them."""
    if revert and delete:
        raise RecipeError("--revert and --delete exclude each other", hint="leave out one of them")
    if snapshot is None and (revert or delete):
        raise RecipeError("the name of a snapshot is missing", hint=f"builder vm snapshot {name} lists them")
    text: str | list[str] | None = None
    with _open(ctx) as store:
        if snapshot is not None and revert:
            store.revert_snapshot(name, snapshot)
            text = [f"{name}: reverted to snapshot {snapshot}"]
        elif snapshot is not None and delete:
            store.delete_snapshot(name, snapshot)
            text = [f"{name}: deleted snapshot {snapshot}"]
        elif snapshot is not None:
            store.create_snapshot(name, snapshot)
            text = [f"{name}: created snapshot {snapshot}"]
        listed = store.snapshots(name)
    rows = [[each, state] for each, state in listed]
    if text is None:
        text = people.table(["SNAPSHOT", "STATE"], rows) if rows else f"{name} has no snapshots\n"
    emit([{"name": each, "state": state} for each, state in listed], text, as_json)


def rebase(
    ctx: typer.Context,
    name: Name,
    image: Annotated[
        str | None,
        typer.Argument(
            metavar="[IMAGE[@VERSION]]", help="Rebase onto this version (default: the latest of its image)."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Rebase a VM's disk onto another image version.

    The contents of the disk do not change.
    """
    with _open(ctx) as store:
        vm = store.rebase(name, image)
    emit(formats.as_dict(store, vm), [f"{name}: its disk is based on {vm.image}@{vm.version}"], as_json)


def flatten(ctx: typer.Context, name: Name, as_json: Json = False) -> None:
    """Make a VM's disk independent of its image.

    The contents of the disk do not change.
    """
    with _open(ctx) as store:
        vm = store.flatten(name)
    emit(formats.as_dict(store, vm), [f"{name}: its disk is independent of any image"], as_json)


def delete(ctx: typer.Context, names: Names, as_json: Json = False) -> None:
    """Delete VMs with their disks, running or not."""
    with _open(ctx) as store:
        kept = store.delete(names)
    text = [f"{name}: deleted" for name in names]
    text += [f"kept, because it does not belong to the VM: {display_path(path)}" for path in kept]
    emit({"deleted": names, "left": [str(path) for path in kept]}, text, as_json)


def _open(ctx: typer.Context, connect: str | None = None) -> CloneStore:
    settings = ctx.ensure_object(State).settings(connect=require_local_uri(connect))
    return CloneStore(settings.vms, settings.images, settings.uri)


def _row(status: VmStatus) -> list[str]:
    vm = status.vm
    return [
        vm.name,
        status.state,
        formats.where(vm),
        f"{vm.image}@{vm.version}{f' (newer: {status.newer})' if status.newer else ''}",
    ]
