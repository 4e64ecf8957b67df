"""Change memory, processors and network cards of a clone.

Invariant: what is refused has changed nothing; what a running guest does not follow waits for its next start.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from builder.clones import dhcp_reservation, ownership, request
from builder.clones.cards import NO_CARD, CardRequest, addresses_of, card_request, check_cards_fit, check_free, paired
from builder.clones.lifecycle import apply, state_of, with_port
from builder.clones.record import SEED, Vm, VmCard, network
from builder.clones.request import MIB
from builder.clones.workspace import Workspace
from builder.errors import HostError, PublishError, RecipeError
from builder.guest import seed
from builder.guest.cards import CardSetup, check_cards
from builder.iso import seed_cd
from builder.vm import hotplug
from builder.vm.domains import Domains
from builder.vm.machine_spec import UserNet


@dataclass(frozen=True)
class VmChanges:
    """Changes of a clone; None leaves a value as it is.

    Args:
        memory: bytes.
        cards: the options `--network`, `--address` and `--gateway`, as they were given; see `card_requests`. A card
            that none of the last two follow keeps its addresses; a network `none` takes it away.

    Raises:
        RecipeError: a value is not valid, or there is none.
    """

    memory: int | None = None
    vcpus: int | None = None
    cards: tuple[tuple[str, str], ...] = ()

    @property
    def kinds(self) -> list[str]:
        """Return the names of the values that change."""
        changed = {"memory": self.memory is not None, "vcpus": self.vcpus is not None, "networks": bool(self.cards)}
        return [kind for kind, given in changed.items() if given]

    def __post_init__(self) -> None:
        if not self.kinds:
            raise RecipeError("nothing to change", hint="--memory, --vcpus, --network or --address")
        request.check_memory(self.memory)
        for number, (wanted, words) in enumerate(paired(self.cards, "nat"), 1):
            if wanted != NO_CARD:
                card_request(wanted, words, number)
            elif words:
                raise RecipeError(f"card {number}: --network {NO_CARD} takes it away, and {words[0][0]} follows")


@dataclass(frozen=True)
class ChangedVm:
    """A clone after a change.

    Args:
        waits: names of the changed values that take effect at the next start only.
        running: the clone ran.
    """

    vm: Vm
    waits: tuple[str, ...]
    running: bool


def change(workspace: Workspace, name: str, changes: VmChanges) -> ChangedVm:
    """Change a clone, at once where it runs and its guest follows.

    Raises:
        PublishError: there is no such clone, its network cannot be changed while it runs, or its address is taken.
        RecipeError: its address lies outside the network.
        HostError: there is no such network, or libvirt refuses.
    """
    domains = workspace.libvirt(ownership.find_clone(workspace, name).uri)
    with workspace.lock():
        old = workspace.find(name)
        running = state_of(old, domains.look(name)) not in ("off", "undefined")
        new = _changed(old, changes, domains.host.uri, workspace.vms())
        if new.cards != old.cards:
            _require_possible(old, new, running=running)
            new = give_cards(workspace, domains, old, new, running=running)
        new = apply(workspace, new)
        waits = []
        if running and changes.memory is not None and not hotplug.memory(domains, name, new.memory):
            waits.append("memory")
        if running and changes.vcpus is not None and not hotplug.vcpus(domains, name, new.vcpus):
            waits.append("vcpus")
        return ChangedVm(new, tuple(waits), running)


def _changed(vm: Vm, changes: VmChanges, uri: str, vms: Collection[Vm]) -> Vm:
    """Return the changed record of a clone."""
    new = vm.model_copy(
        update={
            "memory": changes.memory // MIB if changes.memory is not None else vm.memory,
            "vcpus": changes.vcpus if changes.vcpus is not None else vm.vcpus,
            "cards": _changed_cards(vm, changes.cards, uri, request.mac_addresses(vms)) if changes.cards else vm.cards,
        }
    )
    if "user" in new.networks:
        return new if new.port is not None else with_port(new, {each.port for each in vms if each.port is not None})
    return new.model_copy(update={"port": None})


def _changed_cards(vm: Vm, words: Sequence[tuple[str, str]], uri: str, macs: Collection[str]) -> tuple[VmCard, ...]:
    """Return the cards of a clone that options ask for: those that are there, in their order, and then new ones."""
    pairs = paired(words, vm.networks[0])
    if len(pairs) < len(vm.cards):
        raise RecipeError(
            f"{vm.name} has {len(vm.cards)} network cards, and --network names {len(pairs)}",
            f"give --network once for each card, in their order; --network {NO_CARD} removes a card",
            f"as they are: {' '.join(f'--network {each}' for each in vm.networks)}",
        )
    cards: list[VmCard] = []
    for number, (given, own) in enumerate(pairs):
        if given == NO_CARD:
            continue
        wanted = dhcp_reservation.with_name(given, uri)
        old = vm.cards[number] if number < len(vm.cards) else None
        asked = CardRequest(wanted, old.setup) if old and not own else card_request(wanted, own, number + 1)
        new = request.new_card(asked, {*macs, *(card.mac for card in cards)})
        if old is not None:
            seen = old.seen if wanted == old.network and new.dhcp else None
            new = new.model_copy(update={"mac": old.mac, "seen": seen})
        cards.append(new)
    if not cards:
        raise RecipeError(f"{vm.name} would have no network card", hint="leave it one")
    return tuple(cards)


def _require_possible(old: Vm, new: Vm, *, running: bool) -> None:
    """Make sure that a running clone's cards go from one network to another at most.

    Raises:
        PublishError: more is to be changed.
        RecipeError: cards and name servers do not fit each other.
    """
    check_cards(_setups(new), new.dns)
    hint = f"builder vm stop {old.name}"
    if running and _setups(old) != _setups(new):
        raise PublishError(f"cards and addresses of {old.name} cannot be changed while it runs", hint=hint)
    for before, after in zip(old.networks, new.networks, strict=False):
        if running and before != after and "user" in (before, after):
            # The card can be plugged into another network, but user-mode networking is part of QEMU itself.
            what = f"the network of {old.name} cannot be changed from {before} to {after} while it runs"
            raise PublishError(what, hint=hint)


def give_cards(workspace: Workspace, domains: Domains, old: Vm, new: Vm, *, running: bool) -> Vm:
    """Give a clone its new cards: reservations, seed, and where it runs the networks that they are plugged into.

    The definition and the record are the caller's, who holds the lock.

    Returns:
        The clone with the addresses that are reserved for its cards.

    Raises:
        PublishError, RecipeError, HostError: see `cards.check_cards_fit`; nothing was changed.
        HostError: libvirt refuses; what was changed is as before.
    """
    others = [vm for vm in workspace.vms() if vm.name != old.name]
    taken = dhcp_reservation.static_addresses(others)
    before = {card.mac: card for card in old.cards}
    moved = [number for number, card in enumerate(new.cards) if card != before.get(card.mac)]
    asked = [CardRequest(new.cards[number].network, new.cards[number].setup) for number in moved]
    check_cards_fit(asked, domains, others)
    check_free([address for number in moved for address in addresses_of(new.cards[number])], others)
    after = {card.mac: card.network for card in new.cards}
    leaving = [card for card in old.cards if card.network != after.get(card.mac)]
    done: list[VmCard] = []
    try:
        for number in moved:
            done.append(new.cards[number])
            new = dhcp_reservation.keep_card(new, number, taken, [card.mac for card in leaving])
            _plug(domains, new, new.cards[number], running=running)
        if _setups(old) != _setups(new):
            # The guest reads it at its next boot.
            files = seed_cd.read_iso(workspace.path(new.name) / SEED)
            workspace.write_seed(new, seed.with_cards(files, _setups(new), new.dns))
    except BaseException:
        for card in done:
            dhcp_reservation.drop_card(new.uri, card)
        undone = {card.mac for card in done}
        with suppress(HostError):
            for number, card in enumerate(old.cards):
                if card.mac in undone:
                    dhcp_reservation.keep_card(old, number, taken)
                    _plug(domains, old, card, running=running)
        raise
    for card in leaving:
        dhcp_reservation.drop_card(old.uri, card)
    for number in moved if leaving else ():
        # The name of one that left goes to one that came.
        new = dhcp_reservation.keep_card(new, number, taken)
    return new


def _setups(vm: Vm) -> list[CardSetup]:
    return [card.setup for card in vm.cards]


def _plug(domains: Domains, vm: Vm, card: VmCard, *, running: bool) -> None:
    """Put a card of a running clone into its network."""
    target = network(vm, card)
    if running and not isinstance(target, UserNet):
        hotplug.network(domains, vm.name, card.mac, target)
