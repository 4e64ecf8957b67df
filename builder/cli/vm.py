"""The one rule: a command here touches clones of builder's, and another machine only when it is forced to."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from builder.cli.clone import _bytes, facts
from builder.cli.options import Connect, Json, require_local_uri
from builder.cli.output import display_path, note, print_json, print_lines, write
from builder.cli.state import State
from builder.errors import BuilderError, PublishError, RecipeError

if TYPE_CHECKING:
    from builder.clones.lifecycle import Seen
    from builder.clones.record import Vm
    from builder.images import Image
    from builder.vm.domains import Domains, Found

Name = Annotated[str, typer.Argument(metavar="NAME")]
Names = Annotated[list[str], typer.Argument(metavar="NAME...")]
Force = Annotated[bool, typer.Option("--force", help="Also a machine that builder did not make.")]


def list_(
    ctx: typer.Context,
    inventory: Annotated[bool, typer.Option("--ansible-inventory", help="Print an inventory for Ansible.")] = False,
    config: Annotated[bool, typer.Option("--ssh-config", help="Print Host blocks for ssh_config.")] = False,
    as_json: Json = False,
) -> None:
    """List the VMs: state, image, address, newer images."""
    from builder import console as people
    from builder.clones import formats, lifecycle, record

    settings = ctx.ensure_object(State).settings()
    vms = settings.artifacts / "vms"
    listed = record.list_vms(vms)
    for fault in record.damaged(vms).values():
        note(f"{fault.brief}: {fault.hint}")
    if inventory or config:
        write((formats.ansible_inventory if inventory else formats.ssh_config)(vms, listed))
        return
    known: dict[str, dict[str, Found]] = {}
    for uri in sorted({one.uri for one in listed}):
        with _open(uri) as host:
            known[uri] = host.all()
    seen = [lifecycle.Seen(one, lifecycle.state_of(one, known[one.uri].get(one.name))) for one in listed]
    newer = _newer(settings.images, listed)
    if as_json:
        print_json([{**facts(vms, one.vm), "state": one.state, "newer": newer.get(one.vm.name)} for one in seen])
    elif not seen:
        print_lines(["no VMs"])
    else:
        rows = [_row(one, newer.get(one.vm.name)) for one in seen]
        write(people.table(["NAME", "STATE", "SSH", "IMAGE"], rows))


def start(
    ctx: typer.Context, names: Names, force: Force = False, connect: Connect = None, as_json: Json = False
) -> None:
    """Switch VMs on."""
    from builder.clones import lifecycle

    settings = ctx.ensure_object(State).settings(connect=require_local_uri(connect))
    vms = settings.artifacts / "vms"
    told: list[dict[str, Any]] = []
    for name in names:
        with _host(ctx, name, force=force, connect=connect) as (host, one):
            if one is None:
                host.start(name)
            started = lifecycle.start(vms, host, name) if one is not None else None
        port = started.port if started else None
        told.append({"name": name, "state": "running", "port": port})
        if not as_json:
            moved = f" (its port was taken: now {port})" if one is not None and port != one.port else ""
            print_lines([f"{name}: running{moved}"])
    if as_json:
        print_json(told)


def stop(
    ctx: typer.Context,
    names: Names,
    now: Annotated[bool, typer.Option("--now", help="Take the power away.")] = False,
    within: Annotated[float, typer.Option("--within", metavar="SECONDS", min=1, help="For the guest to obey.")] = 120,
    force: Force = False,
    connect: Connect = None,
    as_json: Json = False,
) -> None:
    """Switch VMs off: press the power button and wait."""
    from builder.clones import lifecycle

    settings = ctx.ensure_object(State).settings(connect=require_local_uri(connect))
    vms = settings.artifacts / "vms"
    for name in names:
        with _host(ctx, name, force=force, connect=connect) as (host, one):
            if one is None:
                lifecycle.switch_off(host, name, now=now, within=within)
            else:
                lifecycle.stop(vms, host, name, now=now, within=within)
        if not as_json:
            print_lines([f"{name}: off"])
    if as_json:
        print_json([{"name": name, "state": "off"} for name in names])


def console(
    ctx: typer.Context,
    name: Name,
    force: Annotated[
        bool, typer.Option("--force", help="Take it over; also of a machine that builder did not make.")
    ] = False,
    connect: Connect = None,
) -> None:
    """The serial console on this terminal; Ctrl-] leaves."""
    from builder.clones import terminal

    with _host(ctx, name, force=force, connect=connect) as (host, _):
        found = host.look(name)
        if found is None or found.state == "off":
            raise PublishError(f"{name} is off", hint=f"builder vm start {name}")
        with host.console(name, force=force) as line:
            note(f"console of {name}: Ctrl-] leaves, Ctrl-^ tells the guest this window's size")
            ended = terminal.attach(line, sys.stdin.fileno(), sys.stdout.fileno())
        note(f"\r\n{name} switched off" if ended else "\r\nleft the console")


def ssh(
    ctx: typer.Context,
    name: Name,
    command: Annotated[list[str] | None, typer.Argument(metavar="[COMMAND]...", help="Else a shell.")] = None,
    within: Annotated[float, typer.Option("--within", metavar="SECONDS", min=1, help="Until root is in.")] = 60,
) -> None:
    """Log in as root over SSH, the host key pinned."""
    from builder.clones import login, record
    from builder.system import process

    settings = ctx.ensure_object(State).settings()
    vms = settings.artifacts / "vms"
    one = record.find(vms, name)
    with _open(one.uri) as host, login.session(vms, host, one, within):
        # That was the proof of the host key; ssh(1) does the rest, and knows agents, forwards and terminals.
        options = login.ssh_options(vms, record.find(vms, name))
    words = [process.find("ssh")]
    for option, value in options.items():
        words += ["-o", f"{option}={value}"]
    os.execv(words[0], [*words, name, *(command or [])])


def screenshot(
    ctx: typer.Context,
    name: Name,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A PNG.")],
    as_json: Json = False,
) -> None:
    """Write what the VM's screen shows."""
    with _host(ctx, name) as (host, _):
        found = host.look(name)
        if found is None or found.state == "off":
            raise PublishError(f"{name} is off", hint=f"builder vm start {name}")
        path = host.screenshot(name, file)
    if as_json:
        print_json({"file": str(path)})
    else:
        print_lines([str(display_path(path))])


