"""The seed CD's files: the content for the guest, and what is refused before it is written."""

from __future__ import annotations

import ipaddress
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import RecipeError
from builder.guest.cards import CardSetup, normal_address
from builder.guest.seed import Identity, files, with_cards
from builder.recipe.variables import check_variable

pytestmark = pytest.mark.unit

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKvvmWzS3gvGsl2u4Lbmap6ZxYEkB/qYhVeLr2Oz4SlG me@host"
MAC = "52:54:00:11:22:33"
FIRST_BOOT = Path(__file__).parents[2] / "kickstarts" / "snippets" / "first-boot.sh"
LONG = "a" * 63
EL_CARD = ("DEVICE=eth0", f"HWADDR={MAC}", "IPADDR=192.168.1.5", "GATEWAY=192.168.1.1", "DNS1=192.168.1.2")

# What is given, and what host and guest make of it: the form that is written, or None where it is refused.
ADDRESSES = {
    "192.168.1.5/24": "192.168.1.5/24",
    "192.168.1.5/255.255.255.0": "192.168.1.5/24",
    "192.168.1.5/024": "192.168.1.5/24",
    "10.0.0.1/31": "10.0.0.1/31",
    "10.0.0.1/32": "10.0.0.1/32",
    "10.255.255.254/8": "10.255.255.254/8",
    "192.168.1.5": None,
    "192.168.1.5/": None,
    "192.168.1.5/0": None,
    "192.168.1.5/33": None,
    "192.168.1.5/0.0.0.255": None,
    "192.168.1.5/255.0.255.0": None,
    "192.168.1.05/24": None,
    "192.168.1.256/24": None,
    "192.168.1/24": None,
    "192.168.1.5./24": None,
    "fd00::5/64": "fd00::5/64",
    "FD00:0:0::5/64": "fd00::5/64",
    "2001:db8:1:2:3:4:5:6/128": "2001:db8:1:2:3:4:5:6/128",
    "2001:db8::/127": "2001:db8::/127",
    "fd00::5": None,
    "fd00::5/": None,
    "fd00::5/0": None,
    "fd00::5/129": None,
    "fd00::5::6/64": None,
    "fd00:::5/64": None,
    "fd00::12345/64": None,
    "fd00:1:2:3:4:5:6/64": None,
    "fd00:1:2:3:4:5:6:7:8/64": None,
    "fd00:1:2:3::4:5:6:7:8/64": None,
    ":fd00::5/64": None,
    "fd00::5:/64": None,
    "fd00::g/64": None,
    "::ffff:192.168.1.5/96": None,
    "fd00::5%eth0/64": None,
    "192.168.1.5.6/24": None,
    " 192.168.1.5/24": None,
    "192.168.1.5/24 ": None,
    "": None,
}
# Accepted by a guest, which does not look at networks; the host does.
ONLY_HOST = (
    *("192.168.1.0/24", "192.168.1.255/24", "127.0.0.1/8", "224.0.0.5/24", "0.0.0.5/24", "255.255.255.255/32"),
    *("fd00::/64", "fe80::5/64", "::1/128", "::/128", "ff02::1/64", "::ffff:c0a8:105/96", "2001:db8:1:2:3:4:5:0/126"),
)
STATIC = (CardSetup(None, ("192.168.10.19/24",), dhcp=False),)
ROUTED = CardSetup(None, ("192.168.10.20/24",), False, ("192.168.10.1",))
HOST_NAMES = {
    "web": True,
    "web-1.example.org": True,
    "WEB": True,
    "9": True,
    LONG: True,
    f"{LONG[:60]}.abc": True,
    f"{LONG[:60]}.abcd": False,
    f"{LONG}a": False,
    f"{LONG}.a": False,
    "-web": False,
    "web-": False,
    "a.-b": False,
    "a-.b": False,
    "a..b": False,
    ".a": False,
    "a.": False,
    "under_score": False,
    "büro": False,
    "a b": False,
    "": False,
}


def one_card(address: str = "", *gateways: str, mac: str = MAC) -> tuple[CardSetup, ...]:
    """One card, with a static address or by DHCP."""
    return (CardSetup(mac, (address,) if address else (), not address, gateways),)


