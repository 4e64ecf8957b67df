"""Network cards that are asked for: which addresses belong to which network, and whether this host has both.

Invariant: a `CardRequest` that exists has valid values; whether networks and addresses are there and free is found out
by `check_cards_fit`, before anything is created.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from builder.clones.record import Vm, VmCard, nat_name
from builder.errors import HostError, PublishError, RecipeError
from builder.guest.cards import MOST, Address, CardSetup, Interface
from builder.system import process
from builder.vm.domains import Domains
from builder.vm.uri import kind_of

NETWORK = re.compile(r"user|nat|nat:[A-Za-z0-9_.-]{1,50}|bridge:[A-Za-z0-9_.-]{1,15}")
DHCP = "dhcp"  # in place of an address
NO_CARD = "none"  # in place of a network, where a card is taken away
# QEMU, "-netdev user": net, host; and the name servers there.
USER_NETWORK = (ipaddress.ip_interface("10.0.2.2/24"), ipaddress.ip_interface("fec0::2/64"))
USER_DNS = (ipaddress.ip_address("10.0.2.3"), ipaddress.ip_address("fec0::3"))


@dataclass(frozen=True)
class CardRequest:
    """A network card that is asked for.

    Args:
        network: `user`, `nat` (see `dhcp_reservation.with_name`), `nat:<name>` or `bridge:<name>`.
        setup: of the guest; its MAC address is chosen later.

    Raises:
        RecipeError: the network is not one of the four forms, or cannot be used so.
    """

    network: str = "user"
    setup: CardSetup = field(default_factory=CardSetup)

    def __post_init__(self) -> None:
        check_network_names([self.network])
        if self.network == "user" and not self.setup.uses(4):
            raise RecipeError(
                "--network user reaches a guest over IPv4 only, and the card has none",
                hint=f"add --address {DHCP}, or one of {USER_NETWORK[0].network}",
            )

    def numbered(self, number: int, count: int) -> CardRequest:
        """Return the card of one of several clones: their addresses follow each other.

        Raises:
            RecipeError: the network has not enough of them.
        """
        moved = tuple(_after(ipaddress.ip_interface(text), number, count) for text in self.setup.addresses)
        return replace(self, setup=replace(self.setup, addresses=moved))

    def __str__(self) -> str:
        """Return the card as people read it."""
        words = [*([DHCP] if self.setup.dhcp else []), *self.setup.addresses]
        words += [f"via {router}" for router in self.setup.gateways]
        return f"{self.network} {', '.join(words)}"


def card_requests(words: Sequence[tuple[str, str]]) -> tuple[CardRequest, ...]:
    """Return the cards that a command line asks for.

    Of several networks each has the addresses and the gateway that follow it. All belong to a single network, wherever
    they stand.

    Args:
        words: the options `--network`, `--address` and `--gateway` with their values, as they were given.

    Raises:
        RecipeError: an address or a gateway stands before the first of several networks, or values do not fit.
    """
    pairs = paired(words, CardRequest.network)
    return tuple(
        card_request(network, own, number if len(pairs) > 1 else 0) for number, (network, own) in enumerate(pairs, 1)
    )


def paired(words: Sequence[tuple[str, str]], default: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return each network of a command line with the other options that belong to it.

    Args:
        words: see `card_requests`.
        default: the network that is meant where there is none.

    Raises:
        RecipeError: an option stands before the first of several networks, or networks do not fit.
    """
    if sum(option == "--network" for option, _ in words) <= 1:
        network = next((value for option, value in words if option == "--network"), default)
        cards = [(network, [word for word in words if word[0] != "--network"])]
    else:
        cards = []
        for option, value in words:
            if option == "--network":
                cards.append((value, []))
            elif cards:
                cards[-1][1].append((option, value))
            else:
                raise RecipeError(
                    f"{option} {value} stands before the first --network",
                    "with several networks, each has the addresses and the gateway that follow it",
                    f"--network NET {option} {value} …",
                )
    check_network_names([network for network, _ in cards if network != NO_CARD])
    return cards


def check_network_names(networks: Sequence[str]) -> None:
    """Check how networks are written.

    Raises:
        RecipeError: one has none of the four forms; there are too many; or `user` is there twice.
    """
    for network in networks:
        if not NETWORK.fullmatch(network):
            hint = "user, nat, nat:NAME or bridge:NAME"
            raise RecipeError(f"--network {network}: unknown kind of network", hint=hint)
    if len(networks) > MOST:
        raise RecipeError(f"a VM takes {MOST} network cards, not {len(networks)}")
    if networks.count("user") > 1:
        raise RecipeError(
            "--network user is there twice: QEMU's own network gives every card the same address",
            hint="use nat or bridge:NAME for the others",
        )


