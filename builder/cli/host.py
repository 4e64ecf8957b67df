"""The one rule: the host is changed by `prepare` and `restore` only, and never without saying what will be done."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from builder.cli.options import Json
from builder.cli.output import print_json, print_lines
from builder.cli.state import State
from builder.errors import HostError, RecipeError

if TYPE_CHECKING:
    from builder.host.finding import Row
    from builder.host.network.change import Change
    from builder.host.prepare import Step

SYSTEM = "qemu:///system"


def check(ctx: typer.Context, as_json: Json = False) -> None:
    """Check whether a build can run here; exit 3 if not."""
    from builder.host import check as checking
    from builder.host import config

    settings = ctx.ensure_object(State).settings()
    recorded = config.load().store is not None
    rows = checking.check(settings.artifacts, settings.media, recorded, settings.uri)
    failed = [row for row in rows if row.state == "fail"]
    if as_json:
        print_json({"ready": not failed, "rows": [row.as_dict() for row in rows]})
    else:
        print_lines([*checking.lines(rows), "", _verdict(rows, len(failed))])
    if failed:
        raise typer.Exit(3)


def _verdict(rows: list[Row], failed: int) -> str:
    if failed:
        return f"a build cannot run here: {', '.join(row.name for row in rows if row.state == 'fail')}"
    warned = sum(row.state == "warn" for row in rows)
    return f"a build can run here{f', with {warned} warning' + 's' * (warned > 1) if warned else ''}"


def prepare(
    ctx: typer.Context,
    iso_dir: Annotated[Path, typer.Option("--iso-dir", metavar="DIR", help="Where install media live.")] = Path(
        "/data_kvm/iso"
    ),
    store_dir: Annotated[Path, typer.Option("--store-dir", metavar="DIR", help="Where images and VMs live.")] = Path(
        "/data_kvm/store"
    ),
    desktop: Annotated[bool, typer.Option("--desktop", help="Also virt-manager and the graphical target.")] = False,
    user: Annotated[
        str | None, typer.Option("--user", envvar="SUDO_USER", metavar="NAME", help="Put into the groups kvm, libvirt.")
    ] = None,
    nat: Annotated[
        str | None, typer.Option("--nat", metavar="CIDR", help="Make a NAT network with this subnet.")
    ] = None,
    bridge: Annotated[str | None, typer.Option("--bridge", metavar="NAME", help="Make a bridge, such as br0.")] = None,
    uplink: Annotated[
        str | None,
        typer.Option("--uplink", metavar="NAME", help="The card it goes over; else that of the default route."),
    ] = None,
    address: Annotated[
        list[str] | None, typer.Option("--address", metavar="CIDR", help="Of the bridge; else what the uplink has.")
    ] = None,
    gateway: Annotated[list[str] | None, typer.Option("--gateway", metavar="IP", help="Its default route.")] = None,
    dns: Annotated[list[str] | None, typer.Option("--dns", metavar="IP", help="Name servers.")] = None,
    backend: Annotated[
        str, typer.Option("--backend", metavar="NAME", help="auto, networkmanager, ifcfg, or runtime: until reboot.")
    ] = "auto",
    confirm_within: Annotated[
        str | None,
        typer.Option("--confirm-within", metavar="TIME", help="Wait so long for `host confirm`; over SSH always, 60s."),
    ] = None,
    network_only: Annotated[bool, typer.Option("--network-only", help="Leave all but the network alone.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    as_json: Json = False,
) -> None:
    """Give this host what a build needs, or a network.

    Done twice, the second time changes nothing.
    """
    from builder.host import prepare as preparing
    from builder.host.journal import Journal

    state = ctx.ensure_object(State)
    uri = SYSTEM  # pools and networks of the host, also in what an ordinary user's --dry-run shows
    if os.geteuid() != 0 and not dry_run:
        raise HostError("only root can prepare a host", hint="sudo builder host prepare")
    wish = preparing.Wish(iso_dir.absolute(), store_dir.absolute(), desktop, None if user == "root" else user, uri)
    options = _Bridge(bridge, uplink, tuple(address or ()), tuple(gateway or ()), tuple(dns or ()), backend)
    # Every fault of the network comes before the first change.
    change = _planned(options, confirm_within)
    nat_steps = preparing.nat_steps(nat, uri) if nat else []
    journal = Journal()
    steps = [*([] if network_only else preparing.plan(wish)), *nat_steps]
    _show(state, steps, change, dry_run)
    if dry_run or not (steps or change):
        return
    outcome: dict[str, Any] = {}
    with journal.locked():
        for step in steps:
            _note(step.title)
            step.do(journal)
        if change:
            from builder.host.network import apply

            _note(f"moving the network from {change.before.uplink} to {change.bridge}")
            outcome = apply.apply(change, _note)
    if as_json:
        print_json({"dry_run": False, **_plan_facts(steps, change), "network": outcome})
    else:
        print_lines(["done; builder host restore takes it back"])


def confirm(as_json: Json = False) -> None:
    """Keep the changed network.

    To be run in a session that was opened after the change: it proves that the host can be reached.
    """
    from builder.host.network import apply

    if os.geteuid() != 0:
        raise HostError("only root can confirm a change of the network", hint="sudo builder host confirm")
    outcome = apply.confirm()
    if as_json:
        print_json(outcome)
    else:
        print_lines(["the network is kept", *(f"written: {path}" for path in outcome.get("files", ()))])


def restore(
    packages: Annotated[bool, typer.Option("--packages", help="Also remove the packages that were installed.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    as_json: Json = False,
) -> None:
    """Undo what `prepare` did, the last change first.

    Directories stay unless they are empty, and files that somebody changed since.
    """
    from builder.host import undo
    from builder.host.journal import Journal
    from builder.host.network import apply

    if os.geteuid() != 0:
        raise HostError("only root can put a host back", hint="sudo builder host restore")
    journal = Journal()
    entries = [entry for entry in reversed(journal.entries()) if packages or entry["kind"] != "packages"]
    titles = [undo.title(entry) for entry in entries]
    if apply.pending():
        titles.insert(0, "put the network back, whose change was cut short")
    if dry_run or not titles:
        print_json({"dry_run": dry_run, "steps": titles}) if as_json else print_lines(
            titles or ["nothing to take back"]
        )
        return
    with journal.locked():
        if apply.pending():
            apply.put_back_pending()
        left = undo.restore(journal, packages, _note)
    kept = [undo.title(entry) for entry in left if entry["kind"] != "packages"]
    if as_json:
        print_json({"dry_run": False, "steps": titles, "left": kept})
    else:
        stay = " ".join(name for entry in left for name in entry.get("names", ()))
        print_lines([f"done; these packages stay (--packages removes them): {stay}" if stay else "done"])
    if kept:
        raise HostError("not everything could be taken back", "\n".join(kept), "see above why; then run it again")


@dataclass(frozen=True)
class _Bridge:
    """The options of a bridge, as given."""

    bridge: str | None
    uplink: str | None
    addresses: tuple[str, ...]
    gateways: tuple[str, ...]
    dns: tuple[str, ...]
    backend: str


def _planned(options: _Bridge, confirm_within: str | None) -> Change | None:
    if options.bridge is None:
        if options.uplink or options.addresses or options.gateways or options.dns:
            raise RecipeError("--uplink, --address, --gateway and --dns need --bridge", hint="--bridge br0")
        return None
    from builder.host import check_network
    from builder.host.network import apply, bridge_request, change

    apply.require_none()
    backends = ("auto", "networkmanager", "ifcfg", "runtime")
    if options.backend not in backends:
        raise RecipeError(f"--backend {options.backend}: known are {', '.join(backends)}")
    route = check_network.default_route()
    uplink = options.uplink or (route[0] if route else None)
    if uplink is None:
        raise RecipeError("no default route tells the uplink", hint="--uplink NAME")
    return change.plan(
        bridge_request.Wish(
            options.bridge,
            # Done already, and the default route leads over the bridge.
            (check_network.bridges().get(uplink) or [uplink])[0] if uplink == options.bridge else uplink,
            options.addresses,
            options.gateways,
            options.dns,
            options.backend,  # type: ignore[arg-type]
            confirm_within is not None or apply.running_over_ssh(),
            _seconds(confirm_within or "60s"),
        )
    )


def _seconds(text: str) -> float:
    from builder.recipe.models import duration

    try:
        found = duration(int(text) if text.isdigit() else text)
    except ValueError as fault:
        raise RecipeError(f"--confirm-within {text}: {fault}") from None
    if not 5 <= found <= 3600:
        raise RecipeError(f"--confirm-within {text}: between 5s and 1h")
    return found


def _show(state: State, steps: list[Step], change: Change | None, dry_run: bool) -> None:
    """The plan: on standard output if it is the result, else among the progress."""
    from builder.host.network import change as changing

    if state.as_json:
        if dry_run or not (steps or change):
            print_json({"dry_run": dry_run, **_plan_facts(steps, change)})
        return
    text = [line for step in steps for line in (step.title, *(f"    {detail}" for detail in step.details))]
    if change:
        text += [f"network: {changing.lines(change)[0]}", *(f"    {line}" for line in changing.lines(change)[1:])]
    if dry_run or not text:
        print_lines(text or ["nothing to do"])


def _plan_facts(steps: list[Step], change: Change | None) -> dict[str, Any]:
    from builder.host.network import change as changing

    return {
        "steps": [{"title": step.title, "details": list(step.details)} for step in steps],
        "bridge": changing.lines(change) if change else [],
    }


def _note(text: str) -> None:
    import sys

    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
