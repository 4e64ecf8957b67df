"""Guests on networks of `host prepare`: two test VMs and clones on its bridge, one clone behind NAT."""

from __future__ import annotations

import json
import subprocess
import sys
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from builder.host import distro
from tests.e2e.conftest import folder_for
from tests.host.conftest import GATEWAY, OWN, Cell

FIRST, LAST = "10.77.0.100", "10.77.0.150"
DHCP = [
    *("dnsmasq", "--conf-file=/dev/null", "--interface=gw0", "--bind-interfaces", "--port=0", "--no-ping"),
    *(f"--dhcp-range={FIRST},{LAST}", "--leasefile-ro", "--user=root", "--pid-file="),
]
BRIDGE = ["--bridge", "br0", "--uplink", "up0", "--address", f"{OWN}/24", "--gateway", GATEWAY, "--no-confirm"]
NAT = "192.168.150.0/24"
IMAGE = "centos7-minimal-rehearsal"
STATIC = ["--network", "bridge:br0", "--address", "10.77.0.40/24", "--gateway", GATEWAY, "--memory", "1GiB"]
WHO = "hostname; cat /etc/machine-id; ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub; ip -4 -o addr show scope global"
WITHIN = 1500

BANNER = "import socket, sys; print(socket.create_connection((sys.argv[1], 22), 20).recv(64).decode())"


# Tells one client which address it comes from.
WHO_ASKS = """
import socket
server = socket.create_server(("", 7777))
print("ready", flush=True)
peer, address = server.accept()
peer.sendall(address[0].encode())
"""


def ended(child: subprocess.Popen[str], within: float = WITHIN) -> str:
    """What builder printed; it must succeed, and is not left behind."""
    with child:
        try:
            out, err = child.communicate(timeout=within)
        except BaseException:
            child.kill()
            raise
    assert child.returncode == 0, out + err[-4000:]
    return out


def require_copies_were_on_the_bridge(artifacts: Path) -> None:
    """Both have an address of the gateway's DHCP server."""
    record = artifacts / "images" / IMAGE / "latest" / "verify.json"
    twins: dict[str, Any] = json.loads(record.read_text())["twins"]
    addresses = [IPv4Address(twin["address"]) for twin in twins.values()]
    assert len(set(addresses)) == 2
    assert all(IPv4Address(FIRST) <= address <= IPv4Address(LAST) for address in addresses)


def require_its_cable_can_be_moved(host: Cell, gateway: Cell, place: tuple[object, ...]) -> None:
    """A running clone goes to another bridge, where the gateway does not see it, and comes back as it was."""

    def answers() -> bool:
        return gateway.run(sys.executable, "-c", BANNER, "10.77.0.42", check=False).returncode == 0

    for words in (["add", "br7", "type", "bridge"], ["set", "br7", "up"]):
        host.run("ip", "link", *words)
    for bridge, reached in (("br7", False), ("br0", True)):
        done = host.builder(*place, "vm", "set", "web-3", "--network", f"bridge:{bridge}")
        assert (done.returncode, done.stdout) == (0, f"web-3: network bridge:{bridge} now\n"), done.stderr
        assert answers() is reached
    host.run("ip", "link", "del", "br7")


def require_its_cards_can_be_changed(host: Cell, gateway: Cell, place: tuple[object, ...]) -> None:
    """Another address and one card less, from the next boot on, for the same machine."""
    key = "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub; ls -d /sys/class/net/eth*; ip -o -4 addr show dev eth0"
    asked = ["--network", "bridge:br0", "--address", "10.77.0.51/24", "--gateway", GATEWAY, "--network", "none"]
    before = host.builder(*place, "vm", "ssh", "both", "--", key).stdout.splitlines()
    running = host.builder(*place, "vm", "set", "both", *asked)
    assert (running.returncode, "cannot be changed while it runs" in running.stderr) == (7, True)
    for words in (["stop", "both", "--now"], ["set", "both", *asked], ["start", "both"]):
        done = host.builder(*place, "vm", *words)
        assert done.returncode == 0, done.stderr
    # It boots: that takes longer than other commands may.
    after = ended(host.start(*place, "vm", "ssh", "both", "--within", "600", "--", key)).splitlines()
    assert (after[0], after[1:-1]) == (before[0], ["/sys/class/net/eth0"])
    assert "inet 10.77.0.51/24" in after[-1]
    assert gateway.run(sys.executable, "-c", BANNER, "10.77.0.51").stdout.startswith("SSH-2.0-")


