"""A bridge over the uplink: the addresses move, and whatever goes wrong, all is as it was before."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from builder.system import retry
from tests.host.conftest import GATEWAY, OWN, SOURCE, Cell, World, asking

BRIDGE = ["host", "prepare", "--network-only", "--bridge", "br0", "--uplink", "up0"]
# Nobody is at a console of a test's host.
SURE = [*BRIDGE, "--no-confirm"]
STATIC = ["--address", f"{OWN}/24", "--gateway", GATEWAY]
# Kills itself when the addresses are gone from the uplink and not yet on the bridge.
HALF_WAY = """
import os, signal
from dataclasses import replace
from pathlib import Path
from builder.host.network import apply, change, bridge_request

class Deadly(tuple):
    def __iter__(self):
        if Path("/sys/class/net/br0").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__iter__()

made = change.plan(bridge_request.BridgeRequest("br0", "up0", backend="ifcfg"))
apply.apply(replace(made, addresses=Deadly(made.addresses)), print)
"""


def settled(host: Cell, before: list[str]) -> bool:
    """The network is as it was, at once or as soon as the guardian has worked."""
    return bool(retry.until(lambda: host.network() == before or None, within=20, every=0.1))


def with_ifcfg(host: Cell) -> dict[str, bytes]:
    """Make it a host of initscripts."""
    host.run(
        "sh",
        "-c",
        "mkdir -p /etc/sysconfig/network-scripts && echo ONBOOT=yes > /etc/sysconfig/network-scripts/ifcfg-up0",
    )
    return host.files()


def test_the_address_moves_and_comes_back(world: World) -> None:
    host, _ = world
    before, files = host.network(), with_ifcfg(host)
    with asking(world) as silence:
        done = host.builder(*SURE, *STATIC, "--json")
    assert done.returncode == 0, done.stderr
    # How long it stayed silent is for `make bench` to say.
    assert silence.answered > 0
    assert json.loads(host.run("ip", "-json", "link", "show", "up0").stdout)[0]["master"] == "br0"
    # What was not named stays: the other family, and the routes that still make sense.
    shown = host.run("ip", "addr", "show", "br0").stdout
    assert f"inet {OWN}/24" in shown
    assert "inet6 fd77::19/64" in shown
    assert [line.split()[:5] for line in host.run("ip", "-6", "route", "show", "default").stdout.splitlines()] == [
        ["default", "via", "fd77::1", "dev", "br0"]
    ]
    assert "via 10.77.0.1 dev br0" in host.run("ip", "route", "show", "table", "77").stdout
    written = {name: text.decode() for name, text in host.files().items() if name not in files or text != files[name]}
    assert sorted(written) == [f"sysconfig/network-scripts/{name}" for name in ("ifcfg-br0", "ifcfg-up0", "route-br0")]
    assert f"IPADDR={OWN}\n" in written["sysconfig/network-scripts/ifcfg-br0"]
    again = host.builder(*SURE, *STATIC)
    assert (again.returncode, again.stdout) == (0, "nothing to do\n")
    other = host.builder(*BRIDGE, "--address", "10.77.0.30/24")
    assert other.returncode == 3
    assert "it lacks address 10.77.0.30/24" in other.stderr
    assert host.builder("host", "restore").returncode == 0
    assert host.network() == before
    assert host.files() == files
    assert host.builder("host", "restore").stdout == "nothing to undo\n"


def test_all_that_the_uplink_has_moves(world: World) -> None:
    host, _ = world
    before = host.network()
    done = host.builder(*SURE, "--backend", "runtime")
    assert done.returncode == 0, done.stderr
    shown = host.run("ip", "addr", "show", "br0").stdout
    assert all(text in shown for text in (f"{OWN}/24", "10.77.0.20/24", "10.78.0.5/24", "fd77::19/64"))
    assert "dev br0" in host.run("ip", "route", "show", "table", "77").stdout
    assert "mtu 1300" in host.run("ip", "route", "show", "table", "77").stdout
    assert "via fd77::1 dev br0" in host.run("ip", "-6", "route", "show", "default").stdout
    assert host.run("ip", "-6", "route", "show", "default", "dev", "up0").stdout == ""
    mac = [json.loads(host.run("ip", "-json", "link", "show", name).stdout)[0]["address"] for name in ("br0", "up0")]
    assert mac[0] == mac[1]
    host.run("sh", "-c", "ip link add vnet7 type veth peer name guest7; ip link set vnet7 master br0")
    assert "remove br0; vnet7 lose their network" in host.builder("host", "restore", "--dry-run").stdout
    host.run("ip", "link", "del", "vnet7")
    assert host.builder("host", "restore").returncode == 0
    assert host.network() == before


def test_after_a_reboot_the_uplink_gets_what_the_bridge_has(world: World) -> None:
    host, _ = world
    files = with_ifcfg(host)
    assert host.builder(*SURE, "--address", "10.77.0.44/24").returncode == 0
    # As if the files had brought the bridge up in a later boot, with another address than the uplink once had.
    host.run("sh", "-c", 'sed -i \'s/"boot": "[^"]*/"boot": "another/\' /var/lib/builder/host/journal.jsonl')
    assert host.builder("host", "restore").returncode == 0
    shown = host.run("ip", "addr", "show", "up0").stdout
    assert "inet 10.77.0.44/24" in shown
    assert OWN not in shown
    assert f"via {GATEWAY} dev up0" in host.run("ip", "route", "show", "default").stdout
    assert "via fd77::1 dev up0" in host.run("ip", "-6", "route", "show", "default").stdout
    assert host.run("ip", "link", "show", "br0", check=False).returncode != 0
    assert host.files() == files


def test_sigkill_half_way(world: World) -> None:
    host, _ = world
    before, files = host.network(), with_ifcfg(host)
    words = host.enter("env", f"PYTHONPATH={SOURCE}", sys.executable, "-c", HALF_WAY)
    died = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert died.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), died.stderr
    assert settled(host, before)
    assert host.files() == files
    assert "builder died half-way" in host.builder("host", "confirm").stderr


@pytest.mark.slow
def test_sigkill_while_a_confirmation_is_waited_for(world: World) -> None:
    host, _ = world
    before, files = host.network(), with_ifcfg(host)
    with waiting_for_confirmation(host, "5s") as child:
        kill_inside(host, child)
        assert host.network() != before
        assert settled(host, before)
    assert host.files() == files


def test_nobody_confirms(world: World) -> None:
    host, _ = world
    before, files = host.network(), with_ifcfg(host)
    done = host.builder(*BRIDGE, *STATIC, "--confirm-within", "5s")
    assert done.returncode == 3
    assert "nobody confirmed it within 5 s" in done.stderr
    assert host.network() == before
    assert host.files() == files


def test_confirmed(world: World) -> None:
    host, _ = world
    with_ifcfg(host)
    with waiting_for_confirmation(host, "60s") as child:
        assert not any(name.endswith("ifcfg-br0") for name in host.files())
        said = host.builder("host", "confirm")
        assert said.returncode == 0, said.stderr
        assert child.wait(30) == 0
    assert any(name.endswith("ifcfg-br0") for name in host.files())


def test_interrupt_puts_back_at_once(world: World) -> None:
    host, _ = world
    before = host.network()
    with waiting_for_confirmation(host, "10m") as child:
        inner = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
        os.kill(int((inner or [str(child.pid)])[0]), signal.SIGINT)
        assert child.wait(30) == 130
    assert host.network() == before


def test_the_guardian_dies(world: World) -> None:
    host, _ = world
    before = host.network()
    with waiting_for_confirmation(host, "10m") as child:
        pids = host.run("sh", "-c", "grep -l host.network.guardian /proc/[0-9]*/cmdline | cut -d/ -f3").stdout.split()
        host.run("sh", "-c", f"for p in {' '.join(pids)}; do kill -9 $p 2>/dev/null; done; true")
        assert child.wait(30) == 3
    assert host.network() == before


@pytest.mark.slow
def test_both_are_killed_and_restore_mends_it(world: World) -> None:
    host, _ = world
    before = host.network()
    with waiting_for_confirmation(host, "10m") as child:
        pids = host.run("sh", "-c", "grep -l builder /proc/[0-9]*/cmdline | cut -d/ -f3").stdout.split()
        host.run("sh", "-c", f"for p in {' '.join(pids)}; do kill -9 $p 2>/dev/null; done; true")
        child.wait(30)
        assert host.network() != before
        refused = host.builder(*BRIDGE, "--bridge", "br1")
        assert refused.returncode == 3
        assert "cut short" in refused.stderr
        assert host.builder("host", "restore").returncode == 0
    assert host.network() == before


def test_a_gateway_that_does_not_answer(world: World) -> None:
    host, _ = world
    before = host.network()
    done = host.builder(*SURE, "--address", f"{OWN}/24", "--gateway", "10.77.0.3")
    assert done.returncode == 3
    assert "10.77.0.3 does not answer" in done.stderr
    assert host.network() == before


REFUSED = [
    (["--address", "192.168.10.19/24", "--gateway", "192.168.19.2"], "gateway 192.168.19.2 is outside"),
    (["--address", "10.5.0.9/24"], f"the gateway {GATEWAY} of up0 is outside 10.5.0.0/24"),
    (["--uplink", "tun9"], "uplink tun9 is no Ethernet"),
    (["--bridge", "a-name-far-too-long"], "is no name for an interface"),
    (["--uplink", "lo"], "uplink lo leads nowhere"),
    (["--uplink", "eth9"], "there is no interface eth9"),
    (["--bridge", "br9"], "an interface br9 is there already"),
    (["--confirm-within", "1s"], "between 5s and 1h"),
    (["--backend", "netplan"], "known are auto"),
]


def test_refused_before_anything_is_touched(world: World) -> None:
    host, _ = world
    host.run("ip", "link", "add", "br9", "type", "bridge")
    host.run("ip", "tuntap", "add", "tun9", "mode", "tun")
    before = host.network()
    for words, said in REFUSED:
        done = host.builder(*BRIDGE, *words)
        assert done.returncode in (2, 3)
        assert said in done.stderr
    assert host.network() == before


def test_two_files_for_one_card_are_refused(world: World) -> None:
    host, _ = world
    with_ifcfg(host)
    host.run("sh", "-c", "echo DEVICE=up0 > /etc/sysconfig/network-scripts/ifcfg-Wired_1")
    done = host.builder(*BRIDGE, *STATIC, "--dry-run")
    assert done.returncode == 2
    assert "ifcfg-Wired_1 is for up0 too" in done.stderr


def test_dry_run_changes_nothing(world: World) -> None:
    host, _ = world
    before, files = host.network(), with_ifcfg(host)
    done = host.builder(*BRIDGE, *STATIC, "--dry-run")
    assert f"give {OWN}/24 to br0" in done.stdout
    assert "write /etc/sysconfig/network-scripts/ifcfg-br0" in done.stdout
    assert host.network() == before
    assert host.files() == files


@contextmanager
def waiting_for_confirmation(host: Cell, within: str) -> Iterator[subprocess.Popen[str]]:
    """A builder that has changed the network and waits."""
    with host.start(*BRIDGE, *STATIC, "--confirm-within", within) as child:
        try:
            assert child.stderr is not None
            for line in child.stderr:
                if "host confirm" in line:
                    break
            yield child
        finally:
            child.kill()


def kill_inside(host: Cell, child: subprocess.Popen[str]) -> None:
    """SIGKILL for builder itself; `nsenter -p` stands before it as its parent."""
    inner = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    os.kill(int(inner[0]), signal.SIGKILL)
    child.wait(30)


def test_a_neighbour_is_found_by_its_mac_address(world: World) -> None:
    host, gateway = world
    mac = json.loads(gateway.run("ip", "-json", "link", "show", "gw0").stdout)[0]["address"]
    code = f"""
from builder.system import netlink, retry
assert netlink.neighbour("{mac}") is None
netlink.ask_all("up0")
print(retry.until(lambda: netlink.neighbour("{mac.upper()}"), within=10))
"""
    host.run("ip", "neigh", "flush", "all")
    said = host.run("env", f"PYTHONPATH={SOURCE}", sys.executable, "-c", code)
    assert said.stdout == f"{GATEWAY}\n"
