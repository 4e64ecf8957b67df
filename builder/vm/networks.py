"""Pools and networks of libvirt: look them up, create and remove them, and reserve addresses.

Looking them up starts no daemon. Machines are in `builder.vm.connection`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from builder.errors import HostError
from builder.vm import capabilities, daemon
from builder.vm.capabilities import Capabilities
from builder.vm.libvirt_errors import library, libvirt_errors
from builder.vm.machine_spec import BridgeNet, LibvirtNet, Network, UserNet
from builder.vm.uri import kind_of

# The NAT network of `builder host prepare --nat`, and the one that libvirt's packages bring.
OWN, OTHER = "builder", "default"


@dataclass(frozen=True)
class Pool:
    """A directory pool: its name, whether it runs, and its directory."""

    name: str
    active: bool
    path: Path | None


@dataclass(frozen=True)
class Net:
    """A network: its name, whether it runs and starts by itself, its bridge and its description."""

    name: str
    active: bool
    autostart: bool
    bridge: str | None
    xml: str


@dataclass(frozen=True)
class Inventory:
    """Networks and version of libvirt.

    QEMU's own is not asked for here: a daemon that has just started would look at every QEMU first, for seconds.
    """

    libvirt: str
    pools: tuple[Pool, ...]
    networks: tuple[Net, ...]


def version() -> str:
    """Version of libvirt on this host; no daemon has to run."""
    return _version(library().getVersion())


def emulator(uri: str) -> str:
    """Return the path of the QEMU that libvirt starts for x86_64: RHEL and its kin keep it in no directory of PATH.

    Raises:
        HostError: libvirt does not answer, or knows no such QEMU.
    """
    daemon.ensure(uri)
    with libvirt_errors(f"libvirt has no QEMU for x86_64 at {uri}"), _open(uri) as connection:
        described = ET.fromstring(connection.getDomainCapabilities(None, "x86_64", None, None, 0))
    return described.findtext("path", "")


def inventory(uri: str) -> Inventory:
    """Ask a daemon that runs (or that systemd starts on a connection).

    Raises:
        HostError: it does not answer.
    """
    with libvirt_errors(f"libvirt does not answer at {uri}"), _open(uri) as connection:
        return Inventory(
            libvirt=_version(connection.getLibVersion()),
            pools=tuple(sorted((_pool(pool) for pool in connection.listAllStoragePools(0)), key=_name)),
            networks=tuple(sorted((_net(network) for network in connection.listAllNetworks(0)), key=_name)),
        )


def look_up(uri: str) -> tuple[Capabilities, float]:
    """Ask a daemon that runs for its capabilities, and measure a second look-up, in seconds.

    Raises:
        HostError: it does not answer.
    """
    with libvirt_errors(f"libvirt does not answer at {uri}"), _open(uri) as connection:
        found = capabilities.parse(connection.getCapabilities())
        return found, capabilities.look_up_seconds(connection)


def define_pool(uri: str, name: str, path: Path) -> None:
    """Make a directory known to libvirt as a pool that starts by itself; one that is there already is started.

    Raises:
        HostError: libvirt refuses.
    """
    daemon.ensure(uri)
    with libvirt_errors(f"libvirt refuses the pool {name}"), _open(uri) as connection:
        known = {pool.name(): pool for pool in connection.listAllStoragePools(0)}
        pool = known.get(name) or connection.storagePoolDefineXML(pool_xml(name, path), 0)
        pool.setAutostart(1)
        if not pool.isActive():
            pool.create(0)


def remove_pool(uri: str, name: str) -> None:
    """Make libvirt forget a pool; its directory and files stay.

    Raises:
        HostError: libvirt refuses.
    """
    daemon.ensure(uri)
    with libvirt_errors(f"libvirt could not forget the pool {name}"), _open(uri) as connection:
        for pool in connection.listAllStoragePools(0):
            if pool.name() == name:
                if pool.isActive():
                    pool.destroy()
                pool.undefine()


def define_network(uri: str, xml: str) -> None:
    """Define a network that starts by itself, and start it.

    Raises:
        HostError: libvirt refuses the description, or cannot start it.
    """
    daemon.ensure(uri)
    with libvirt_errors("libvirt refuses the network"), _open(uri) as connection:
        network = connection.networkDefineXML(xml)
        network.setAutostart(1)
        if not network.isActive():
            network.create()


def remove_network(uri: str, name: str) -> None:
    """Stop a network and make libvirt forget it.

    Raises:
        HostError: libvirt refuses.
    """
    daemon.ensure(uri)
    with libvirt_errors(f"libvirt could not forget the network {name}"), _open(uri) as connection:
        for network in connection.listAllNetworks(0):
            if network.name() == name:
                if network.isActive():
                    network.destroy()
                network.undefine()


def nat_network(uri: str) -> str:
    """The network that `nat` means on this host: builder's own if it was made, else libvirt's.

    Raises:
        HostError: libvirt does not answer.
    """
    daemon.ensure(uri)
    with libvirt_errors(f"libvirt does not answer at {uri}"), _open(uri) as connection:
        return OWN if OWN in {network.name() for network in connection.listAllNetworks(0)} else OTHER


def network_of(mode: str, name: str | None, uri: str) -> Network:
    """Return the network that a recipe's network.mode and network.name mean on this host.

    Raises:
        HostError: an ordinary user's libvirt has neither networks nor bridges; or this host has no such network.
    """
    if mode == "user":
        return UserNet()
    if kind_of(uri) == "session":
        raise HostError(
            f"network.mode: {mode} needs qemu:///system, not {uri}",
            hint="run as root, use --connect qemu:///system, or --set network.mode=user",
        )
    if mode == "bridge":
        bridge = name or "br0"
        if not Path(f"/sys/class/net/{bridge}/bridge").is_dir():
            raise HostError(f"this host has no bridge {bridge}", hint=f"builder host prepare --bridge {bridge}")
        return BridgeNet(bridge)
    wanted = name or nat_network(uri)
    network = next((known for known in inventory(uri).networks if known.name == wanted), None)
    if network is None:
        raise HostError(f"libvirt has no network {wanted}", hint="builder host prepare --nat 192.168.150.0/24")
    if not network.active:
        raise HostError(f"libvirt's network {wanted} is not running", hint=f"virsh net-start {wanted}")
    return LibvirtNet(wanted)


def reserve(
    uri: str,
    network: str,
    name: str,
    mac: str,
    *,
    wanted: str | None,
    before: str | None,
    beside: Collection[str],
    taken: Collection[str],
) -> str | None:
    """Give a guest the same IPv4 address at every start.

    Args:
        name: of the guest; a reservation that another guest of this name left is dropped.
        mac: of the guest's card.
        wanted: the address; None takes a free one, if possible one that DHCP does not hand out.
        before: the address that the card had here, which it gets again while it is free.
        beside: MAC addresses of the guest's other cards. One name is one address: a card that bears it keeps it.
        taken: addresses that others have without a word to libvirt.

    Returns:
        The address; None where libvirt hands no addresses out, or has no free one.

    Raises:
        HostError: libvirt refuses.
    """
    daemon.ensure(uri)
    with libvirt_errors(f"no address could be reserved on the network {network}"), _open(uri) as connection:
        found = connection.networkLookupByName(network)
        ip = _handed_out(found)
        if ip is None:
            return None
        subnet = ipaddress.IPv4Interface(f"{ip.get('address')}/{ip.get('netmask') or ip.get('prefix')}")
        if wanted and ipaddress.IPv4Address(wanted) not in subnet.network:
            return None
        bearers = {host.get("mac") for host in ip.iterfind("dhcp/host") if host.get("name") == name}
        named = {} if bearers & set(beside) else {"name": name}
        _drop(found, ip, lambda host: host.get("mac") == mac or (bool(named) and host.get("name") == name))
        for address in [wanted] if wanted else _free(found, ip, subnet, mac, before, taken):
            entry = ET.tostring(ET.Element("host", {"mac": mac, **named, "ip": address}), encoding="unicode")
            try:
                _update(found, library().VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, entry)
            except library().libvirtError as fault:
                # Somebody else was faster.
                if wanted or fault.get_error_code() != library().VIR_ERR_OPERATION_INVALID:
                    raise
                continue
            return address
    return None


def release(uri: str, network: str, mac: str) -> None:
    """Take a reservation back; nothing is done where there is none.

    Raises:
        HostError: libvirt refuses.
    """
    daemon.ensure(uri)
    with libvirt_errors(f"an address of the network {network} could not be given back"), _open(uri) as connection:
        for found in connection.listAllNetworks(0):
            ip = _handed_out(found) if found.name() == network else None
            if ip is not None:
                _drop(found, ip, lambda host: host.get("mac") == mac)


def _handed_out(network: Any) -> ET.Element | None:
    """The part of a network's description that is about IPv4 addresses by DHCP."""
    parts = ET.fromstring(network.XMLDesc(0)).iterfind("ip")
    return next((ip for ip in parts if ip.get("family", "ipv4") == "ipv4" and ip.find("dhcp") is not None), None)


