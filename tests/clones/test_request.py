"""Bad requests are refused before libvirt, the catalogue or a registry is queried."""

from __future__ import annotations

from typing import Any

import pytest

from builder.clones.change import VmChanges
from builder.clones.request import CloneRequest
from builder.errors import RecipeError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "web_1"}, "'web_1' is not a valid name"),
        ({"name": "w" * 62, "count": 2}, "is not a valid name"),
        ({"address": "10.0.2.9/24", "gateway": "10.0.3.1"}, "gateway 10.0.3.1 lies outside"),
        ({"address": "10.0.2.9"}, "has no prefix length"),
        ({"address": "10.0.2.253/24", "count": 3}, "has fewer than 3 addresses"),
        ({"address": "255.255.255.255/32", "count": 2}, "has fewer than 2 addresses|cannot be assigned"),
        ({"gateway": "10.0.2.1"}, "--gateway without --address"),
        ({"dns": ("10.0.2.3",)}, "--dns without --address"),
        ({"address": "10.0.2.9/24", "dns": ("one",)}, "bad address"),
        ({"address": "10.0.2.0/24"}, "10.0.2.0 cannot be assigned"),
        ({"address": "10.0.2.255/24"}, "10.0.2.255 cannot be assigned"),
        ({"hostname": "under_score"}, "hostname 'under_score' is refused"),
        ({"network": "lan"}, "unknown kind of network"),
        ({"memory": 1 << 20}, "fewer than 64 MiB"),
        ({"address": "10.0.2.8/24", "gateway": "10.0.2.9", "count": 2}, "10.0.2.9 is the address of the gateway"),
        ({"memory": (64 << 20) + 1}, "not a whole number of MiB"),
        ({"host_devices": ("01:00.0",), "count": 2}, "one VM only"),
        ({"host_devices": ("eth0",)}, "no PCI address"),
    ],
)
def test_a_request_that_exists_is_valid(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        CloneRequest(**{"name": "web", **values})


def test_clones_get_names_and_addresses_in_turn() -> None:
    request = CloneRequest("web", count=2, hostname="www.example.org", address="192.168.7.9/24")
    assert request.names() == ["web-1", "web-2"]
    hosts = [("www-1.example.org", "192.168.7.9/24"), ("www-2.example.org", "192.168.7.10/24")]
    assert list(request.hosts()) == hosts


def test_changes_are_checked_in_the_same_way() -> None:
    for values, message in (
        ({}, "nothing to change"),
        ({"memory": 12}, "fewer than 64 MiB"),
        ({"network": "lan"}, "unknown kind of network"),
    ):
        with pytest.raises(RecipeError, match=message):
            VmChanges(**values)
    assert VmChanges(vcpus=2).kinds == ["vcpus"]
