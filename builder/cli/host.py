"""The commands `builder host`.

Invariant: the host is changed by `prepare` and `restore` only, and never without showing first what will be done.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from builder.cli.options import DryRun, Json
from builder.cli.output import emit, note, print_lines
from builder.cli.state import State
from builder.errors import HostError
from builder.host import check as checks
from builder.host import config, preparation
from builder.host import restore as restoring
from builder.host.finding import HostFinding
from builder.host.network import apply
from builder.host.preparation import BridgeOptions, Preparation
from builder.host.prepare import PrepareOptions

# Pools and networks of the host, also in what an ordinary user's --dry-run shows.
SYSTEM = "qemu:///system"


def check(ctx: typer.Context, as_json: Json = False) -> None:
    """Check whether a build can run here; exit 3 if not."""
    settings = ctx.ensure_object(State).settings()
    recorded = config.load().store is not None
    rows = checks.check(settings.artifacts, settings.media, recorded, settings.uri)
    failed = [row for row in rows if row.state == "fail"]
    facts = {"ready": not failed, "rows": [row.as_dict() for row in rows]}
    emit(facts, [*checks.lines(rows), "", _verdict(rows, failed)], as_json)
    if failed:
        raise typer.Exit(HostError.exit_code)


def _verdict(rows: list[HostFinding], failed: list[HostFinding]) -> str:
    if failed:
        return f"a build cannot run here: {', '.join(row.name for row in failed)}"
    warned = sum(row.state == "warn" for row in rows)
    return f"a build can run here{f', with {warned} warning' + 's' * (warned > 1) if warned else ''}"


def prepare(
    iso_dir: Annotated[Path, typer.Option("--iso-dir", metavar="DIR", help="Keep install media here.")] = Path(
        "/data_kvm/iso"
    ),
    store_dir: Annotated[Path, typer.Option("--store-dir", metavar="DIR", help="Keep images and VMs here.")] = Path(
        "/data_kvm/store"
    ),
    desktop: Annotated[
        bool, typer.Option("--desktop", help="Install virt-manager too, and boot into the desktop.")
    ] = False,
    user: Annotated[
        str | None,
        typer.Option("--user", envvar="SUDO_USER", metavar="NAME", help="Add this user to the groups kvm and libvirt."),
    ] = None,
    nat: Annotated[
        str | None, typer.Option("--nat", metavar="CIDR", help="Create a NAT network with this subnet.")
    ] = None,
    bridge: Annotated[
        str | None, typer.Option("--bridge", metavar="NAME", help="Create a bridge, such as br0.")
    ] = None,
    uplink: Annotated[
        str | None,
        typer.Option(
            "--uplink", metavar="NAME", help="Connect the bridge to this interface (default: the default route's)."
        ),
    ] = None,
    address: Annotated[
        list[str] | None,
        typer.Option("--address", metavar="CIDR", help="Give the bridge this address (default: the uplink's)."),
    ] = None,
    gateway: Annotated[
        list[str] | None, typer.Option("--gateway", metavar="IP", help="Set the default route of the bridge.")
    ] = None,
    dns: Annotated[list[str] | None, typer.Option("--dns", metavar="IP", help="Use this name server.")] = None,
    backend: Annotated[
        str,
        typer.Option(
            "--backend",
            metavar="NAME",
            help="Configure the bridge by auto, networkmanager, ifcfg, or runtime (lost at reboot).",
        ),
    ] = "auto",
    confirm_within: Annotated[
        str | None,
        typer.Option(
            "--confirm-within",
            metavar="TIME",
            help="How long to wait for `host confirm` before rolling back (default: 60s, none at the host's console).",
        ),
    ] = None,
    no_confirm: Annotated[
        bool, typer.Option("--no-confirm", help="Keep the network without `host confirm` once the gateway answers.")
    ] = False,
    network_only: Annotated[bool, typer.Option("--network-only", help="Change nothing but the network.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Give this host what a build needs, or a network.

    Running it again changes nothing.
    """
    if not dry_run:
        _require_root("only root can prepare a host", "prepare")
    options = PrepareOptions(
        iso_dir.absolute(), store_dir.absolute(), desktop, None if user == "root" else user, SYSTEM
    )
    lists = (tuple(address or ()), tuple(gateway or ()), tuple(dns or ()))
    wanted = BridgeOptions(bridge, uplink, *lists, backend, confirm_within, no_confirm)
    planned = preparation.plan(options, nat, wanted, network_only=network_only)
    if dry_run or planned.empty:
        emit({"dry_run": dry_run, **_facts(planned)}, _lines(planned) or ["nothing to do"], as_json)
        return
    if not as_json:
        print_lines(_lines(planned))
    network = preparation.carry_out(planned, note)
    text = ["done; to undo it: builder host restore"]
    emit({"dry_run": False, **_facts(planned), "network": network}, text, as_json)


def confirm(as_json: Json = False) -> None:
    """Keep the changed network.

    To be run in a session that was opened after the change: it proves that the host can be reached.
    """
    _require_root("only root can confirm a change of the network", "confirm")
    outcome = apply.confirm()
    emit(outcome, ["the network is kept", *(f"written: {path}" for path in outcome.get("files", ()))], as_json)


def restore(
    packages: Annotated[bool, typer.Option("--packages", help="Also remove the packages that were installed.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Undo what `prepare` did, the last change first.

    Directories stay unless they are empty, and so do files that were changed since.
    """
    _require_root("only root can restore a host", "restore")
    # First of all: a host without its network is the worst that there is, and a damaged journal must not stop this.
    steps: list[str] = [] if dry_run else restoring.restore_pending(note)
    titles = [*steps, *restoring.titles(packages=packages)]
    if dry_run or titles == steps:
        text = titles or ["nothing to undo"]
        emit({"dry_run": dry_run, "steps": titles}, ["done"] if steps else text, as_json)
        return
    left = restoring.restore(note, packages=packages)
    stay = f"; these packages stay (--packages removes them): {' '.join(left.packages)}" if left.packages else ""
    emit({"dry_run": False, "steps": titles, "left": list(left.failed)}, [f"done{stay}"], as_json)
    if left.failed:
        raise HostError(
            "not everything could be undone", "\n".join(left.failed), "the reasons are above; then run it again"
        )


def _require_root(refusal: str, command: str) -> None:
    if os.geteuid() != 0:
        raise HostError(refusal, hint=f"sudo builder host {command}")


def _lines(planned: Preparation) -> list[str]:
    text = [line for step in planned.steps for line in (step.title, *(f"    {detail}" for detail in step.details))]
    for head, *more in [planned.network_lines()] if planned.change else []:
        text += [f"network: {head}", *(f"    {line}" for line in more)]
    return text


def _facts(planned: Preparation) -> dict[str, Any]:
    steps = [{"title": step.title, "details": list(step.details)} for step in planned.steps]
    return {"steps": steps, "bridge": planned.network_lines()}
