"""The files of a seed CD, which gives a machine its identity.

Invariant: an `Identity` that exists is valid; the guest that reads the seed trusts nothing and checks again.

The files hold the same facts twice: NoCloud's three for images with cloud-init, and a flat builder.conf for the
first-boot unit of images without it. (NoCloud: https://docs.cloud-init.io, "NoCloud"; JSON is valid YAML.)
"""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import dataclass

from builder.errors import RecipeError

LABEL = "cidata"
_HOSTNAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9-]{0,62})(\.[A-Za-z0-9]([A-Za-z0-9-]{0,62}))*")
_KEY = re.compile(r"(ssh|ecdsa|sk)-[A-Za-z0-9@.-]+ [A-Za-z0-9+/]+={0,3}( [ -~]*)?")


@dataclass(frozen=True)
class Identity:
    """Identity of one machine.

    Args:
        instance_id: the guest acts when it differs from the one it recorded.
        ssh_keys: public keys for root, one line each.
        address: static IPv4 address with prefix length (`192.168.10.19/24`); None leaves DHCP.
        gateway: must lie in the address's network.
        dns: name servers, for a machine with a static address.

    Raises:
        RecipeError: a value is malformed, or the gateway lies outside the address's network.
    """

    instance_id: str
    hostname: str
    ssh_keys: tuple[str, ...] = ()
    address: str | None = None
    gateway: str | None = None
    dns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check(self)


def files(identity: Identity) -> dict[str, bytes]:
    """Return the files of the seed CD, by name."""
    return {
        "builder.conf": _builder_conf(identity).encode(),
        "meta-data": _json({"instance-id": identity.instance_id, "local-hostname": identity.hostname}),
        "user-data": b"#cloud-config\n"
        + _json({"disable_root": False, "ssh_authorized_keys": list(identity.ssh_keys), "preserve_hostname": False}),
        "network-config": _json(_network(identity)),
    }


def _check(identity: Identity) -> None:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", identity.instance_id):
        raise RecipeError(f"instance-id {identity.instance_id!r} is refused", "letters, digits, '.', '_' and '-' only")
    if not _HOSTNAME.fullmatch(identity.hostname):
        raise RecipeError(f"hostname {identity.hostname!r} is refused", "letters, digits, '-' and '.' only")
    for key in identity.ssh_keys:
        if not _KEY.fullmatch(key):
            raise RecipeError(f"not a public key in OpenSSH's one-line form: {key[:40]!r}")
    try:
        for server in identity.dns:
            ipaddress.IPv4Address(server)
        if identity.address is None:
            return
        interface = ipaddress.IPv4Interface(identity.address)
        gateway = ipaddress.IPv4Address(identity.gateway) if identity.gateway else None
    except ValueError as error:
        raise RecipeError(f"bad address: {error}") from None
    if "/" not in identity.address:
        raise RecipeError(f"address {identity.address} has no prefix length", hint=f"write {identity.address}/24")
    whole = interface.network
    if whole.prefixlen < 31 and interface.ip in (whole.network_address, whole.broadcast_address):
        raise RecipeError(
            f"{interface.ip} cannot be assigned to a VM: it is the network or broadcast address of {whole}"
        )
    if gateway == interface.ip:
        raise RecipeError(f"address {interface.ip} is the address of the gateway", hint="a VM cannot be its own router")
    if gateway is not None and gateway not in interface.network:
        raise RecipeError(
            f"gateway {gateway} lies outside {interface.network}",
            hint="a gateway is reached directly, so it must be in the machine's own network",
        )


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


def _network(identity: Identity) -> dict[str, object]:
    nic: dict[str, object] = {"match": {"name": "e*"}}
    if identity.address is None:
        nic["dhcp4"] = True
    else:
        nic["addresses"] = [identity.address]
        if identity.gateway:
            nic["routes"] = [{"to": "0.0.0.0/0", "via": identity.gateway}]
        if identity.dns:
            nic["nameservers"] = {"addresses": list(identity.dns)}
    return {"version": 2, "ethernets": {"nic0": nic}}


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
