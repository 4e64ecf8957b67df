"""Checks of the network, from /proc and /sys where possible: uplink, bridges, ifcfg files, forwarding, firewall."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from builder.errors import BuilderError
from builder.host import distro as host_system
from builder.host.finding import HostFinding, read
from builder.host.network import ifcfg
from builder.system import process

NET = Path("/sys/class/net")
# Where iptables-nft keeps its chains of the hook forward.
IPTABLES = (("ip", "filter", "FORWARD"), ("ip6", "filter", "FORWARD"), ("ip", "mangle", "FORWARD"))


def rows() -> Iterator[HostFinding]:
    """Uplink, bridges, ifcfg files, forwarding, firewall."""
    yield _uplink()
    yield _bridges()
    yield from _ifcfg()
    yield from _forwarding()
    yield _firewall()


def default_route() -> tuple[str, str] | None:
    """Interface and gateway of the IPv4 default route with the lowest metric."""
    found = []
    for line in read("/proc/net/route").splitlines()[1:]:
        fields = line.split()
        if len(fields) > 7 and fields[1] == "00000000" and fields[7] == "00000000":
            gateway = socket.inet_ntoa(struct.pack("=L", int(fields[2], 16)))
            found.append((int(fields[6]), fields[0], gateway))
    return min(found)[1:] if found else None


def wireless(name: str) -> bool:
    """Return whether an interface is Wi-Fi: access points drop frames of MAC addresses other than the host's own."""
    return (NET / name / "wireless").exists() or (NET / name / "phy80211").exists()


def bridge_of(name: str) -> str | None:
    """The bridge that an interface is a port of."""
    master = NET / name / "brport" / "bridge"
    return master.resolve().name if master.exists() else None


def bridges() -> dict[str, list[str]]:
    """Every bridge of the host with its ports."""
    if not NET.is_dir():
        return {}
    found = {}
    for path in sorted(NET.iterdir()):
        # A bridge may go, or be none any more, while the others are looked at.
        with suppress(FileNotFoundError, NotADirectoryError):
            found[path.name] = sorted(port.name for port in (path / "brif").iterdir())
    return found


def _uplink() -> HostFinding:
    route = default_route()
    if route is None:
        text = "no default route" if read("/proc/net/route") else "/proc is not mounted"
        return HostFinding("uplink", "info", text, "a medium that is not here yet cannot be downloaded")
    name, gateway = route
    if wireless(name):
        why = "a Wi-Fi card cannot carry a bridge: use the modes user or nat"
        return HostFinding("uplink", "info", f"{name} (Wi-Fi), gateway {gateway}", why)
    return HostFinding("uplink", "ok", f"{name}, gateway {gateway}")


def _bridges() -> HostFinding:
    uplink = default_route()
    found = bridges()
    with_card = {
        name: ports for name, ports in found.items() if any((NET / port / "device").exists() for port in ports)
    }
    if uplink and uplink[0] in found:
        return HostFinding("bridge", "ok", f"{uplink[0]} over {', '.join(found[uplink[0]]) or 'nothing'}")
    if with_card:
        return HostFinding(
            "bridge", "ok", ", ".join(f"{name} over {' '.join(ports)}" for name, ports in with_card.items())
        )
    over = uplink[0] if uplink and not wireless(uplink[0]) else None
    fix = f"builder host prepare --bridge br0 --uplink {over}" if over else ""
    return HostFinding("bridge", "info", "none over an uplink", "only network.mode: bridge needs one", fix)


def _ifcfg() -> Iterator[HostFinding]:
    files = {path.name: read(path) for path in ifcfg.FOLDER.glob("ifcfg-*")} if ifcfg.FOLDER.is_dir() else {}
    faults = list(ifcfg.faults(files))
    for fault in faults:
        yield HostFinding(
            "ifcfg", "warn", fault, "the network does not come up as it is meant to", f"vi {ifcfg.FOLDER}"
        )
    if files and not faults:
        yield HostFinding("ifcfg", "ok", f"{len(files)} files without a fault")


def _forwarding() -> Iterator[HostFinding]:
    value = read("/proc/sys/net/ipv4/ip_forward").strip()
    nat = [name for name in bridges() if name.startswith("virbr")]
    if value == "1":
        yield HostFinding("forwarding", "ok", "on")
    elif value == "0" and nat:
        why = "guests on it reach only this host; forwarding, which libvirt had switched on, was switched off"
        yield HostFinding(
            "forwarding", "warn", f"off, and {nat[0]} is a NAT network", why, "sysctl -w net.ipv4.ip_forward=1"
        )
    else:
        yield HostFinding(
            "forwarding", "info", "off" if value else "unknown", "libvirt switches it on with a NAT network"
        )


def _firewall() -> HostFinding:
    """Traps: a policy to drop what is forwarded, and br_netfilter that applies it to bridged guests, too.

    Docker sets both. A table of the family bridge sees bridged traffic without br_netfilter.
    """
    filtered = read("/proc/sys/net/bridge/bridge-nf-call-iptables").strip() == "1"
    drops = _forward_drops()
    silent = "guests on a bridge get no traffic from outside, without any message"
    for name in drops or ():
        if name.startswith("nft bridge "):
            return HostFinding(
                "firewall", "warn", f"drops bridged traffic by default ({name})", silent, "nft list ruleset bridge"
            )
    if filtered and (drops or (drops is None and Path("/proc/sys/net/netfilter").exists())):
        policy = f"drops what it does not know ({drops[0]})" if drops else "may drop it (only root sees)"
        fix = "sysctl -w net.bridge.bridge-nf-call-iptables=0"
        return HostFinding("firewall", "warn" if drops else "info", f"sees bridged traffic, and {policy}", silent, fix)
    if drops:
        why = "guests on a NAT network may be cut off; libvirt's own chains are looked at first where it runs"
        return HostFinding("firewall", "info", f"forwarded traffic is dropped by default ({drops[0]})", why)
    return HostFinding("firewall", "ok", "firewalld" if Path("/run/firewalld").exists() else "no trap found")


def _forward_drops() -> list[str] | None:
    """The chains that drop what is forwarded unless a rule lets it pass; None where that cannot be seen."""
    if os.geteuid() != 0:
        return None
    found = []
    if host_system.program("iptables"):
        for line in _asked(["iptables", "-w", "1", "-S", "FORWARD"]).splitlines():
            if line == "-P FORWARD DROP":
                found.append("iptables FORWARD")
    if host_system.program("nft"):
        found += nft_drops(_asked(["nft", "-j", "list", "chains"]))
    return found


def nft_drops(told: str) -> list[str]:
    """The same of `nft -j list chains`, but for the tables that iptables keeps there, which it shows itself."""
    try:
        entries = [each["chain"] for each in json.loads(told)["nftables"] if "chain" in each]
    except (ValueError, KeyError):
        return []
    return [
        f"nft {chain['family']} {chain['table']} {chain['name']}"
        for chain in entries
        if chain.get("hook") == "forward"
        and chain.get("policy") == "drop"
        and (chain["family"], chain["table"], chain["name"]) not in IPTABLES
    ]


def _asked(words: list[str]) -> str:
    try:
        return process.run(words, timeout=1, check=False).stdout
    except BuilderError:
        return ""
