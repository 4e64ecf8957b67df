"""cloud-init itself reads the network of a seed, and writes it for each kind of system."""

from __future__ import annotations

import configparser
from pathlib import Path

from builder.guest.cards import CardSetup
from builder.guest.seed import Identity, files
from tests.host.conftest import Cell, World

CARDS = (
    CardSetup("52:54:00:11:22:33", ("192.0.2.5/24", "2001:db8::5/64"), False, ("192.0.2.1", "2001:db8::1")),
    CardSetup("52:54:00:11:22:34", ("fd00::5/64",), dhcp=True),
)
DNS = ("192.0.2.53", "2001:db8::53")
NAMES = "".join(f" -m eth{number},{card.mac}" for number, card in enumerate(CARDS)).split()


def test_each_card_has_its_addresses_on_each_kind_of_system(equipped: World) -> None:
    host, _ = equipped
    (host.work / "network-config").write_bytes(files(Identity("i", "web", (), CARDS, DNS))["network-config"])
    require_ifcfg_files(converted(host, "centos", "sysconfig") / "etc/sysconfig/network-scripts")
    require_profiles(converted(host, "rocky", "network-manager") / "etc/NetworkManager/system-connections")
    text = (converted(host, "ubuntu", "netplan") / "etc/netplan/50-cloud-init.yaml").read_text()
    for part in (str(CARDS[0].mac), "set-name: eth0", *CARDS[0].addresses, "set-name: eth1", "use-routes: false"):
        assert part in text


def require_ifcfg_files(folder: Path) -> None:
    first, second = ((folder / f"ifcfg-eth{number}").read_text().splitlines() for number in (0, 1))
    wanted = [
        *("DEVICE=eth0", f"HWADDR={CARDS[0].mac}", "BOOTPROTO=none", "IPADDR=192.0.2.5", "GATEWAY=192.0.2.1"),
        *("IPV6INIT=yes", "IPV6ADDR=2001:db8::5/64", "IPV6_DEFAULTGW=2001:db8::1", "IPV6_FORCE_ACCEPT_RA=no"),
        *("DNS1=192.0.2.53", "DNS2=2001:db8::53"),
    ]
    assert [line for line in wanted if line not in first] == []
    wanted = ["DEVICE=eth1", f"HWADDR={CARDS[1].mac}", "BOOTPROTO=dhcp", "METRIC=1000", "IPV6ADDR=fd00::5/64"]
    assert [line for line in wanted if line not in second] == []
    assert not [line for line in second if line.startswith(("GATEWAY", "IPV6_DEFAULTGW", "DNS", "IPADDR"))]


def require_profiles(folder: Path) -> None:
    first, second = (configparser.ConfigParser(interpolation=None) for _ in CARDS)
    for number, parser in enumerate((first, second)):
        parser.read_string((folder / f"cloud-init-eth{number}.nmconnection").read_text())
    assert first["ipv4"]["address1"] == "192.0.2.5/24"
    assert first["ipv4"]["route1"] == "0.0.0.0/0,192.0.2.1"
    assert (first["ipv6"]["address1"], first["ipv6"]["gateway"]) == ("2001:db8::5/64", "2001:db8::1")
    assert (first["ipv4"]["dns"], first["ipv6"]["dns"]) == ("192.0.2.53;", "2001:db8::53;")
    assert (second["ipv4"]["method"], second["ipv6"]["address1"]) == ("auto", "fd00::5/64")


def converted(host: Cell, distro: str, kind: str) -> Path:
    """A tree with the files that cloud-init writes on such a system."""
    out = host.work / f"{distro}-{kind}"
    words = ["--network-data", host.work / "network-config", "--kind", "yaml", "--output-kind", kind]
    host.run("cloud-init", "devel", "net-convert", *words, "--distro", distro, "--directory", out, *NAMES)
    return out
