# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""Configure the new system: each command of the kickstart leaves the EL7 file that Anaconda would leave.

Invariant: passwords are passed through standard input only.
"""

from __future__ import annotations

import ipaddress
import re
import uuid
from pathlib import Path
from typing import Any

from . import log, program
from .storage import ROOT

SCRIPTS = ROOT / "etc/sysconfig/network-scripts"


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
    """lang and keyboard."""
    lang = ks.lang.lang or "en_US.UTF-8"
    _write("etc/locale.conf", f'LANG="{lang}"\n')
    _write("etc/default/locale", f'LANG="{lang}"\n')
    if lang not in ("en_US.UTF-8", "C.UTF-8", "C", "POSIX"):
        log.write("WARNING", "anaconda", f"the rehearsal has no locale {lang}: programs will speak C")
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
    if ks.timezone.ntpservers and (ROOT / "etc/chrony").is_dir():
        servers = "".join(f"server {server} iburst\n" for server in ks.timezone.ntpservers)
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
        device = _device(data.device or "", names)
        if device is None:
            log.write("WARNING", "ifcfg", f"no interface for the network command of line {data.lineno}")
            continue
        _write(f"etc/sysconfig/network-scripts/ifcfg-{device}", ifcfg(data, device, identity=str(uuid.uuid4())))
        done.add(device)
    for device in names:
        if device not in done:
            lines = ['TYPE="Ethernet"', 'BOOTPROTO="dhcp"', f'NAME="{device}"', f'UUID="{uuid.uuid4()}"']
            text = "\n".join([*lines, f'DEVICE="{device}"', 'ONBOOT="no"', ""])
            _write(f"etc/sysconfig/network-scripts/ifcfg-{device}", text)
    _write("etc/sysconfig/network", "# Created by anaconda\n")
    host = next((data.hostname for data in reversed(ks.network.network) if data.hostname), "localhost.localdomain")
    _write("etc/hostname", f"{host}\n")


def machine_id() -> None:
    """A new identity, as installing systemd gives on EL7; a kickstart that seals an image empties it."""
    _write("etc/machine-id", f"{uuid.uuid4().hex}\n", 0o444)


def _groups(names: list[str]) -> None:
    for name in names:
        program.run("groupadd", "-f", name, root=ROOT)


def users(ks: Any) -> None:
    """rootpw, user and sshkey."""
    root = ks.rootpw
    if root.password:
        _password("root", root.password, encrypted=root.isCrypted)
    if root.lock or not root.password:
        program.run("usermod", "--lock", "root", root=ROOT)
    for data in ks.user.userList:
        _groups(data.groups)
        words = ["--create-home", "--shell", data.shell or "/bin/bash"]
        words += ["--uid", str(data.uid)] if data.uid else []
        words += ["--comment", data.gecos] if data.gecos else []
        words += ["--home-dir", data.homedir] if data.homedir else []
        words += ["--groups", ",".join(data.groups)] if data.groups else []
        program.run("useradd", *words, data.name, root=ROOT)
        if data.password:
            _password(data.name, data.password, encrypted=data.isCrypted)
        if data.lock:
            program.run("usermod", "--lock", data.name, root=ROOT)
    for data in ks.sshkey.sshUserList:
        _key(data.username, data.key)


def _password(name: str, password: str, *, encrypted: bool) -> None:
    words = ["chpasswd", "-e"] if encrypted else ["chpasswd", "-c", "SHA512"]
    program.run(*words, root=ROOT, stdin=f"{name}:{password}\n")


def _key(name: str, key: str) -> None:
    accounts = [line.split(":") for line in (ROOT / "etc/passwd").read_text().splitlines()]
    entry = next((account for account in accounts if account[0] == name), None)
    if entry is None:
        log.error("anaconda", f"sshkey: user {name} does not exist")
        return
    folder = ROOT / entry[5].lstrip("/") / ".ssh"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / "authorized_keys"
    with file.open("a") as out:
        out.write(f"{key}\n")
    file.chmod(0o600)
    program.run("chown", "-R", f"{name}:", f"{entry[5]}/.ssh", root=ROOT)


def selinux(ks: Any) -> None:
    """selinux: 0 disabled, 1 enforcing, 2 permissive; without the command the package's own default stays."""
    if "selinux" in ks.seen_commands:
        mode = {0: "disabled", 1: "enforcing", 2: "permissive"}.get(ks.selinux.selinux, "enforcing")
        _set("etc/selinux/config", "SELINUX", mode)


def services(ks: Any, units: list[str]) -> None:
    """Services of chosen packages, then the services command; a unit that does not exist is only logged."""
    for unit in units:
        program.run("systemctl", "enable", unit, root=ROOT, check=False)
    for action, names in (("disable", ks.services.disabled), ("enable", ks.services.enabled)):
        for name in names:
            program.run("systemctl", action, name if "." in name else f"{name}.service", root=ROOT, check=False)


def apply(ks: Any, units: list[str]) -> None:
    """Everything but network and users, in Anaconda's order."""
    language(ks)
    time_zone(ks)
    selinux(ks)
    machine_id()
    services(ks, units)
