"""The one rule: pools and networks of libvirt are looked at and changed here, by name; machines are not.

Those are `builder.adapters.hypervisor`'s. Looking starts no daemon where none runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import libvirt

from builder.adapters import daemon
from builder.errors import HostError


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
    """What libvirt has, and its version.

    QEMU's own is not asked for here: a daemon that has just started would look at every QEMU first, for seconds.
    """

    libvirt: str
    pools: tuple[Pool, ...]
    networks: tuple[Net, ...]


def version() -> str:
    """Version of libvirt on this host; no daemon has to run."""
    return _version(libvirt.getVersion())


def inventory(uri: str) -> Inventory:
    """Ask a daemon that runs (or that systemd starts on a connection).

    Raises:
        HostError: it does not answer.
    """
    with _told(f"libvirt does not answer at {uri}"), _open(uri) as connection:
        return Inventory(
            libvirt=_version(connection.getLibVersion()),
            pools=tuple(_pool(pool) for pool in connection.listAllStoragePools(0)),
            networks=tuple(_net(network) for network in connection.listAllNetworks(0)),
        )


def define_pool(uri: str, name: str, path: Path) -> None:
    """Make a directory known to libvirt as a pool that starts by itself; one that is there already is started.

    Raises:
        HostError: libvirt refuses.
    """
    daemon.ensure(uri)
    with _told(f"libvirt refuses the pool {name}"), _open(uri) as connection:
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
    with _told(f"libvirt could not forget the pool {name}"), _open(uri) as connection:
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
    with _told("libvirt refuses the network"), _open(uri) as connection:
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
    with _told(f"libvirt could not forget the network {name}"), _open(uri) as connection:
        for network in connection.listAllNetworks(0):
            if network.name() == name:
                if network.isActive():
                    network.destroy()
                network.undefine()


def pool_xml(name: str, path: Path) -> str:
    """The description of a directory pool (https://libvirt.org/formatstorage.html)."""
    pool = ET.Element("pool", type="dir")
    ET.SubElement(pool, "name").text = name
    ET.SubElement(ET.SubElement(pool, "target"), "path").text = str(path)
    return ET.tostring(pool, encoding="unicode")


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
    libvirt.registerErrorHandler(lambda *_: None, None)
    connection = libvirt.open(uri)
    try:
        yield connection
    finally:
        connection.close()


@contextmanager
def _told(brief: str) -> Iterator[None]:
    try:
        yield
    except libvirt.libvirtError as error:
        raise HostError(brief, details=str(error)) from error
