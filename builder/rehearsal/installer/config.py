# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""Configure the new system: each command of the kickstart leaves the file that Anaconda would leave.

What cannot be done although the kickstart asks for it ends the install, as there (rhel7-branch, kickstart.py).
"""

from __future__ import annotations

import ipaddress
import re
import uuid
from collections.abc import Collection
from pathlib import Path
from typing import Any

from . import log, program
from .disk.storage import ROOT
from .parse import KickstartError

AUTHENTICATION = frozenset({"auth", "authconfig", "authselect"})


def _write(place: str, text: str, mode: int = 0o644) -> None:
    path = ROOT / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _set(place: str, key: str, value: str) -> None:
    """Replace KEY=value in a file, or add it."""
    path = ROOT / place
    text = path.read_text() if path.exists() else ""
    line = f"{key}={value}"
    text, count = re.subn(rf"(?m)^{re.escape(key)}=.*$", lambda _: line, text)
    _write(place, text if count else f"{text}{line}\n")


def language(ks: Any) -> None:
    """lang."""
    lang = ks.lang.lang or "en_US.UTF-8"
    _write("etc/locale.conf", f'LANG="{lang}"\n')
    _write("etc/default/locale", f'LANG="{lang}"\n')
    if lang not in ("en_US.UTF-8", "C.UTF-8", "C", "POSIX"):
        log.write("WARNING", "anaconda", f"the rehearsal has no locale {lang}: programs will speak C")


def ntp_servers(ks: Any) -> list[str]:
    """What timezone or, from EL9 on, timesource names."""
    named = list(getattr(ks.timezone, "ntpservers", None) or ())
    sources: list[Any] = getattr(getattr(ks, "timesource", None), "dataList", list)()
    return [*named, *(source.ntp_server for source in sources if source.ntp_server)]


def keyboard(ks: Any) -> None:
    """keyboard: of the console."""
    keymap = ks.keyboard.vc_keymap or ks.keyboard._keyboard or "us"
    _write("etc/vconsole.conf", f'KEYMAP="{keymap}"\nFONT="latarcyrheb-sun16"\n')


def time_zone(ks: Any) -> None:
    """timezone; an unknown zone is America/New_York, as in Anaconda."""
    zone = ks.timezone.timezone or "America/New_York"
    if not (ROOT / "usr/share/zoneinfo" / zone).is_file():
        log.error("anaconda", f"Timezone {zone} set in kickstart is not valid.")
        zone = "America/New_York"
    local = ROOT / "etc/localtime"
    local.unlink(missing_ok=True)
    local.symlink_to(f"../usr/share/zoneinfo/{zone}")
    _write("etc/timezone", f"{zone}\n")
    _write("etc/adjtime", f"0.0 0 0.0\n0\n{'UTC' if ks.timezone.isUtc else 'LOCAL'}\n")
    if ntp_servers(ks) and (ROOT / "etc/chrony").is_dir():
        servers = "".join(f"server {server} iburst\n" for server in ntp_servers(ks))
        _write("etc/chrony/chrony.conf", f"{servers}driftfile /var/lib/chrony/drift\nmakestep 1.0 3\nrtcsync\n")


def devices() -> list[str]:
    """The machine's network interfaces, by name."""
    return sorted(entry.name for entry in Path("/sys/class/net").iterdir() if entry.name != "lo")


def _device(wanted: str, names: list[str]) -> str | None:
    if wanted in ("", "link"):
        return names[0] if names else None
    if re.fullmatch(r"(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}", wanted):
        for name in names:
            if Path(f"/sys/class/net/{name}/address").read_text().strip() == wanted.lower():
                return name
        return None
    return wanted