def check_cards_fit(cards: Sequence[CardRequest], domains: Domains, others: Collection[Vm]) -> None:
    """Check that this host has the networks, and that static addresses are part of them and free.

    Raises:
        RecipeError: an address lies outside its network, or libvirt of this user has no networks.
        PublishError: another clone has it, or this host.
        HostError: there is no such network.
    """
    hosts = {network: _host_addresses(network, domains) for network in {card.network for card in cards}}
    for card in cards:
        for text in card.setup.addresses:
            _check_address(ipaddress.ip_interface(text).ip, card.network, hosts[card.network])
    outside = [text for card in cards if card.network != "user" for text in card.setup.addresses]
    check_free([ipaddress.ip_interface(text).ip for text in outside], others)


def check_free(addresses: Iterable[Address], others: Iterable[Vm]) -> None:
    """Check that none of these addresses belongs to another clone; see `addresses_of`.

    Raises:
        PublishError: one does.
    """
    owners = {address: other.name for other in others for card in other.cards for address in addresses_of(card)}
    for address in addresses:
        if address in owners:
            raise PublishError(f"address {address} is in use by {owners[address]}", hint="builder vm list shows all")


def addresses_of(card: VmCard) -> Iterator[Address]:
    """Yield the addresses that nobody else may have: static ones, and the one that a NAT network reserved."""
    # QEMU's own network is each machine's own.
    if card.network != "user":
        yield from (ipaddress.ip_interface(text).ip for text in card.addresses)
    if card.seen is not None and nat_name(card.network):
        yield ipaddress.ip_address(card.seen)


def card_request(network: str, words: Sequence[tuple[str, str]], number: int) -> CardRequest:
    """Return the card of a network and its options.

    Args:
        number: of the card, for errors; 0 where there is but one.

    Raises:
        RecipeError: they do not fit each other.
    """
    try:
        return _card_request(network, words)
    except RecipeError as error:
        if not number:
            raise
        raise RecipeError(f"card {number}, {network}: {error.brief}", error.details, error.hint) from None


def _card_request(network: str, words: Sequence[tuple[str, str]]) -> CardRequest:
    given = [value for option, value in words if option == "--address"]
    addresses = tuple(value for value in given if value != DHCP)
    gateways = tuple(value for option, value in words if option == "--gateway")
    if gateways and not addresses:
        raise RecipeError("--gateway without --address", hint="without one the guest asks DHCP for both")
    return CardRequest(network, CardSetup(None, addresses, DHCP in given or not addresses, gateways))


def _after(first: Interface, number: int, count: int) -> str:
    # The last address of an IPv4 network is the broadcast address.
    last = int(first.network.broadcast_address) - (1 if first.version == 4 and first.network.prefixlen < 31 else 0)
    if number and int(first.ip) + number > last:
        raise RecipeError(f"{first.network} has fewer than {count} addresses from {first.ip} on")
    return f"{first.ip + number}/{first.network.prefixlen}"


def _check_address(address: Address, network: str, hosts: Sequence[Interface]) -> None:
    own = [host for host in hosts if host.version == address.version]
    # A host on a bridge needs no address of each IPv6 network there.
    complete = address.version == 4 or not network.startswith("bridge:")
    if own and complete and not any(address in host.network for host in own):
        there = " and ".join(str(host.network) for host in own)
        raise RecipeError(
            f"address {address} lies outside {there}, the network {network}",
            hint="choose an address of that network, or another --network",
        )
    if network == "user":
        if address in USER_DNS or any(address == host.ip for host in own):
            raise RecipeError(f"address {address} is used by QEMU itself in the network user")
    elif any(address == host.ip for host in own):
        raise PublishError(f"address {address} is in use by this host, on {network}")


def _host_addresses(network: str, domains: Domains) -> Sequence[Interface]:
    """Return the host's own addresses in a network, and with them the addresses there are."""
    if network == "user":
        return USER_NETWORK
    if kind_of(domains.host.uri) == "session":
        raise RecipeError(f"--network {network} needs qemu:///system", hint="run as root, or use --network user")
    if name := nat_name(network):
        return [ipaddress.ip_interface(text) for text in domains.network_addresses(name)]
    bridge = network.partition(":")[2]
    if not Path(f"/sys/class/net/{bridge}/bridge").is_dir():
        raise HostError(f"this host has no bridge {bridge}", hint=f"builder host prepare --bridge {bridge}")
    return list(_of_link(bridge))


def _of_link(link: str) -> Iterator[Interface]:
    told = json.loads(process.run(["ip", "-j", "addr", "show", "dev", link]).stdout or "[]")
    for one in told:
        for info in one.get("addr_info", []):
            if info.get("scope") != "link":
                yield ipaddress.ip_interface(f"{info['local']}/{info['prefixlen']}")
