"""The command `builder images warm`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from builder import console, images
from builder.cli.options import Accelerator, Connect, ImageSpec, Json, require_local_uri
from builder.cli.output import emit, note
from builder.cli.state import State
from builder.cli.vm_options import Memory, Vcpus, parse_size
from builder.clones.cards import CardRequest
from builder.clones.create import CreateOptions
from builder.clones.request import CloneRequest
from builder.clones.store import CloneStore


def warm(
    ctx: typer.Context,
    image: ImageSpec,
    memory: Memory = None,
    vcpus: Vcpus = None,
    disk_size: Annotated[
        str | None, typer.Option("--disk-size", metavar="SIZE", help="For clones with a disk of this size.")
    ] = None,
    network: Annotated[
        str, typer.Option("--network", metavar="NET", help="For clones on user, nat, nat:NAME or bridge:NAME.")
    ] = "user",
    devices: Annotated[
        Literal["virtio", "emulated"] | None,
        typer.Option("--devices", help="For clones with paravirtual devices, or SATA and e1000."),
    ] = None,
    accel: Accelerator = "auto",
    connect: Connect = None,
    as_json: Json = False,
) -> None:
    """Boot an image once and save it, for clones with --instant."""
    settings = ctx.ensure_object(State).settings(connect=require_local_uri(connect))
    request = CloneRequest(
        "warm",
        memory=parse_size("--memory", memory),
        vcpus=vcpus,
        disk_size=parse_size("--disk-size", disk_size),
        cards=(CardRequest(network),),
        devices=devices,
    )
    base = images.load_image(settings.images, image)
    options = CreateOptions(accel=accel, report=note)
    with (
        CloneStore(settings.vms, settings.images, settings.uri) as store,
        store.warm_state(base, request, options, settings) as state,
    ):
        facts = {"digest": state.digest, "bytes": state.bytes, "made": state.seconds is not None}
    done = "made" if facts["made"] else "there already"
    emit(facts, [f"warm state of {base.name}@{base.version}: {done}, {console.size_text(state.bytes)}"], as_json)