def ifcfg(data: Any, device: str, *, identity: str) -> str:
    """The text of ifcfg-DEVICE for one network line."""
    static = data.bootProto == "static" or (data.ip and data.bootProto not in ("dhcp", "bootp"))
    lines = ['TYPE="Ethernet"', f'BOOTPROTO="{"none" if static else data.bootProto or "dhcp"}"', 'DEFROUTE="yes"']
    if data.nodefroute:
        lines[-1] = 'DEFROUTE="no"'
    if static:
        lines.append(f'IPADDR="{data.ip}"')
        if data.netmask:
            lines.append(f'PREFIX="{ipaddress.IPv4Network(f"0.0.0.0/{data.netmask}").prefixlen}"')
        if data.gateway:
            lines.append(f'GATEWAY="{data.gateway}"')
    servers = [] if data.nodns else [server for server in (data.nameserver or "").split(",") if server]
    lines += [f'DNS{number}="{server}"' for number, server in enumerate(servers, start=1)]
    if data.nodns and not static:
        lines.append('PEERDNS="no"')
    if data.mtu:
        lines.append(f'MTU="{data.mtu}"')
    lines.append('IPV4_FAILURE_FATAL="no"')
    lines.append(f'IPV6INIT="{"no" if data.noipv6 else "yes"}"')
    lines += [f'NAME="{device}"', f'UUID="{identity}"', f'DEVICE="{device}"']
    lines.append(f'ONBOOT="{"yes" if data.onboot or data.activate else "no"}"')
    return "\n".join([*lines, ""])


def keyfile(data: Any, device: str, *, identity: str) -> str:
    """The text of DEVICE.nmconnection for one network line, in NetworkManager's form (nm-settings-keyfile(5))."""
    static = data.bootProto == "static" or (data.ip and data.bootProto not in ("dhcp", "bootp"))
    lines = ["[connection]", f"id={device}", f"uuid={identity}", "type=ethernet"]
    lines += [] if data.onboot or data.activate else ["autoconnect=false"]
    lines += [f"interface-name={device}", "", "[ethernet]", *([f"mtu={data.mtu}"] if data.mtu else []), "", "[ipv4]"]
    if static:
        length = ipaddress.IPv4Network(f"0.0.0.0/{data.netmask}").prefixlen if data.netmask else 24
        lines.append(f"address1={data.ip}/{length}{f',{data.gateway}' if data.gateway else ''}")
    servers = [] if data.nodns else [server for server in (data.nameserver or "").split(",") if server]
    lines += [f"dns={''.join(f'{server};' for server in servers)}"] if servers else []
    lines += ["ignore-auto-dns=true"] if data.nodns and not static else []
    lines += [f"method={'manual' if static else 'auto'}"]
    lines += ["never-default=true"] if data.nodefroute else []
    lines += ["", "[ipv6]", "addr-gen-mode=eui64", f"method={'disabled' if data.noipv6 else 'auto'}", "", "[proxy]"]
    return "\n".join([*lines, ""])


def plain_device(data: Any) -> str | None:
    """The interface that a line configures here: the first one of a bond, team or bridge, none of a VLAN."""
    if data.vlanid:
        return None
    below = [*str(data.bondslaves or data.bridgeslaves or "").split(","), *(name for name, _ in data.teamslaves)]
    return next((name for name in below if name), data.device or "")


def hostname_only(data: Any) -> bool:
    """Is this `network --hostname=NAME` and nothing else? Such a line configures no interface."""
    return bool(data.hostname) and str(data) == str(type(data)(hostname=data.hostname))


def network(ks: Any) -> None:
    """network lines, hostname, and the default file of every interface that no line names."""
    names = devices()
    done = set()
    for data in ks.network.network:
        if hostname_only(data):
            continue
        wanted = plain_device(data)
        if wanted is None:
            continue
        device = _device(wanted, names)
        if device is None:
            log.write("WARNING", "ifcfg", f"no interface for the network command of line {data.lineno}")
            continue
        write = _write_keyfile if ks.release.keyfiles else _write_ifcfg
        write(data, device)
        done.add(device)
    for device in [] if ks.release.keyfiles else names:
        if device not in done:
            lines = ['TYPE="Ethernet"', 'BOOTPROTO="dhcp"', f'NAME="{device}"', f'UUID="{uuid.uuid4()}"']
            text = "\n".join([*lines, f'DEVICE="{device}"', 'ONBOOT="no"', ""])
            _write(f"etc/sysconfig/network-scripts/ifcfg-{device}", text)
    _write("etc/sysconfig/network", "# Created by anaconda\n")
    host = next((data.hostname for data in reversed(ks.network.network) if data.hostname), "localhost.localdomain")
    _write("etc/hostname", f"{host}\n")