def _free(
    network: Any, ip: ET.Element, own: ipaddress.IPv4Interface, mac: str, before: str | None, taken: Collection[str]
) -> list[str]:
    leases = network.DHCPLeases() if network.isActive() else []
    used = {str(own.ip), *taken, *(host.get("ip") for host in ip.iterfind("dhcp/host") if host.get("mac") != mac)}
    used |= {lease["ipaddr"] for lease in leases if lease["mac"] != mac}
    address = ipaddress.IPv4Address
    ranges = [(address(one.get("start")), address(one.get("end"))) for one in ip.iterfind("dhcp/range")]
    free = [one for one in own.network.hosts() if str(one) not in used]
    # What it had first, then those outside the ranges (False sorts before True).
    order = sorted(free, key=lambda one: (str(one) != before, any(start <= one <= end for start, end in ranges)))
    return [str(one) for one in order]


def _drop(network: Any, ip: ET.Element, chosen: Callable[[ET.Element], bool]) -> None:
    for host in ip.findall("dhcp/host"):
        if chosen(host):
            _update(network, library().VIR_NETWORK_UPDATE_COMMAND_DELETE, ET.tostring(host, encoding="unicode"))


def _update(network: Any, command: int, entry: str) -> None:
    """In the description that is kept, and in the network that runs."""
    kept = library().VIR_NETWORK_UPDATE_AFFECT_CONFIG if network.isPersistent() else 0
    live = library().VIR_NETWORK_UPDATE_AFFECT_LIVE if network.isActive() else 0
    network.update(command, library().VIR_NETWORK_SECTION_IP_DHCP_HOST, -1, entry, kept | live)


def pool_xml(name: str, path: Path) -> str:
    """The description of a directory pool (https://libvirt.org/formatstorage.html)."""
    pool = ET.Element("pool", type="dir")
    ET.SubElement(pool, "name").text = name
    ET.SubElement(ET.SubElement(pool, "target"), "path").text = str(path)
    return ET.tostring(pool, encoding="unicode")


def _name(one: Pool | Net) -> str:
    return one.name


def _pool(pool: Any) -> Pool:
    path = ET.fromstring(pool.XMLDesc(0)).findtext("target/path")
    return Pool(pool.name(), bool(pool.isActive()), Path(path) if path else None)


def _net(network: Any) -> Net:
    xml = network.XMLDesc(0)
    bridge = ET.fromstring(xml).find("bridge")
    name = bridge.get("name") if bridge is not None else None
    return Net(network.name(), bool(network.isActive()), bool(network.autostart()), name, xml)


def _version(number: int) -> str:
    return f"{number // 1000000}.{number // 1000 % 1000}.{number % 1000}"


@contextmanager
def _open(uri: str) -> Iterator[Any]:
    library().registerErrorHandler(lambda *_: None, None)
    connection = library().open(uri)
    try:
        yield connection
    finally:
        connection.close()
