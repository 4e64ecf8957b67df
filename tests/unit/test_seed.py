"""The seed CD's files: the content for the guest, and what is refused before it is written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import RecipeError
from builder.guest.seed import Identity, files

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHk= me@host"


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
    made = files(Identity("i-1", "web1", (KEY,), "192.168.10.19/24", "192.168.10.2", ("1.1.1.1",)))
    assert json.loads(made["meta-data"]) == {"instance-id": "i-1", "local-hostname": "web1"}
    head, _, body = made["user-data"].partition(b"\n")
    assert head == b"#cloud-config"
    assert json.loads(body)["ssh_authorized_keys"] == [KEY]
    nic = json.loads(made["network-config"])["ethernets"]["nic0"]
    assert nic["addresses"] == ["192.168.10.19/24"]
    assert nic["routes"] == [{"to": "0.0.0.0/0", "via": "192.168.10.2"}]


def test_without_address_the_machine_asks_dhcp() -> None:
    assert json.loads(files(Identity("i", "h"))["network-config"])["ethernets"]["nic0"]["dhcp4"] is True


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
