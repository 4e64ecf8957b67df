"""The files of a seed CD, which gives a machine its identity.

Invariant: an `Identity` that exists is valid; the guest that reads the seed trusts nothing and checks again.

The files hold the same facts twice: NoCloud's for images with cloud-init, and a flat builder.conf for the first-boot
unit of images without it. (NoCloud: https://docs.cloud-init.io, "NoCloud"; JSON is valid YAML.)

builder's wishes are vendor-data, so that user-data is whoever's clone it is, and wins. The keys are in meta-data, which
cloud-init adds to those of user-data; a list in vendor-data would give way to one there (cloud-init 22.4, cc_ssh.py).
"""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import dataclass

from builder.errors import RecipeError
from builder.guest import public_key
from builder.recipe import host_name

LABEL = "cidata"
_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")
# cloud-init renames the card to this: it is what first-boot configures, and what EL's files are named after.
CARD = "eth0"
CONFIG = b"#cloud-config\n"


@dataclass(frozen=True)
class Identity:
    """Identity of one machine.

    Args:
        instance_id: the guest acts when it differs from the one it recorded.
        ssh_keys: public keys for root, one line each; kept in their normal form.
        address: static IPv4 address with prefix length (`192.168.10.19/24`), kept in this form; None leaves DHCP.
        gateway: must lie in the address's network.
        dns: name servers, for a machine with a static address.
        mac: of its one network card; None where it is not known yet, and then it asks DHCP.

    Raises:
        RecipeError: a value is malformed, or the gateway lies outside the address's network.
    """

    instance_id: str
    hostname: str
    ssh_keys: tuple[str, ...] = ()
    address: str | None = None
    gateway: str | None = None
    dns: tuple[str, ...] = ()
    mac: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "ssh_keys", tuple(map(_public_key, self.ssh_keys)))
        if self.address is not None:
            object.__setattr__(self, "address", normal_address(self.address))
        _check(self)


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
    return texts | ({"network-config": _json(_network(identity, identity.mac))} if identity.mac else {})


def normal_address(text: str) -> str:
    """Return a static IPv4 address as `192.168.10.19/24`, also of one with a netmask (`192.168.10.19/255.255.255.0`).

    Raises:
        RecipeError: it is not an address that a machine can have, or has no prefix length.
    """
    try:
        interface = ipaddress.IPv4Interface(text)
    except ValueError as error:
        raise RecipeError(f"bad address: {error}") from None
    if "/" not in text:
        raise RecipeError(f"address {text} has no prefix length", hint=f"write {text}/24")
    address, whole = interface.ip, interface.network
    # A host mask (/0.0.0.255) is one of two readings of such a text.
    if "." in text.partition("/")[2] and text.partition("/")[2] != str(interface.netmask):
        raise RecipeError(
            f"address {text}: {text.partition('/')[2]} is not a netmask", hint=f"write {interface.with_prefixlen}"
        )
    if whole.prefixlen == 0:
        raise RecipeError(f"address {text}: a network has a prefix length of 1 to 32", hint=f"write {address}/24")
    special = address.is_loopback or address.is_multicast or address.is_reserved or address in _THIS_NETWORK
    if special or (whole.prefixlen < 31 and address in (whole.network_address, whole.broadcast_address)):
        what = "it is kept for special use" if special else f"it is the network or broadcast address of {whole}"
        raise RecipeError(f"{address} cannot be assigned to a VM: {what}")
    return interface.with_prefixlen


def _check(identity: Identity) -> None:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", identity.instance_id):
        raise RecipeError(f"instance-id {identity.instance_id!r} is refused", "letters, digits, '.', '_' and '-' only")
    if not host_name.is_host_name(identity.hostname):
        raise RecipeError(f"hostname {identity.hostname!r} is refused", host_name.FORM)
    if identity.mac is not None and not re.fullmatch(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", identity.mac):
        raise RecipeError(f"MAC address {identity.mac!r} is refused", "six pairs of small hex digits, joined by ':'")
    try:
        for server in identity.dns:
            ipaddress.IPv4Address(server)
        if identity.address is None:
            return
        interface = ipaddress.IPv4Interface(identity.address)
        gateway = ipaddress.IPv4Address(identity.gateway) if identity.gateway else None
    except ValueError as error:
        raise RecipeError(f"bad address: {error}") from None
    if gateway == interface.ip:
        raise RecipeError(f"address {interface.ip} is the address of the gateway", hint="a VM cannot be its own router")
    if gateway is not None and gateway not in interface.network:
        raise RecipeError(
            f"gateway {gateway} lies outside {interface.network}",
            hint="a gateway is reached directly, so it must be in the machine's own network",
        )


def _public_key(line: str) -> str:
    try:
        return public_key.normal_line(line)
    except ValueError as error:
        raise RecipeError(f"not a public key in OpenSSH's one-line form: {line[:40]!r}", str(error)) from None


def _builder_conf(identity: Identity) -> str:
    lines = [f"instance-id={identity.instance_id}", f"hostname={identity.hostname}"]
    lines += [f"ssh-key={key}" for key in identity.ssh_keys]
    if identity.address:
        lines.append(f"address={identity.address}")
    if identity.gateway:
        lines.append(f"gateway={identity.gateway}")
    if identity.dns:
        lines.append("dns=" + ",".join(identity.dns))
    return "\n".join(lines) + "\n"


def _network(identity: Identity, mac: str) -> dict[str, object]:
    """Return netplan's form of the network, which cloud-init writes for whatever the system uses.

    The card is found by its address and renamed: on EL cloud-init takes the name of the entry for that of the card, and
    a pattern for none (cloud-init 22.4, net/network_state.py).
    """
    nic: dict[str, object] = {"match": {"macaddress": mac}, "set-name": CARD}
    if identity.address is None:
        nic["dhcp4"] = True
    else:
        nic["addresses"] = [identity.address]
        if identity.gateway:
            nic["routes"] = [{"to": "0.0.0.0/0", "via": identity.gateway}]
        if identity.dns:
            nic["nameservers"] = {"addresses": list(identity.dns)}
    return {"version": 2, "ethernets": {CARD: nic}}


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
