"""The files of a seed CD, which gives a machine its identity.

Invariant: an `Identity` that exists is valid; the guest that reads the seed trusts nothing and checks again.

The files hold the same facts twice: NoCloud's for images with cloud-init, and a flat builder.conf for the first-boot
unit of images without it. (NoCloud: https://docs.cloud-init.io, "NoCloud"; JSON is valid YAML.)

builder's wishes are vendor-data, so that user-data is whoever's clone it is, and wins. The keys are in meta-data, which
cloud-init adds to those of user-data; a list in vendor-data would give way to one there (cloud-init 22.4, cc_ssh.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from builder.errors import RecipeError
from builder.guest import public_key
from builder.guest.cards import FAMILIES, CardSetup, Family, check_cards, default_card, dns_card, parse_ip
from builder.recipe import host_name

LABEL = "cidata"
AWAY = 1000  # metric of a default route that is not to be taken; NetworkManager begins at 100
CONFIG = b"#cloud-config\n"
RANDOM = 512  # bytes of the host's randomness for a guest that goes on from a state that others go on from, too


@dataclass(frozen=True)
class Identity:
    """Identity of one machine.

    Args:
        instance_id: the guest acts when it differs from the one it recorded.
        ssh_keys: public keys for root, one line each; kept in their normal form.
        cards: its network cards, in the order in which the guest finds them.
        dns: name servers, for a machine with a static address.

    Raises:
        RecipeError: a value is malformed, or cards and name servers do not fit each other.
    """

    instance_id: str
    hostname: str
    ssh_keys: tuple[str, ...] = ()
    cards: tuple[CardSetup, ...] = (CardSetup(),)
    dns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "ssh_keys", tuple(map(_public_key, self.ssh_keys)))
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", self.instance_id):
            raise RecipeError(f"instance-id {self.instance_id!r} is refused", "letters, digits, '.', '_' and '-' only")
        if not host_name.is_host_name(self.hostname):
            raise RecipeError(f"hostname {self.hostname!r} is refused", host_name.FORM)
        check_cards(self.cards, self.dns)
        object.__setattr__(self, "dns", tuple(str(parse_ip(server)) for server in self.dns))


def files(identity: Identity, random: bytes = b"", user_data: bytes = b"") -> dict[str, bytes]:
    """Return the files of the seed CD, by name.

    Args:
        random: bytes that nobody else has, for a guest that goes on from a state that others go on from, too.
        user_data: somebody's own, for cloud-init.
    """
    told = {"instance-id": identity.instance_id, "local-hostname": identity.hostname}
    texts = {
        "builder.conf": _builder_conf(identity).encode(),
        "meta-data": _json(told | {"public-keys": list(identity.ssh_keys)}),
        "vendor-data": CONFIG + _json({"disable_root": False, "preserve_hostname": False}),
        "user-data": user_data or CONFIG + _json({}),
    }
    if random:
        texts["random"] = random
    # Without one cloud-init asks DHCP on the first card.
    known = all(card.mac for card in identity.cards)
    return texts | ({"network-config": _json(_network(identity.cards, identity.dns))} if known else {})


def _public_key(line: str) -> str:
    try:
        return public_key.normal_line(line)
    except ValueError as error:
        raise RecipeError(f"not a public key in OpenSSH's one-line form: {line[:40]!r}", str(error)) from None


def with_cards(texts: Mapping[str, bytes], cards: Sequence[CardSetup], dns: Sequence[str]) -> dict[str, bytes]:
    """Return the files of a seed that is there, with other network cards.

    A guest of this version of builder sets them up at its next boot, and stays what it is in all else.

    Args:
        texts: the files, by name.

    Raises:
        RecipeError: cards and name servers do not fit each other.
    """
    check_cards(cards, dns)
    lines = texts["builder.conf"].decode().splitlines()
    kept = [line for line in lines if line.partition("=")[0] not in ("card", "address", "gateway", "dns")]
    conf = "\n".join([*kept, *_card_lines(cards, dns)]) + "\n"
    return {**texts, "builder.conf": conf.encode(), "network-config": _json(_network(cards, dns))}


def _builder_conf(identity: Identity) -> str:
    lines = [f"instance-id={identity.instance_id}", f"hostname={identity.hostname}"]
    lines += [f"ssh-key={key}" for key in identity.ssh_keys]
    card, *others = identity.cards
    if others or not card.plain or any(":" in server for server in identity.dns):
        return "\n".join([*lines, *_card_lines(identity.cards, identity.dns)]) + "\n"
    # A seed that images of all ages understand.
    if card.addresses:
        lines.append(f"address={card.addresses[0]}")
    if card.gateways:
        lines.append(f"gateway={card.gateways[0]}")
    if identity.dns:
        lines.append("dns=" + ",".join(identity.dns))
    return "\n".join(lines) + "\n"


def _card_lines(cards: Sequence[CardSetup], dns: Sequence[str]) -> Iterator[str]:
    """Yield one line a card: its MAC address, and words that the first-boot unit knows."""
    for number, card in enumerate(cards):
        if card.mac is None:
            raise ValueError("a guest finds its cards by their MAC addresses")
        words = [*(["dhcp"] if card.dhcp else []), *card.addresses, *(f"via={router}" for router in card.gateways)]
        words += [f"no-default{family}" for family in _families_elsewhere(cards, number)]
        if dns:
            words += [f"dns={server}" for server in dns] if dns_card(cards, dns) == number else ["no-dns"]
        yield f"card={card.mac} {' '.join(words)}"


def _families_elsewhere(cards: Sequence[CardSetup], number: int) -> list[Family]:
    """Return the families whose default route leads over another card, so that this one must not take one."""
    return [family for family in FAMILIES if default_card(cards, family) not in (None, number)]


def _network(cards: Sequence[CardSetup], dns: Sequence[str]) -> dict[str, object]:
    """Return netplan's form of the network, which cloud-init writes for whatever the system uses.

    A card is found by its address and renamed: on EL cloud-init takes the name of the entry for that of the card, and
    a pattern for none (cloud-init 22.4, net/network_state.py).
    """
    return {"version": 2, "ethernets": {f"eth{number}": _entry(cards, dns, number) for number in range(len(cards))}}


def _entry(cards: Sequence[CardSetup], dns: Sequence[str], number: int) -> dict[str, object]:
    card = cards[number]
    nic: dict[str, object] = {"match": {"macaddress": card.mac}, "set-name": f"eth{number}"}
    asks_here = not dns or dns_card(cards, dns) == number
    if card.dhcp:
        nic["dhcp4"] = True
        # For sysconfig files cloud-init knows the metric alone.
        away = {"use-routes": False, "route-metric": AWAY} if 4 in _families_elsewhere(cards, number) else {}
        overrides = away | ({} if asks_here else {"use-dns": False})
        if overrides:
            nic["dhcp4-overrides"] = overrides
    if card.addresses:
        nic["addresses"] = list(card.addresses)
    if card.address(6):
        nic["accept-ra"] = False
    if router := card.gateway(4):
        nic["routes"] = [{"to": "0.0.0.0/0", "via": router}]
    if router := card.gateway(6):
        # Of a route to ::/0 cloud-init makes one to ::/64 (its issue 4600), except for netplan.
        nic["gateway6"] = router
    if dns and asks_here:
        nic["nameservers"] = {"addresses": list(dns)}
    return nic


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
