"""Plan the preparation of this host as a whole, bridge included, and carry it out.

Invariant: all that can be refused is refused while planning, before the first change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from builder.errors import RecipeError
from builder.host import check_network, prepare
from builder.host.journal import Journal
from builder.host.network import apply, change
from builder.host.network.bridge_request import BridgeRequest
from builder.host.network.change import Change
from builder.host.prepare import PrepareOptions, PrepareStep
from builder.recipe.types import duration

BACKENDS = ("auto", "networkmanager", "ifcfg", "runtime")


@dataclass(frozen=True)
class BridgeOptions:
    """Options of the bridge, as they were written.

    Args:
        bridge: its name; None leaves the network alone.
        uplink: the interface it takes over; None means that of the default route.
        confirm_within: how long to wait for `host confirm`; None means 60 s, but no confirmation at the host's own
            console.
        no_confirm: keep it without a confirmation as soon as the gateway answers.
    """

    bridge: str | None = None
    uplink: str | None = None
    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    backend: str = "auto"
    confirm_within: str | None = None
    no_confirm: bool = False


@dataclass(frozen=True)
class Preparation:
    """Plan for a host: missing steps, and a change of the network."""

    steps: tuple[PrepareStep, ...]
    change: Change | None

    @property
    def empty(self) -> bool:
        """True if there is nothing to do."""
        return not self.steps and self.change is None

    def network_lines(self) -> list[str]:
        """Describe the change of the network for people; empty without one."""
        return list(change.lines(self.change)) if self.change else []


def plan(options: PrepareOptions, nat: str | None, bridge: BridgeOptions, *, network_only: bool) -> Preparation:
    """Plan what is missing on this host; nothing is changed.

    Args:
        nat: subnet of a NAT network to create.
        network_only: leave all but the network alone.

    Raises:
        RecipeError: an option cannot be used.
        HostError: this host cannot be prepared so.
    """
    planned = plan_bridge(bridge)
    nat_steps = prepare.nat_steps(nat, options.uri) if nat else []
    return Preparation((*(() if network_only else prepare.plan(options)), *nat_steps), planned)


def carry_out(preparation: Preparation, note: Callable[[str], None]) -> dict[str, Any]:
    """Carry out a preparation, each step recorded in the journal before it is done.

    Args:
        note: called with a line of text before each step.

    Returns:
        What became of the network; empty without a change of it.
    """
    journal = Journal()
    with journal.locked():
        for text in journal.unreadable():
            note(f"warning: {text}")
        for step in preparation.steps:
            note(step.title)
            step.do(journal)
        if preparation.change is None:
            return {}
        note(f"moving the network from {preparation.change.before.uplink} to {preparation.change.bridge}")
        return apply.apply(preparation.change, note)


def plan_bridge(options: BridgeOptions) -> Change | None:
    """Plan the change of the network; None where none was asked for or the bridge exists already.

    Raises:
        RecipeError: an option cannot be used.
    """
    if options.bridge is None:
        if options.uplink or options.addresses or options.gateways or options.dns:
            raise RecipeError("--uplink, --address, --gateway and --dns need --bridge", hint="--bridge br0")
        return None
    if options.no_confirm and options.confirm_within is not None:
        raise RecipeError("--no-confirm and --confirm-within contradict each other")
    apply.require_none()
    if options.backend not in BACKENDS:
        raise RecipeError(f"--backend {options.backend}: known are {', '.join(BACKENDS)}")
    route = check_network.default_route()
    uplink = options.uplink or (route[0] if route else None)
    if uplink is None:
        raise RecipeError("there is no default route to find the uplink by", hint="--uplink NAME")
    return change.plan(
        BridgeRequest(
            options.bridge,
            # Done already, and the default route leads over the bridge.
            (check_network.bridges().get(uplink) or [uplink])[0] if uplink == options.bridge else uplink,
            options.addresses,
            options.gateways,
            options.dns,
            options.backend,  # type: ignore[arg-type]
            not options.no_confirm and (options.confirm_within is not None or apply.may_be_remote()),
            _seconds(options.confirm_within or "60s"),
        )
    )


def _seconds(text: str) -> float:
    try:
        seconds = duration(int(text) if text.isdigit() else text)
    except ValueError as fault:
        raise RecipeError(f"--confirm-within {text}: {fault}") from None
    if not 5 <= seconds <= 3600:
        raise RecipeError(f"--confirm-within {text}: between 5s and 1h")
    return seconds
