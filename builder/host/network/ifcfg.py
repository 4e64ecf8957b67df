"""Write, read and check ifcfg files, in the form that initscripts of CentOS and RHEL 7 read.

Keys: /usr/share/doc/initscripts-*/sysconfig.txt and nm-settings-ifcfg-rh(5).
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from builder.host.finding import read
from builder.host.network.validate import BridgePlan, address_faults
from builder.system.netlink import Route

FOLDER = Path("/etc/sysconfig/network-scripts")
YES_NO = ("ONBOOT", "STP", "PEERDNS", "DEFROUTE", "IPV6INIT", "IPV6_AUTOCONF", "NM_CONTROLLED", "USERCTL", "DHCPV6C")
PROTOCOLS = ("none", "static", "dhcp", "bootp", "ibft", "autoip", "shared")
KEYS = (
    *YES_NO,
    *("TYPE", "DEVICE", "NAME", "UUID", "HWADDR", "MACADDR", "BOOTPROTO", "BRIDGE", "DELAY", "MTU", "VLAN", "ZONE"),
    *("IPADDR", "PREFIX", "NETMASK", "GATEWAY", "NETWORK", "BROADCAST", "DNS1", "DNS2", "DNS3", "DOMAIN", "METRIC"),
    *("IPV6ADDR", "IPV6ADDR_SECONDARIES", "IPV6_DEFAULTGW", "IPV6_PRIVACY", "IPV6_FAILURE_FATAL", "BRIDGING_OPTS"),
    *("IPV6_DEFROUTE", "IPV6_PEERDNS", "IPV6_PEERROUTES", "IPV6_ADDR_GEN_MODE", "IPV4_FAILURE_FATAL", "PROXY_METHOD"),
    *("BROWSER_ONLY", "PERSISTENT_DHCLIENT", "HOTPLUG", "MASTER", "SLAVE", "BONDING_OPTS", "ETHTOOL_OPTS", "ARPCHECK"),
)


def render(plan: BridgePlan) -> dict[Path, str]:
    """The two files of a bridge."""
    four, gateway, _ = plan.of(4)
    bridge = ["TYPE=Bridge", f"DEVICE={plan.bridge}", f"NAME={plan.bridge}", "ONBOOT=yes", f"MACADDR={plan.mac}"]
    bridge += ["STP=no", "DELAY=0", f"BOOTPROTO={'dhcp' if plan.dhcp else 'none'}"]
    for number, text in enumerate(four):
        address = ipaddress.ip_interface(text)
        suffix = str(number) if number else ""
        bridge += [f"IPADDR{suffix}={address.ip}", f"PREFIX{suffix}={address.network.prefixlen}"]
    if gateway:
        bridge.append(f"GATEWAY={gateway}")
    bridge += [f"DNS{number}={server}" for number, server in enumerate(plan.dns, 1)]
    bridge += _six(plan)
    if plan.mtu:
        bridge.append(f"MTU={plan.mtu}")
    uplink = ["TYPE=Ethernet", f"DEVICE={plan.uplink}", f"NAME={plan.uplink}", f"HWADDR={plan.mac}", "ONBOOT=yes"]
    uplink += ["BOOTPROTO=none", f"BRIDGE={plan.bridge}"]
    if plan.mtu:
        uplink.append(f"MTU={plan.mtu}")
    files = {f"ifcfg-{plan.bridge}": bridge, f"ifcfg-{plan.uplink}": uplink}
    for name, version in (("route", 4), ("route6", 6)):
        routes = [_route(route, plan.bridge) for route in plan.routes if route.version == version]
        if routes:
            files[f"{name}-{plan.bridge}"] = routes
    return {FOLDER / name: "".join(f"{line}\n" for line in lines) for name, lines in files.items()}


def others(uplink: str) -> list[str]:
    """Files of another name that are for this card."""
    found = {path.name: parse(read(path)) for path in sorted(FOLDER.glob("ifcfg-*"))} if FOLDER.is_dir() else {}
    return [name for name, values in found.items() if values.get("DEVICE") == uplink and name != f"ifcfg-{uplink}"]


def _route(route: Route, bridge: str) -> str:
    """A line of a route file: the words of `ip route add` (ifup-routes)."""
    words = [route.network, *(["via", route.gateway] if route.gateway else []), "dev", bridge]
    words += ["metric", str(route.priority)] if route.priority else []
    for key, value in route.options():
        words += ["onlink"] if key == "onlink" else [key, value]
    return " ".join(words)


def _six(plan: BridgePlan) -> Iterator[str]:
    addresses, gateway, _ = plan.of(6)
    if not addresses:
        yield "IPV6INIT=yes" if plan.dhcp or plan.auto6 else "IPV6INIT=no"
        return
    yield from ("IPV6INIT=yes", f"IPV6_AUTOCONF={'yes' if plan.auto6 else 'no'}", f"IPV6ADDR={addresses[0]}")
    if len(addresses) > 1:
        yield f'IPV6ADDR_SECONDARIES="{" ".join(addresses[1:])}"'
    if gateway:
        yield f"IPV6_DEFAULTGW={gateway}"


def faults(files: Mapping[str, str]) -> Iterator[str]:
    """Return the faults of a set of files given by name (`ifcfg-br0`), a line each."""
    parsed = {name: parse(text) for name, text in files.items()}
    bridges = {values.get("DEVICE", name[6:]) for name, values in parsed.items() if values.get("TYPE") == "Bridge"}
    for name, values in sorted(parsed.items()):
        for fault in _faults(values, bridges):
            yield f"{name}: {fault}"


def parse(text: str) -> dict[str, str]:
    """The assignments of a file, unquoted; what is no assignment is left out."""
    found = {}
    for line in text.splitlines():
        match = re.fullmatch(r"\s*(?:export\s+)?([A-Za-z_0-9]+)=(.*)", line)
        if match:
            try:
                words = shlex.split(match[2], comments=True)
            except ValueError:
                words = [match[2]]
            found[match[1]] = words[0] if words else ""
    return found


def _faults(values: Mapping[str, str], bridges: set[str]) -> Iterator[str]:
    for key, value in values.items():
        plain = re.sub(r"(?<=IPADDR|PREFIX)\d+$|(?<=NETMASK|GATEWAY)\d+$", "", key)
        close = difflib.get_close_matches(key.upper(), KEYS, 1, 0.75)
        if plain not in KEYS and close:
            yield f"{key}={value}: no such key; {close[0]} is meant"
        elif plain in YES_NO and value.lower() not in ("yes", "no"):
            meant = f"; BRIDGE={value} is meant" if value in bridges else ""
            yield f"{key}={value}: must be yes or no{meant}"
    protocol = values.get("BOOTPROTO")
    if protocol is not None and protocol.lower() not in PROTOCOLS:
        close = difflib.get_close_matches(protocol.lower(), PROTOCOLS, 1)
        yield f"BOOTPROTO={protocol}: no such protocol" + (f"; {close[0]} is meant" if close else "")
    bridge = values.get("BRIDGE")
    if bridge and bridge not in bridges:
        yield f"BRIDGE={bridge}: no file has TYPE=Bridge and DEVICE={bridge}"
    if bridge and ("IPADDR" in values or protocol == "dhcp"):
        yield f"an address on a port of {bridge}: it belongs into the file of {bridge}"
    yield from _addresses(values)


def _addresses(values: Mapping[str, str]) -> Iterator[str]:
    cidrs = []
    for key, value in values.items():
        match = re.fullmatch(r"IPADDR(\d*)", key)
        if not match:
            continue
        prefix = values.get(f"PREFIX{match[1]}") or values.get(f"NETMASK{match[1]}")
        if prefix is None:
            yield f"{key}={value}: neither PREFIX{match[1]} nor NETMASK{match[1]}"
            prefix = "24"
        cidrs.append(f"{value}/{prefix}")
    gateways = [values["GATEWAY"]] if "GATEWAY" in values else []
    yield from address_faults(cidrs, gateways, [values[key] for key in ("DNS1", "DNS2", "DNS3") if key in values])