def _write_ifcfg(data: Any, device: str) -> None:
    _write(f"etc/sysconfig/network-scripts/ifcfg-{device}", ifcfg(data, device, identity=str(uuid.uuid4())))


def _write_keyfile(data: Any, device: str) -> None:
    # One that others may read is ignored.
    text = keyfile(data, device, identity=str(uuid.uuid4()))
    _write(f"etc/NetworkManager/system-connections/{device}.nmconnection", text, 0o600)


def machine_id() -> None:
    """A new identity, as installing systemd gives on EL7; a kickstart that seals an image empties it."""
    _write("etc/machine-id", f"{uuid.uuid4().hex}\n", 0o444)


def selinux(ks: Any) -> None:
    """selinux: 0 disabled, 1 enforcing, 2 permissive; without the command the package's own default stays."""
    if "selinux" in ks.seen_commands:
        mode = {0: "disabled", 1: "enforcing", 2: "permissive"}.get(ks.selinux.selinux, "enforcing")
        _set("etc/selinux/config", "SELINUX", mode)


def service(name: str) -> str:
    """The unit that a name means: a timer's is none (kickstart.py: Services)."""
    return name if name.endswith(".service") else f"{name}.service"


def services(ks: Any, units: list[str]) -> None:
    """Services of chosen packages, then the services command; a unit that does not exist is only logged."""
    for unit in units:
        program.run("systemctl", "enable", unit, root=ROOT, check=False)
    for action, names in (("disable", ks.services.disabled), ("enable", ks.services.enabled)):
        for name in names:
            program.run("systemctl", action, service(name), root=ROOT, check=False)


def authentication(ks: Any, chosen: Collection[str]) -> None:
    """auth, authconfig and authselect: that what they run is there; it is not run.

    Raises:
        KickstartError: it was excluded.
    """
    needed = ks.release.authentication
    if AUTHENTICATION & ks.seen_commands and needed not in chosen:
        folder = "/usr/sbin" if needed == "authconfig" else "/usr/bin"
        raise KickstartError(f"{folder}/{needed} is missing. Cannot setup authentication.")


def firewall(ks: Any, chosen: Collection[str]) -> None:
    """firewall: that what it runs is there; it is not run.

    Raises:
        KickstartError: it is to be enabled, and firewalld was excluded.
    """
    if ks.firewall.enabled and not ks.firewall.use_system_defaults and "firewalld" not in chosen:
        raise KickstartError("/usr/bin/firewall-offline-cmd is missing. Cannot setup firewall.")


def desktop(ks: Any) -> None:
    """xconfig and skipx: what is started at boot (desktop.py)."""
    if ks.xconfig.defaultdesktop:
        _write("etc/sysconfig/desktop", f"DESKTOP={ks.xconfig.defaultdesktop}\n")
    kind = "graphical" if ks.xconfig.startX and not ks.skipx.skipx else "multi-user"
    target = ROOT / "etc/systemd/system/default.target"
    target.unlink(missing_ok=True)
    target.symlink_to(f"/lib/systemd/system/{kind}.target")


def apply(ks: Any, units: list[str], chosen: Collection[str]) -> None:
    """Everything but network and users, in Anaconda's order.

    Args:
        units: services of the packages that were chosen.
        chosen: these packages.

    Raises:
        KickstartError: a program that a command needs was excluded.
    """
    machine_id()
    authentication(ks, chosen)
    selinux(ks)
    services(ks, units)
    keyboard(ks)
    time_zone(ks)
    language(ks)
    firewall(ks, chosen)
    desktop(ks)
