"""NetworkManager itself runs the host's network, and takes the bridge over."""

from __future__ import annotations

import pytest

from builder.adapters import waiting
from builder.host import system
from tests.host.conftest import GATEWAY, OWN, Cell

World = tuple[Cell, Cell]
START = """\
set -e
# Without udev NetworkManager takes only cards below a read-only /sys for ready.
mount -o remount,ro /sys
ip addr flush dev up0
mkdir -p /run/dbus /run/NetworkManager
cat > /etc/NetworkManager/NetworkManager.conf <<EOF
[main]
plugins=keyfile
dns=none
EOF
cat > /etc/NetworkManager/system-connections/old.nmconnection <<EOF
[connection]
id=old
type=ethernet
interface-name=up0
[ipv4]
method=manual
address1={own}/24,{gateway}
EOF
chmod 600 /etc/NetworkManager/system-connections/old.nmconnection
dbus-daemon --system --fork
NetworkManager
"""

pytestmark = pytest.mark.skipif(system.program("NetworkManager") is None, reason="network-manager is not installed")


def state(host: Cell) -> dict[str, str]:
    """The profile that each card runs."""
    lines = host.run("nmcli", "-t", "-f", "DEVICE,CONNECTION", "device").stdout.splitlines()
    return dict(line.split(":", 1) for line in lines)


def test_networkmanager_takes_the_bridge_over(world: World) -> None:
    host, _ = world
    host.run("sh", "-c", START.format(own=OWN, gateway=GATEWAY))
    assert waiting.until(lambda: state(host).get("up0") == "old" or None, within=20, every=0.2)
    files = host.files()
    done = host.builder("host", "prepare", "--network-only", "--bridge", "br0", "--uplink", "up0")
    assert done.returncode == 0, done.stderr
    assert state(host)["br0"] == "builder-br0"
    assert state(host)["up0"] == "builder-br0-up0"
    assert f"inet {OWN}/24" in host.run("ip", "addr", "show", "br0").stdout
    again = host.builder("host", "prepare", "--network-only", "--bridge", "br0", "--uplink", "up0")
    assert again.stdout == "nothing to do\n"
    assert host.builder("host", "restore").returncode == 0
    restored = {"up0": "old", "lo": "lo"}
    assert waiting.until(lambda: state(host) == restored or None, within=20, every=0.2), state(host)
    assert f"inet {OWN}/24" in host.run("ip", "addr", "show", "up0").stdout
    assert f"via {GATEWAY} dev up0" in host.run("ip", "route", "show", "default").stdout
    assert host.files() == files
