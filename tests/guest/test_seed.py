"""The seed CD's files: the content for the guest, and what is refused before it is written."""

from __future__ import annotations

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
from builder.guest.seed import Identity, files
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
    "192.168.1.5.6/24": None,
    "fd00::5/64": None,
    " 192.168.1.5/24": None,
    "192.168.1.5/24 ": None,
    "": None,
}
# Accepted by a guest, which does not look at networks; the host does.
ONLY_HOST = ("192.168.1.0/24", "192.168.1.255/24", "127.0.0.1/8", "224.0.0.5/24", "0.0.0.5/24", "255.255.255.255/32")
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


def test_flat_file_has_one_line_a_fact() -> None:
    identity = Identity("i-1", "web1", (KEY, KEY), "192.168.10.19/24", "192.168.10.2", ("1.1.1.1", "9.9.9.9"))
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
    made = files(Identity("i-1", "web1", (KEY,), "192.168.10.19/24", "192.168.10.2", ("1.1.1.1",), MAC))
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
    identity = Identity("i-1", "web1", (KEY,), mac=MAC)
    own = b"#!/bin/sh\ntrue\n"
    assert files(identity, user_data=own) == files(identity) | {"user-data": own}


def test_without_address_the_machine_asks_dhcp() -> None:
    assert json.loads(files(Identity("i", "h", mac=MAC))["network-config"])["ethernets"]["eth0"]["dhcp4"] is True


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("i", "web1\nssh-key=x"), "hostname"),
        (("i", "-web1"), "hostname"),
        (("i\n", "web1"), "instance-id"),
        (("i", "h", ("ssh-ed25519 AAAA\nssh-key=y",)), "public key"),
        (("i", "h", ("not a key",)), "public key"),
        (("i", "h", (), "192.168.10.19"), "prefix length"),
        (("i", "h", (), "192.168.10.19/24", "192.168.19.2"), "lies outside 192.168.10.0/24"),
        (("i", "h", (), "192.168.10.300/24"), "bad address"),
        (("i", "h", (), "192.168.10.0/24"), "cannot be assigned to a VM"),
        (("i", "h", (), "192.168.10.255/24"), "cannot be assigned to a VM"),
        (("i", "h", (), "192.168.10.2/24", "192.168.10.2"), "is the address of the gateway"),
        (("i", "h", (), None, None, ("1.1.1",)), "bad address"),
        (("i", "h", (), "192.168.10.19/24", None, ("1.1.1",)), "bad address"),
    ],
)
def test_refused(values: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Identity(*values)


@given(hostname=st.text(), instance=st.text(), key=st.text(), dns=st.lists(st.text(), max_size=2))
def test_no_value_adds_a_line(hostname: str, instance: str, key: str, dns: list[str]) -> None:
    try:
        made = files(Identity(instance, hostname, (key,), "10.0.0.2/8", "10.0.0.1", tuple(dns)))["builder.conf"]
    except RecipeError:
        return
    assert len(made.split(b"\n")) == 7 - (not dns)


@pytest.fixture(scope="module")
def guest() -> Callable[[str, str], bool]:
    """Whether a function of the first-boot unit accepts its argument, in the shell that this host has."""
    text = FIRST_BOOT.read_text()
    functions = "".join(
        text[text.index(f"{name}() {{") : text.index("\n}\n", text.index(f"{name}() {{")) + 3]
        for name in ("is_hostname", "is_address", "is_prefix")
    )

    def ask(name: str, value: str) -> bool:
        return subprocess.run(["sh", "-c", f'{functions}\n{name} "$1"', "sh", value], check=False).returncode == 0

    return ask


@pytest.mark.parametrize("given", ADDRESSES)
def test_what_the_host_writes_the_guest_takes(given: str, guest: Callable[[str, str], bool]) -> None:
    expected = ADDRESSES[given]
    try:
        written = Identity("i", "h", (), given).address
    except RecipeError:
        written = None
    assert written == expected
    address, slash, prefix = (written or given).partition("/")
    assert (bool(slash) and guest("is_address", address) and guest("is_prefix", prefix)) == (expected is not None)


@pytest.mark.parametrize("given", ONLY_HOST)
def test_addresses_that_no_machine_can_have(given: str) -> None:
    with pytest.raises(RecipeError, match="cannot be assigned to a VM"):
        Identity("i", "h", (), given)


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
    seed = files(Identity("i", "web", (), "192.168.1.5/24", "192.168.1.1", ("192.168.1.2",), MAC))
    (tmp_path / "network-config").write_bytes(seed["network-config"])
    words = ["cloud-init", "devel", "net-convert", "--network-data", str(tmp_path / "network-config"), "--kind", "yaml"]
    words += ["--output-kind", kind, "--distro", distro, "--directory", str(tmp_path / "out"), "-m", f"eth0,{MAC}"]
    subprocess.run(words, check=True, capture_output=True)
    text = (tmp_path / "out" / path).read_text()
    assert [part for part in parts if part not in text] == []