def test_flat_file_has_one_line_a_fact() -> None:
    identity = Identity("i-1", "web1", (KEY, KEY), one_card("192.168.10.19/24", "192.168.10.2"), ("1.1.1.1", "9.9.9.9"))
    assert files(identity)["builder.conf"].decode().splitlines() == [
        "instance-id=i-1",
        "hostname=web1",
        f"ssh-key={KEY}",
        f"ssh-key={KEY}",
        "address=192.168.10.19/24",
        "gateway=192.168.10.2",
        "dns=1.1.1.1,9.9.9.9",
    ]


def test_nocloud_says_the_same() -> None:
    made = files(Identity("i-1", "web1", (KEY,), one_card("192.168.10.19/24", "192.168.10.2"), ("1.1.1.1",)))
    assert json.loads(made["meta-data"]) == {"instance-id": "i-1", "local-hostname": "web1", "public-keys": [KEY]}
    for name, settings in (("user-data", {}), ("vendor-data", {"disable_root": False, "preserve_hostname": False})):
        head, _, body = made[name].partition(b"\n")
        assert head == b"#cloud-config"
        assert json.loads(body) == settings
    nic = json.loads(made["network-config"])["ethernets"]["eth0"]
    assert (nic["match"], nic["set-name"]) == ({"macaddress": MAC}, "eth0")
    assert nic["addresses"] == ["192.168.10.19/24"]
    assert nic["routes"] == [{"to": "0.0.0.0/0", "via": "192.168.10.2"}]


def test_user_data_of_ones_own_changes_nothing_else() -> None:
    identity = Identity("i-1", "web1", (KEY,), one_card())
    own = b"#!/bin/sh\ntrue\n"
    assert files(identity, user_data=own) == files(identity) | {"user-data": own}


