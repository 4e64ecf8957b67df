"""Records of clones, also those that were written when a clone had one card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from builder.clones.record import Vm, VmCard, spec
from builder.vm.machine_spec import BridgeNet, LibvirtNet, NetworkCard, UserNet
from tests.clones.test_warm import VM

pytestmark = pytest.mark.unit

FIRST = "52:54:00:00:00:07"
VM_FOLDER = Path("/vms/web")
NEW = {name: value for name, value in VM.model_dump(mode="json").items() if name != "cards"}


@pytest.mark.parametrize(
    ("old", "card", "where"),
    [
        ({"network": "user", "address": None, "gateway": None}, VmCard(mac=FIRST, network="user"), ("127.0.0.1", 2222)),
        (
            {"network": "nat:default", "port": None, "address": None, "gateway": None, "seen": "192.168.122.9"},
            VmCard(mac=FIRST, network="nat:default", seen="192.168.122.9"),
            ("192.168.122.9", 22),
        ),
        (
            {"network": "bridge:br0", "port": None, "address": "192.0.2.5/24", "gateway": "192.0.2.1", "seen": None},
            VmCard(mac=FIRST, network="bridge:br0", addresses=("192.0.2.5/24",), dhcp=False, gateways=("192.0.2.1",)),
            ("192.0.2.5", 22),
        ),
    ],
)
def test_a_record_of_old_is_read(old: dict[str, str | None], card: VmCard, where: tuple[str, int]) -> None:
    read = Vm.model_validate_json(json.dumps({**NEW, "mac": FIRST, **old}))
    assert (read.cards, read.ssh_address) == ((card,), where)
    # And written in the form of today.
    assert Vm.model_validate_json(read.model_dump_json()) == read
    assert "network" not in json.loads(read.model_dump_json())


@pytest.mark.parametrize("address", ["192.0.2.5", "192.0.2.5/99", "one"])
def test_a_record_with_an_address_that_cannot_be_is_damaged(address: str) -> None:
    card = {"mac": FIRST, "network": "nat:default", "addresses": [address], "dhcp": False}
    with pytest.raises(ValidationError, match="address"):
        Vm.model_validate_json(json.dumps({**NEW, "cards": [card]}))


def test_builder_logs_in_over_user_mode_networking_else_over_the_first_card() -> None:
    user = VmCard(mac=FIRST, network="user", addresses=("10.0.2.9/24",), dhcp=False)
    nat = VmCard(mac="52:54:00:00:00:08", network="nat:default", seen="192.168.122.9")
    bridge = VmCard(mac="52:54:00:00:00:09", network="bridge:br0", addresses=("fd00::5/64",), dhcp=False)
    for cards, where in (
        ((nat, bridge, user), ("127.0.0.1", 2222)),
        ((nat, bridge), ("192.168.122.9", 22)),
        ((bridge, nat), ("fd00::5", 22)),
    ):
        vm = VM.model_copy(update={"cards": cards})
        assert vm.ssh_address == where
    machine = spec(VM.model_copy(update={"cards": (nat, bridge, user)}), VM_FOLDER)
    assert machine.cards == (
        NetworkCard(nat.mac, LibvirtNet("default")),
        NetworkCard(bridge.mac, BridgeNet("br0")),
        NetworkCard(user.mac, UserNet(port=2222, guest="10.0.2.9")),
    )