def set_(
    ctx: typer.Context,
    name: Name,
    memory: Annotated[str | None, typer.Option("--memory", metavar="SIZE", help="E.g. 2GiB.")] = None,
    vcpus: Annotated[int | None, typer.Option("--vcpus", metavar="N", min=1, max=255, help="Processors.")] = None,
    network: Annotated[
        str | None, typer.Option("--network", metavar="NET", help="user, nat, nat:NAME or bridge:NAME.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Change memory, processors or network of a VM.

    It takes effect at once where the guest follows, else at the next start.
    """
    from builder.clones import lifecycle, record
    from builder.clones.dhcp_reservation import settled
    from builder.clones.request import MIB, Request, check_network, check_words

    settings = ctx.ensure_object(State).settings()
    vms = settings.artifacts / "vms"
    size = _bytes("--memory", memory)
    changes: dict[str, Any] = {
        **({"memory": size // MIB} if size is not None else {}),
        **({"vcpus": vcpus} if vcpus is not None else {}),
        **({"network": network} if network is not None else {}),
    }
    if not changes:
        raise RecipeError("nothing to change", hint="--memory, --vcpus or --network")
    with _host(ctx, name) as (host, one):
        assert one is not None
        if network is not None:
            network = changes["network"] = settled(network, one.uri)
        wanted = Request(name, memory=size, network=network or one.network, address=one.address)
        check_words(wanted)
        check_network(wanted, host, [other for other in record.list_vms(vms) if other.name != name])
        found = host.look(name)
        changed, waits = lifecycle.change(vms, host, name, changes)
    runs = found is not None and found.state != "off"
    if as_json:
        print_json({**facts(vms, changed), "restart": bool(waits), "waits": waits})
        return
    for kind, value in changes.items():
        when = " from its next start on" if kind in waits else " now" if runs else ""
        print_lines([f"{name}: {kind} {value}{' MiB' if kind == 'memory' else ''}{when}"])


def snapshot(
    ctx: typer.Context,
    name: Name,
    snapshot: Annotated[str | None, typer.Argument(metavar="[SNAPSHOT]", help="Without one: list them.")] = None,
    revert: Annotated[bool, typer.Option("--revert", help="Go back to it.")] = False,
    drop: Annotated[bool, typer.Option("--delete", help="Forget it.")] = False,
    as_json: Json = False,
) -> None:
    """Take a snapshot, go back to one, or list them."""
    from builder import console as people

    if revert and drop:
        raise RecipeError("--revert and --delete exclude each other")
    if snapshot is None and (revert or drop):
        raise RecipeError("which snapshot?", hint=f"builder vm snapshot {name} lists them")
    with _host(ctx, name) as (host, _):
        there = host.snapshots(name)
        if snapshot is not None:
            known = snapshot in [one for one, _ in there]
            if (revert or drop) and not known:
                raise PublishError(f"{name} has no snapshot {snapshot}", f"it has: {', '.join(n for n, _ in there)}")
            if not (revert or drop) and known:
                raise PublishError(f"{name} has a snapshot {snapshot} already", hint="take another name")
            act = host.go_back if revert else host.drop_snapshot if drop else host.take_snapshot
            act(name, snapshot)
            there = host.snapshots(name)
    if as_json:
        print_json([{"name": one, "state": state} for one, state in there])
    elif snapshot is not None:
        print_lines([f"{name}: {'back at' if revert else 'forgot' if drop else 'took'} {snapshot}"])
    elif there:
        write(people.table(["SNAPSHOT", "STATE"], [[one, state] for one, state in there]))
    else:
        print_lines([f"{name} has no snapshots"])


def rebase(
    ctx: typer.Context,
    name: Name,
    image: Annotated[
        str | None, typer.Argument(metavar="[IMAGE[@VERSION]]", help="Without one: the latest of its image.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Rest a VM on another image; the guest sees no change."""
    from builder.images import load_image

    settings = ctx.ensure_object(State).settings()
    with _host(ctx, name) as (_, one):
        assert one is not None
        base = load_image(settings.images, image or one.image)
    _rest(ctx, name, base, as_json=as_json)


def flatten(ctx: typer.Context, name: Name, as_json: Json = False) -> None:
    """Give a VM a disk of its own, which rests on no image."""
    _rest(ctx, name, None, as_json=as_json)


def _rest(ctx: typer.Context, name: str, base: Image | None, *, as_json: bool) -> None:
    from builder.clones import lifecycle

    settings = ctx.ensure_object(State).settings()
    vms = settings.artifacts / "vms"
    with _host(ctx, name) as (host, _):
        changed = lifecycle.rest_on(vms, settings.images, host, name, base)
    if as_json:
        print_json(facts(vms, changed))
    else:
        print_lines([f"{name}: rests on {f'{changed.image}@{changed.version}' if changed.base else 'no image'}"])


def delete(ctx: typer.Context, names: Names, as_json: Json = False) -> None:
    """Delete VMs with their disks, running or not."""
    from builder.clones import lifecycle, record

    settings = ctx.ensure_object(State).settings()
    vms = settings.artifacts / "vms"
    for name in names:
        _require_no_foreign(settings.uri, vms, name)
    left: list[Path] = []
    broken = record.damaged(vms)
    for name in names:
        uri = settings.uri if name in broken else record.find(vms, name).uri
        with _open(uri) as host:
            left += lifecycle.delete(vms, settings.images, host, name)
    if as_json:
        print_json({"deleted": names, "left": [str(path) for path in left]})
        return
    print_lines(f"{name}: deleted" for name in names)
    print_lines(f"not the VM's own, so it stays: {display_path(path)}" for path in left)


@contextmanager
def _open(uri: str) -> Iterator[Domains]:
    from builder.vm import domains

    with domains.connect(uri) as host:
        yield host


@contextmanager
def _host(
    ctx: typer.Context, name: str, *, force: bool = False, connect: str | None = None
) -> Iterator[tuple[Domains, Vm | None]]:
    """The libvirt that a VM is on, and its record; None for a foreign machine, if forced.

    Raises:
        PublishError: there is no such VM.
    """
    from builder.clones import record

    settings = ctx.ensure_object(State).settings(connect=require_local_uri(connect))
    vms = settings.artifacts / "vms"
    try:
        one = record.find(vms, name)
    except BuilderError:
        if not force:
            _require_no_foreign(settings.uri, vms, name)
            raise
        with _open(settings.uri) as host:
            if host.look(name) is None:
                raise
            yield host, None
        return
    with _open(one.uri) as host:
        yield host, one


def _require_no_foreign(uri: str, vms: Path, name: str) -> None:
    """A name that libvirt knows and builder does not gets a message of its own."""
    from builder.clones import record

    if name in record.damaged(vms):
        return
    try:
        record.find(vms, name)
    except PublishError:
        with _open(uri) as host:
            if host.look(name) is not None:
                raise PublishError(
                    f"{name} is not a VM of builder's, and stays as it is",
                    f"libvirt has it at {uri}",
                    "virsh works with it; start, stop and console take --force",
                ) from None
        raise


def _newer(catalogue: Path, listed: list[Vm]) -> dict[str, str]:
    """The latest version of each VM's image, where the VM was made from another one."""
    from builder.images import list_images

    latest = {
        image.name: image.version
        for name in {one.image for one in listed}
        for image in list_images(catalogue, name)
        if image.latest
    }
    return {one.name: latest[one.image] for one in listed if latest.get(one.image, one.version) != one.version}


def _row(one: Seen, newer: str | None) -> list[str]:
    from builder.clones.lifecycle import place

    where = place(one.vm)
    address = f"{where[0]}:{where[1]}" if where else one.vm.network
    return [
        one.vm.name,
        one.state,
        address,
        f"{one.vm.image}@{one.vm.version}{f' (newer: {newer})' if newer else ''}",
    ]