def require_each_card_is_set_up(host: Cell, gateway: Cell, place: tuple[object, ...]) -> None:
    """Two cards: one on the bridge with an address of each family and the routers, one that asks DHCP behind NAT."""
    asked = ["--network", "bridge:br0", "--address", "10.77.0.50/24", "--gateway", GATEWAY]
    asked += ["--address", "fd77::50/64", "--gateway", "fd77::1", "--network", "nat", "--memory", "1GiB"]
    ended(host.start(*place, "clone", IMAGE, "both", *asked, "--wait"))
    try:
        (vm,) = json.loads(host.builder(*place, "vm", "list", "--json").stdout)
        first, second = vm["cards"]
        shown = "cat /sys/class/net/eth[01]/address; ip -o addr show scope global; ip route; ip -6 route"
        done = host.builder(*place, "vm", "ssh", "both", "--", shown)
        assert done.returncode == 0, done.stderr
        told = done.stdout.splitlines()
        assert told[:2] == [first["mac"], second["mac"]]
        for name, address in (("eth0", "10.77.0.50/24"), ("eth0", "fd77::50/64"), ("eth1", f"{second['seen']}/24")):
            assert [line for line in told if address in line and f" {name} " in line], done.stdout
        # The NAT network has a router, too, and it is not taken.
        defaults = [line.split()[:5] for line in told if line.startswith("default")]
        assert defaults == [["default", "via", router, "dev", "eth0"] for router in (GATEWAY, "fd77::1")]
        for address in ("10.77.0.50", "fd77::50"):
            assert gateway.run(sys.executable, "-c", BANNER, address).stdout.startswith("SSH-2.0-")
        moved = host.builder(*place, "vm", "set", "both", "--network", "bridge:br0", "--network", "bridge:br0")
        assert (moved.returncode, moved.stdout) == (0, "both: network bridge:br0 bridge:br0 now\n"), moved.stderr
        require_its_cards_can_be_changed(host, gateway, place)
    finally:
        assert host.builder(*place, "vm", "delete", "both").returncode == 0


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.vm
@pytest.mark.timeout(2 * WITHIN + 300)
@pytest.mark.skipif(distro.program("dnsmasq") is None, reason="dnsmasq-base is not installed")
def test_guests_on_a_bridge_let_root_in(world: tuple[Cell, Cell], rehearsal_iso: Path) -> None:
    host, gateway = world
    gateway.run(*DHCP)
    before = host.network()
    made = host.builder("host", "prepare", "--network-only", *BRIDGE)
    assert made.returncode == 0, made.stderr
    with folder_for(0) as folder:
        place = ("--artifacts", folder / "artifacts")
        words = ["run", "centos7-minimal", "--media", rehearsal_iso, "--set", "network.mode=bridge"]
        ended(host.start(*place, *words))
        require_copies_were_on_the_bridge(folder / "artifacts")

        ended(host.start(*place, "clone", IMAGE, "web", "--count", "3", *STATIC, "--wait"))
        told = [host.builder(*place, "vm", "ssh", f"web-{number}", "--", WHO) for number in (1, 2, 3)]
        assert [done.returncode for done in told] == [0, 0, 0], [done.stderr for done in told]
        lines = [done.stdout.splitlines() for done in told]
        assert [line[0] for line in lines] == ["web-1", "web-2", "web-3"]
        for number in (1, 2):
            assert len({line[number] for line in lines}) == 3
        assert [f"10.77.0.{40 + number}/24" in lines[number][3] for number in range(3)] == [True] * 3
        # The gateway is another machine on the other end of the uplink.
        banner = gateway.run(sys.executable, "-c", BANNER, "10.77.0.41").stdout
        assert banner.startswith("SSH-2.0-")
        require_its_cable_can_be_moved(host, gateway, place)
        done = host.builder(*place, "vm", "delete", "web-1", "web-2", "web-3")
        assert done.returncode == 0, done.stderr

        # One without an address of its own: it gets one from the gateway, and builder finds out which.
        out = ended(host.start(*place, "clone", IMAGE, "leased", "--network", "bridge:br0", "--wait", "--ssh-config"))
        (line,) = [line for line in out.splitlines() if "HostName" in line]
        assert IPv4Address(FIRST) <= IPv4Address(line.split()[1]) <= IPv4Address(LAST)
        done = host.builder(*place, "vm", "ssh", "leased", "--", "hostname")
        assert (done.returncode, done.stdout) == (0, "leased\n"), done.stderr
        assert host.builder(*place, "vm", "delete", "leased").returncode == 0

        # On the NAT network DHCP gives it the address that was reserved when it was made.
        made = host.builder("host", "prepare", "--network-only", "--nat", NAT)
        assert made.returncode == 0, made.stderr
        ended(host.start(*place, "clone", IMAGE, "hidden", "--network", "nat", "--memory", "1GiB", "--wait"))
        done = host.builder(*place, "vm", "ssh", "hidden", "--", WHO)
        assert done.returncode == 0, done.stderr
        shown = done.stdout.splitlines()
        assert shown[0] == "hidden"
        seen = json.loads((folder / "artifacts/vms/hidden/vm.json").read_text())["cards"][0]["seen"]
        assert IPv4Address(seen) in IPv4Network(NAT)
        assert f"inet {seen}/24" in shown[3]
        # It gets out through the host, under the host's address.
        with subprocess.Popen(gateway.enter(sys.executable, "-c", WHO_ASKS), stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            assert server.stdout.readline()
            ask = f"timeout 20 bash -c 'cat < /dev/tcp/{GATEWAY}/7777'"
            done = host.builder(*place, "vm", "ssh", "hidden", "--", ask)
            server.kill()
        assert done.stdout == OWN, done.stderr
        assert host.builder(*place, "vm", "delete", "hidden").returncode == 0
        require_each_card_is_set_up(host, gateway, place)
    assert host.builder("host", "restore").returncode == 0
    assert host.network() == before
