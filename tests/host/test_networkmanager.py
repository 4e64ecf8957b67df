"""NetworkManager itself runs the host's network, and takes the bridge over."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from builder import rehearsal
from builder.guest.cards import CardSetup
from builder.guest.seed import Identity, files
from builder.rehearsal.installer import config, parse
from builder.rehearsal.installer.release.facts import RELEASES
from builder.system import retry
from tests.guest.test_seed import FIRST_BOOT
from tests.host.conftest import GATEWAY, OWN, Cell, World

NETWORKMANAGER = """\
set -e
# Without udev NetworkManager takes only cards below a read-only /sys for ready.
mount -o remount,ro /sys
mkdir -p /run/dbus /run/NetworkManager
cat > /etc/NetworkManager/NetworkManager.conf <<EOF
[main]
plugins=keyfile
dns=none
EOF
dbus-daemon --system --fork
NetworkManager
"""
START = """\
set -e
ip addr flush dev up0
cat > /etc/NetworkManager/system-connections/old.nmconnection <<EOF
[connection]
id=old
type=ethernet
interface-name=up0
[ipv4]
{ipv4}
route1=10.99.0.0/16,{gateway},77
EOF
chmod 600 /etc/NetworkManager/system-connections/old.nmconnection
"""

DHCP = [
    *("dnsmasq", "--conf-file=/dev/null", "--interface=gw0", "--bind-interfaces", "--port=0", "--no-ping"),
    *("--dhcp-range=10.77.0.100,10.77.0.150", "--leasefile-ro", "--user=root", "--pid-file="),
]
# The gateway's own addresses, on its end of the cable of each card.
ROUTERS = {
    "eth0": ("192.0.2.1/24", "2001:db8::1/64", "fe80::1/64"),
    "eth1": ("198.51.100.254/24",),
    "eth2": ("fd00::1/64",),
}
LEASES = [
    *("dnsmasq", "--conf-file=/dev/null", "--interface=gweth1", "--bind-interfaces", "--port=0", "--no-ping"),
    *("--dhcp-range=198.51.100.100,198.51.100.150", "--dhcp-option=option:dns-server,198.51.100.253"),
    *("--leasefile-ro", "--user=root", "--pid-file="),
]


def state(host: Cell) -> dict[str, str]:
    """The profile that each card runs."""
    # Without a word while NetworkManager comes up.
    lines = host.run("nmcli", "-t", "-f", "DEVICE,CONNECTION", "device", check=False).stdout.splitlines()
    return dict(line.split(":", 1) for line in lines)


BRIDGE = ["--network-only", "--bridge", "br0", "--uplink", "up0", "--no-confirm"]


@pytest.mark.parametrize("ipv4", [f"method=manual\naddress1={OWN}/24,{GATEWAY}", "method=auto"], ids=["static", "dhcp"])
def test_networkmanager_takes_the_bridge_over(equipped: World, ipv4: str) -> None:
    host, gateway = equipped
    if ipv4 == "method=auto":
        gateway.run(*DHCP)
    host.run("sh", "-c", START.format(ipv4=ipv4, gateway=GATEWAY) + NETWORKMANAGER)
    assert retry.until(lambda: state(host).get("up0") == "old" or None, within=20, every=0.2)
    files, own = host.files(), address(host, "up0")
    done = host.builder("host", "prepare", *BRIDGE)
    assert done.returncode == 0, done.stderr
    assert state(host)["br0"] == "builder-br0"
    assert state(host)["up0"] == "builder-br0-up0"
    assert address(host, "br0") == own
    assert address(host, "up0") is None
    assert f"via {GATEWAY} dev br0" in host.run("ip", "route", "show", "default").stdout
    behind = host.run("ip", "route", "show", "10.99.0.0/16").stdout
    assert f"via {GATEWAY} dev br0" in behind
    assert "metric 77" in behind
    again = host.builder("host", "prepare", *BRIDGE)
    assert again.stdout == "nothing to do\n"
    assert host.builder("host", "restore").returncode == 0
    restored = {"up0": "old", "lo": "lo"}
    assert retry.until(lambda: state(host) == restored or None, within=20, every=0.2), state(host)
    assert address(host, "up0") == own
    assert f"via {GATEWAY} dev up0" in host.run("ip", "route", "show", "default").stdout
    assert host.files() == files


def address(host: Cell, name: str) -> str | None:
    """The one IPv4 address of a card."""
    told = json.loads(host.run("ip", "-json", "-4", "addr", "show", name).stdout)
    return told[0]["addr_info"][0]["local"] if told else None


REHEARSED = """\
set -e
mount -o remount,ro /sys
ip addr flush dev up0
mkdir -p /run/dbus /run/NetworkManager /etc/NetworkManager/system-connections
printf '[main]\\nplugins=keyfile\\ndns=none\\n' > /etc/NetworkManager/NetworkManager.conf
printf '%s' "$1" > /etc/NetworkManager/system-connections/up0.nmconnection
chmod 600 /etc/NetworkManager/system-connections/up0.nmconnection
"""
LINE = f"network --bootproto=static --device=up0 --ip={OWN} --netmask=255.255.255.0 --gateway={GATEWAY}"


def test_networkmanager_reads_what_the_rehearsals_installer_writes(equipped: World) -> None:
    """And what stands in for it in the rehearsed system makes the same of it."""
    host, _ = equipped
    line = parse.read(f"{LINE} --nameserver=9.9.9.9\n", RELEASES["el9"]).network.network[0]
    keyfile = config.keyfile(line, "up0", identity="5ba63e1c-0b6c-4a44-9f43-3b0a9a2ab4b1")
    host.run("sh", "-c", REHEARSED, "sh", keyfile)
    stand_in = Path(rehearsal.__file__).parent / "target/base/usr/libexec/rehearsal/network"

    def made() -> tuple[str | None, bool]:
        return address(host, "up0"), f"via {GATEWAY} dev up0" in host.run("ip", "route", "show", "default").stdout

    host.run("sh", str(stand_in), "start")
    assert made() == (OWN, True)
    host.run("ip", "addr", "flush", "dev", "up0")
    host.run("sh", "-c", "dbus-daemon --system --fork; NetworkManager")
    assert retry.until(lambda: state(host).get("up0") == "up0" or None, within=20, every=0.2), state(host)
    assert made() == (OWN, True)
    assert host.run("nmcli", "-t", "-g", "ipv4.dns", "connection", "show", "up0").stdout.strip() == "9.9.9.9"


def test_networkmanager_sets_up_the_cards_of_a_seed(equipped: World) -> None:
    """With the profiles that the first-boot unit writes where there are no network scripts (el8 and later)."""
    host, gateway = equipped
    host.run("ip", "link", "set", "up0", "down")
    for name, own in ROUTERS.items():
        peer = f"gw{name}"
        ends = [name, "netns", str(host.pid), "type", "veth", "peer", "name", peer, "netns", str(gateway.pid)]
        subprocess.run(["ip", "link", "add", *ends], check=True)
        gateway.run("ip", "link", "set", peer, "up")
        for router in own:
            gateway.run("ip", "addr", "add", router, "dev", peer)
    gateway.run(*LEASES)
    cards = (
        CardSetup(mac(host, "eth0"), ("192.0.2.5/24", "2001:db8::5/64"), False, ("192.0.2.1", "fe80::1")),
        CardSetup(mac(host, "eth1")),
        CardSetup(mac(host, "eth2"), ("fd00::5/64",), dhcp=False),
    )
    conf = files(Identity("i-1", "web", (), cards, ("192.0.2.53", "2001:db8::53")))["builder.conf"].decode()
    functions = FIRST_BOOT.read_text().partition("\n# first-boot --hold")[0]
    found = "".join(f"{card.mac}) echo eth{number} ;; " for number, card in enumerate(cards))
    # A veth has no device, and Debian no labels.
    stubs = (
        f"restorecon() {{ :; }}\nfind_card() {{ case $1 in {found}esac; }}\nreport() {{ :; }}\ncomplain() {{ exit 1; }}"
    )
    host.run("mkdir", "-p", "/var/lib/builder")
    host.run("sh", "-c", f"{functions}\n{stubs}\nprintf %s '{conf}' > $conf\nset_addresses")
    host.run("sh", "-c", NETWORKMANAGER)
    wanted = {"eth0": "eth0", "eth1": "eth1", "eth2": "eth2"}
    assert retry.until(lambda: wanted.items() <= state(host).items() or None, within=40, every=0.2), state(host)
    assert retry.until(lambda: (addresses(host, "eth1") != []) or None, within=40, every=0.2)
    assert addresses(host, "eth0") == ["192.0.2.5/24", "2001:db8::5/64"]
    (leased,) = addresses(host, "eth1")
    assert leased.startswith("198.51.100.1")
    assert addresses(host, "eth2") == ["fd00::5/64"]
    # The DHCP server offers a route and a name server, too, and neither is taken.
    for family, router in (("-4", "192.0.2.1"), ("-6", "fe80::1")):
        defaults = host.run("ip", family, "route", "show", "default").stdout.splitlines()
        assert [line.split()[:5] for line in defaults] == [["default", "via", router, "dev", "eth0"]]
    assert servers(host, "eth0") == ["192.0.2.53", "2001:db8::53"]
    assert servers(host, "eth1") == []


def mac(host: Cell, card: str) -> str:
    """The MAC address of a card."""
    return host.run("cat", f"/sys/class/net/{card}/address").stdout.strip()


def addresses(host: Cell, card: str) -> list[str]:
    """The addresses of a card but those that it made itself, IPv4 first; each is in use."""
    told = json.loads(host.run("ip", "-json", "addr", "show", card).stdout)[0]["addr_info"]
    told = [one for one in told if one["scope"] == "global"]
    return [f"{one['local']}/{one['prefixlen']}" for one in sorted(told, key=lambda one: one["family"])]


def servers(host: Cell, card: str) -> list[str]:
    """The name servers that NetworkManager has for a card."""
    told = host.run("nmcli", "-e", "no", "-g", "IP4.DNS,IP6.DNS", "device", "show", card).stdout
    return [server for line in told.splitlines() for server in line.split(" | ") if server]