def test_without_address_the_machine_asks_dhcp() -> None:
    assert json.loads(files(Identity("i", "h", (), one_card()))["network-config"])["ethernets"]["eth0"]["dhcp4"] is True


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("i", "web1\nssh-key=x"), "hostname"),
        (("i", "-web1"), "hostname"),
        (("i\n", "web1"), "instance-id"),
        (("i", "h", ("ssh-ed25519 AAAA\nssh-key=y",)), "public key"),
        (("i", "h", ("not a key",)), "public key"),
        (("i", "h", (), (CardSetup(),), ("1.1.1",)), "bad address"),
        (("i", "h", (), (CardSetup(),), ("fe80::1%eth0",)), "names an interface"),
        (("i", "h", (), (CardSetup(None, ("fd00::5/64",), dhcp=False),), ("1.1.1.1",)), "no card has an IPv4 address"),
        (("i", "h", (), (CardSetup(),) * 9), "takes 8 network cards, not 9"),
        (("i", "h", (), (*STATIC, *STATIC)), "two cards have the address 192.168.10.19"),
        (("i", "h", (), (ROUTED, CardSetup(None, ("10.0.0.2/8",), False, ("10.0.0.1",)))), "two cards have a gateway"),
    ],
)
def test_refused(values: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Identity(*values)


@pytest.mark.parametrize(
    ("addresses", "gateways", "message"),
    [
        (["192.168.10.19"], [], "prefix length"),
        (["192.168.10.19/24"], ["192.168.19.2"], "gateway 192.168.19.2 lies outside 192.168.10.0/24"),
        (["192.168.10.300/24"], [], "bad address"),
        (["192.168.10.0/24"], [], "cannot be assigned to a VM"),
        (["192.168.10.255/24"], [], "cannot be assigned to a VM"),
        (["192.168.10.2/24"], ["192.168.10.2"], "is the address of the gateway"),
        (["fd00::2/64"], ["fd00::2"], "is the address of the gateway"),
        (["fd00::2/64"], ["fd01::1"], "gateway fd01::1 lies outside fd00::/64"),
        (["fd00::2/64"], ["192.168.10.1"], "the card has no IPv4 address of its own"),
        (["192.168.10.2/24"], ["fe80::1"], "the card has no IPv6 address of its own"),
        (["fd00::2/64"], ["fe80::1%eth0"], "names an interface"),
        (["fd00::2/64"], ["fd00::1", "fe80::1"], "two IPv6 gateways: fd00::1 and fe80::1"),
        (["10.0.0.2/8", "10.0.0.3/8"], [], "two IPv4 addresses: 10.0.0.2/8 and 10.0.0.3/8"),
        (["fd00::2/64", "fd00::3/64"], [], "two IPv6 addresses"),
    ],
)
def test_a_card_that_no_guest_can_set_up(addresses: list[str], gateways: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        CardSetup(None, tuple(addresses), False, tuple(gateways))


def test_a_card_gets_its_ipv4_address_in_one_way() -> None:
    with pytest.raises(RecipeError, match=r"dhcp and 10.0.0.2/8"):
        CardSetup(None, ("10.0.0.2/8",), dhcp=True)
    with pytest.raises(RecipeError, match="no address and asks nobody"):
        CardSetup(None, (), dhcp=False)


TWO_CARDS = (
    CardSetup(MAC, ("192.0.2.5/24", "2001:DB8::5/64"), False, ("192.0.2.1", "fe80::1")),
    CardSetup("52:54:00:44:55:66", ("fd00::5/64",), dhcp=True),
)


def test_a_line_for_each_card() -> None:
    made = files(Identity("i-1", "web1", (), TWO_CARDS, ("192.0.2.53", "2001:db8::53")))
    assert made["builder.conf"].decode().splitlines()[2:] == [
        f"card={MAC} 192.0.2.5/24 2001:db8::5/64 via=192.0.2.1 via=fe80::1 dns=192.0.2.53 dns=2001:db8::53",
        "card=52:54:00:44:55:66 dhcp fd00::5/64 no-default4 no-default6 no-dns",
    ]
    cards = json.loads(made["network-config"])["ethernets"]
    assert cards == {
        "eth0": {
            "match": {"macaddress": MAC},
            "set-name": "eth0",
            "addresses": ["192.0.2.5/24", "2001:db8::5/64"],
            "accept-ra": False,
            "routes": [{"to": "0.0.0.0/0", "via": "192.0.2.1"}],
            "gateway6": "fe80::1",
            "nameservers": {"addresses": ["192.0.2.53", "2001:db8::53"]},
        },
        "eth1": {
            "match": {"macaddress": "52:54:00:44:55:66"},
            "set-name": "eth1",
            "dhcp4": True,
            "dhcp4-overrides": {"use-routes": False, "route-metric": 1000, "use-dns": False},
            "addresses": ["fd00::5/64"],
            "accept-ra": False,
        },
    }


def test_other_cards_are_written_into_a_seed_that_is_there() -> None:
    """All else stays as it is, also what this version of builder does not know."""
    old = files(Identity("i-1", "web1", (KEY,), one_card("192.168.10.19/24", "192.168.10.2"), ("192.168.10.3",)))
    texts = {**old, "user-data": b"#cloud-config\n{}\n", "random": b"\0\n=\xff"}
    new = with_cards(texts, TWO_CARDS, ("192.0.2.53",))
    made = files(Identity("i-1", "web1", (KEY,), TWO_CARDS, ("192.0.2.53",)))
    assert new == {**texts, "builder.conf": made["builder.conf"], "network-config": made["network-config"]}
    # A card that is to ask DHCP again has to be told so: what the guest has is static.
    again = with_cards(new, one_card(), ())["builder.conf"].decode().splitlines()
    assert again == ["instance-id=i-1", "hostname=web1", f"ssh-key={KEY}", f"card={MAC} dhcp"]
    with pytest.raises(RecipeError, match="two cards have the address"):
        with_cards(texts, (*STATIC, *STATIC), ())


def test_of_cards_that_ask_dhcp_the_first_has_the_default_route() -> None:
    cards = (CardSetup(MAC), CardSetup("52:54:00:44:55:66"), CardSetup("52:54:00:44:55:67"))
    lines = files(Identity("i", "h", (), cards))["builder.conf"].decode().splitlines()[2:]
    assert [line.split()[1:] for line in lines] == [["dhcp"], ["dhcp", "no-default4"], ["dhcp", "no-default4"]]
    last = (*cards[:2], CardSetup(cards[2].mac, ("10.0.0.2/8",), False, ("10.0.0.1",)))
    lines = files(Identity("i", "h", (), last))["builder.conf"].decode().splitlines()[2:]
    assert [line.split()[2:] for line in lines] == [["no-default4"], ["no-default4"], ["via=10.0.0.1"]]


CARD = one_card("10.0.0.2/8", "10.0.0.1")


@given(hostname=st.text(), instance=st.text(), key=st.text(), dns=st.lists(st.text(), max_size=2))
def test_no_value_adds_a_line(hostname: str, instance: str, key: str, dns: list[str]) -> None:
    try:
        made = files(Identity(instance, hostname, (key,), one_card("10.0.0.2/8", "10.0.0.1"), tuple(dns)))[
            "builder.conf"
        ]
    except RecipeError:
        return
    assert len(made.split(b"\n")) == 7 - (not dns)


@pytest.fixture(scope="module")
def guest() -> Callable[[str, str], bool]:
    """Whether a function of the first-boot unit accepts its argument, in the shell that this host has."""
    text = FIRST_BOOT.read_text()
    functions = "".join(
        text[text.index(f"{name}() {{") : text.index("\n}\n", text.index(f"{name}() {{")) + 3]
        for name in ("is_hostname", "is_address", "is_prefix", "is_address6", "is_prefix6")
    )

    def ask(name: str, value: str) -> bool:
        return subprocess.run(["sh", "-c", f'{functions}\n{name} "$1"', "sh", value], check=False).returncode == 0

    return ask


@pytest.mark.parametrize("given", ADDRESSES)
def test_what_the_host_writes_the_guest_takes(given: str, guest: Callable[[str, str], bool]) -> None:
    expected = ADDRESSES[given]
    try:
        written = normal_address(given)
    except RecipeError:
        written = None
    assert written == expected
    address, slash, prefix = (written or given).partition("/")
    six = "6" if ":" in address else ""
    taken = bool(slash) and guest(f"is_address{six}", address) and guest(f"is_prefix{six}", prefix)
    assert taken == (expected is not None)


@given(st.ip_addresses(v=6), st.integers(1, 128))
def test_whatever_ipv6_address_the_host_writes_the_guest_takes(
    guest: Callable[[str, str], bool], address: ipaddress.IPv6Address, prefix: int
) -> None:
    try:
        written = normal_address(f"{address.exploded}/{prefix}")
    except RecipeError:
        return
    assert guest("is_address6", written.partition("/")[0])
    assert guest("is_prefix6", written.partition("/")[2])


@pytest.mark.parametrize("given", ONLY_HOST)
def test_addresses_that_no_machine_can_have(given: str) -> None:
    with pytest.raises(RecipeError, match="cannot be assigned to a VM"):
        normal_address(given)


@pytest.mark.parametrize("name", HOST_NAMES)
def test_host_names_are_the_same_for_recipe_seed_and_guest(name: str, guest: Callable[[str, str], bool]) -> None:
    try:
        Identity("i", name)
        in_seed = True
    except RecipeError:
        in_seed = False
    in_recipe = check_variable("hostname", name) is None
    assert (in_recipe, in_seed, guest("is_hostname", name)) == (HOST_NAMES[name],) * 3


@pytest.mark.skipif(not shutil.which("cloud-init"), reason="needs cloud-init")
@pytest.mark.parametrize(
    ("distro", "kind", "path", "parts"),
    [
        (distro, "sysconfig", "etc/sysconfig/network-scripts/ifcfg-eth0", EL_CARD)
        for distro in ("centos", "rocky", "almalinux")
    ]
    + [
        (distro, "netplan", "etc/netplan/50-cloud-init.yaml", (MAC, "set-name: eth0", "192.168.1.5/24"))
        for distro in ("debian", "ubuntu")
    ]
    + [("debian", "eni", "etc/network/interfaces.d/50-cloud-init", ("iface eth0 inet static", "192.168.1.5/24"))],
)
def test_cloud_init_gives_the_card_its_address(
    tmp_path: Path, distro: str, kind: str, path: str, parts: tuple[str, ...]
) -> None:
    seed = files(Identity("i", "web", (), one_card("192.168.1.5/24", "192.168.1.1"), ("192.168.1.2",)))
    (tmp_path / "network-config").write_bytes(seed["network-config"])
    words = ["cloud-init", "devel", "net-convert", "--network-data", str(tmp_path / "network-config"), "--kind", "yaml"]
    words += ["--output-kind", kind, "--distro", distro, "--directory", str(tmp_path / "out"), "-m", f"eth0,{MAC}"]
    subprocess.run(words, check=True, capture_output=True)
    text = (tmp_path / "out" / path).read_text()
    assert [part for part in parts if part not in text] == []
