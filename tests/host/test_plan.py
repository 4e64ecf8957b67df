"""Plans are checked before anything is touched; what would be written is compared with reviewed files."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from builder.errors import RecipeError
from builder.host.network import ifcfg, keyfile, validate
from builder.host.network.validate import BridgePlan, NatPlan
from builder.system.netlink import Route
from tests.host.conftest import Cell

GOLDEN = Path(__file__).parents[1] / "golden" / "network"
MAC = "52:54:00:12:34:56"
PLANS = {
    "static": BridgePlan("br0", "ens33", MAC, ("192.168.10.19/24",), ("192.168.10.2",), ("192.168.10.2",)),
    "dhcp": BridgePlan("br0", "ens33", MAC, dhcp=True),
    "both": BridgePlan(
        "br0",
        "ens33",
        MAC,
        ("192.168.10.19/24", "192.168.10.20/24", "fd00::19/64", "fd00::20/64"),
        ("192.168.10.2", "fd00::1"),
        ("192.168.10.2", "fd00::53"),
    ),
    "routes": BridgePlan(
        "br0",
        "ens33",
        MAC,
        ("192.168.10.19/24",),
        ("192.168.10.2",),
        auto6=True,
        mtu=9000,
        routes=(
            Route(2, "10.97.0.0/16", "192.168.10.7", table=77, mtu=1300),
            Route(2, "10.98.0.0/16", priority=20, source="192.168.10.19"),
            Route(10, "fd99::/48", "fe80::7", flags=4),
        ),
    ),
}
# The form of a course book, with its three mistakes.
WRONG = {
    "ifcfg-br0": "TYPE=Bridge\nBOOTPROTO=statci\nDEVICE=br0\nONBOOT=yes\n"
    "IPADDR=192.168.10.19\nNETMASK=255.255.255.0\nGATEWAY=192.168.19.2\nDNS1=192.168.19.2\n",
    "ifcfg-ens33": "TYPE=Ethernet\nBOOTPROTO=none\nDEVICE=ens33\nONBOOT=br0\n",
}


def rendered() -> dict[str, str]:
    """Every file of every back end, by the name of its golden file."""
    found = {"nat.xml": validate.nat_xml(NatPlan("192.168.150.0/24", reservations=((MAC, "web-1", "192.168.150.10"),)))}
    for name, wanted in PLANS.items():
        for path, text in {**ifcfg.render(wanted), **keyfile.render(wanted)}.items():
            found[f"{name}/{path.name}"] = text
    return found


def test_golden_files() -> None:
    for name, text in rendered().items():
        path = GOLDEN / name
        if os.environ.get("BUILDER_RECORD"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert path.read_text() == text, name
    assert sorted(rendered()) == sorted(str(path.relative_to(GOLDEN)) for path in GOLDEN.rglob("*") if path.is_file())


def scripts(name: str) -> dict[str, str]:
    """The files that a shell reads, but for those with routes."""
    return {path.name: text for path, text in ifcfg.render(PLANS[name]).items() if path.name.startswith("ifcfg-")}


def test_our_own_ifcfg_files_have_no_fault() -> None:
    for name in PLANS:
        assert list(ifcfg.faults(scripts(name))) == []


def test_the_kernel_takes_the_lines_of_route_files(world: tuple[Cell, Cell]) -> None:
    host, _ = world
    host.run("sh", "-c", "ip link add br0 type bridge; ip link set br0 up; ip addr add 192.168.10.19/24 dev br0")
    for name, family in (("route-br0", "-4"), ("route6-br0", "-6")):
        for line in (GOLDEN / "routes" / name).read_text().splitlines():
            # As ifup-routes of initscripts does.
            host.run("ip", family, "route", "add", *line.split())
    shown = [host.run("ip", "route", "show", "table", table, "dev", "br0").stdout for table in ("77", "main")]
    assert "10.97.0.0/16 via 192.168.10.7 mtu 1300" in shown[0]
    assert "10.98.0.0/16 scope link src 192.168.10.19 metric 20" in shown[1]


def test_a_shell_reads_ifcfg_files_as_we_do() -> None:
    for text in scripts("both").values():
        said = subprocess.run(["env", "-i", "sh", "-a"], input=f"{text}env", capture_output=True, text=True, check=True)
        sourced = dict(line.split("=", 1) for line in said.stdout.splitlines())
        assert ifcfg.parse(text).items() <= sourced.items()


@pytest.mark.parametrize("name", PLANS)
def test_networkmanager_takes_every_value(name: str, unpacked: Path) -> None:
    mount = f'mount -t overlay -o lowerdir=/usr:{unpacked}/usr more /usr && exec "$@"'
    for text in keyfile.render(PLANS[name]).values():
        words = ["nmcli", "--offline", "connection", "modify", "connection.autoconnect", "yes"]
        inside = ["unshare", "--mount", "sh", "-c", mount, "sh", *words]
        done = subprocess.run(inside, input=text, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        lost = set(text.split("\n")) - set(done.stdout.split("\n"))
        assert lost == set()


def test_libvirt_takes_the_network() -> None:
    words = ["virsh", "-c", "test:///default", "net-define", "--validate", str(GOLDEN / "nat.xml")]
    assert "defined from" in subprocess.run(words, capture_output=True, text=True, check=True).stdout


def test_the_mistakes_of_the_book_get_a_line_each() -> None:
    found = list(ifcfg.faults(WRONG))
    assert found == [
        "ifcfg-br0: BOOTPROTO=statci: no such protocol; static is meant",
        "ifcfg-br0: gateway 192.168.19.2 is outside 192.168.10.0/24: it could never be reached",
        "ifcfg-ens33: ONBOOT=br0: must be yes or no; BRIDGE=br0 is meant",
    ]


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("BOOTPROT=dhcp\n", "BOOTPROT=dhcp: no such key; BOOTPROTO is meant"),
        ("IPADDR=10.0.0.5\n", "neither PREFIX nor NETMASK"),
        ("IPADDR=10.0.0.0\nPREFIX=24\n", "is the first or last of its network"),
        ("BRIDGE=br7\n", "no file has TYPE=Bridge and DEVICE=br7"),
        ("IPADDR=10.0.0.5\nPREFIX=33\n", "is none"),
        ("DNS1=example\n", "name server 'example' is no address"),
    ],
)
def test_faults_of_ifcfg_files(file: str, said: str) -> None:
    assert any(said in fault for fault in ifcfg.faults({"ifcfg-eth0": f"DEVICE=eth0\n{file}"}))


@pytest.mark.parametrize(
    ("addresses", "gateways", "said"),
    [
        (["192.168.10.19/24"], ["192.168.19.2"], "outside 192.168.10.0/24"),
        (["192.168.10.19"], [], "has no prefix length"),
        (["192.168.10.255/24"], [], "first or last"),
        (["192.168.10.19/24"], ["192.168.10.19"], "the host's own address"),
        (["192.168.10.19/24"], ["192.168.10.1", "192.168.10.2"], "a second one for IPv4"),
        (["127.0.0.1/8"], [], "not one for a host"),
        (["fd00::1/64"], ["fd01::1"], "outside fd00::/64"),
        (["192.168.10.300/24"], [], "is none"),
    ],
)
def test_faults_of_addresses(addresses: list[str], gateways: list[str], said: str) -> None:
    assert any(said in fault for fault in validate.address_faults(addresses, gateways))


def test_good_addresses() -> None:
    assert list(validate.address_faults(["192.168.10.19/24", "fd00::1/64"], ["192.168.10.2", "fe80::1"])) == []
    assert list(validate.address_faults(["10.0.0.0/31"], ["10.0.0.1"])) == []


def test_wifi_is_refused() -> None:
    faults = list(validate.bridge_faults(PLANS["static"], wireless=True, has_carrier=True, is_bridge=False))
    assert [fault for fault in faults if "Wi-Fi" in fault] == faults
    with pytest.raises(RecipeError, match="cannot work"):
        validate.refuse(faults)


def test_files_are_written_for_plain_cards_only() -> None:
    bond = ("bond0", validate.ETHERNET, "DEVTYPE=bond\nINTERFACE=bond0\nIFINDEX=7\n")
    (fault,) = validate.uplink_faults(*bond, kept=True)
    assert "bond0 is a bond" in fault
    assert list(validate.uplink_faults(*bond, kept=False)) == []
    assert list(validate.uplink_faults("ens33", validate.ETHERNET, "INTERFACE=ens33\nIFINDEX=2\n", kept=True)) == []
    assert "is no Ethernet" in next(validate.uplink_faults("wg0", "65534", "", kept=False))


@pytest.mark.parametrize(
    ("subnet", "taken", "said"),
    [
        ("192.168.10.0/24", ["192.168.0.0/16"], "overlaps 192.168.0.0/16"),
        ("192.168.0.0/16", ["192.168.10.0/24"], "overlaps 192.168.10.0/24"),
        ("8.8.8.0/24", [], "is a public one"),
        ("192.168.150.1/24", [], "is none"),
        ("192.168.150.0/30", [], "between 16 and 28"),
    ],
)
def test_faults_of_a_nat_network(subnet: str, taken: list[str], said: str) -> None:
    assert any(said in fault for fault in validate.nat_faults(NatPlan(subnet), taken))


def test_reservations_lie_outside_the_dhcp_range() -> None:
    network = ET.fromstring(rendered()["nat.xml"])
    handed_out = network.find("ip/dhcp/range")
    assert handed_out is not None
    assert (handed_out.get("start"), handed_out.get("end")) == ("192.168.150.128", "192.168.150.254")
    assert list(validate.nat_faults(NatPlan("192.168.150.0/24"), ["10.0.0.0/8"])) == []
    twice = NatPlan("192.168.150.0/24", reservations=((MAC, "a", "192.168.150.9"), (MAC, "b", "192.168.150.9")))
    assert any("given twice" in fault for fault in validate.nat_faults(twice, []))
