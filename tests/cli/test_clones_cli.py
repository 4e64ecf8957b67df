"""`builder clone` and `builder vm`, as far as they need neither libvirt nor a registry."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest

pytestmark = pytest.mark.unit

Run = Callable[..., subprocess.CompletedProcess[str]]


# Nothing answers at this address.
REMOTE = ["clone", "oci://127.0.0.1:9/toy:1", "web"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*REMOTE, "--gateway", "10.0.2.1"], "--gateway without --address"),
        (
            [*REMOTE, "--network", "nat", "--address", "10.0.2.9/24", "--address", "dhcp"],
            "one card has two ways to an IPv4 address",
        ),
        (
            [*REMOTE, "--address=10.0.2.9/24", "--network", "nat", "--network=bridge:br0"],
            "--address 10.0.2.9/24 stands before the first --network",
        ),
        (
            [*REMOTE, "--network", "nat", "--network", "bridge:br0", "--memory", "1GiB", "--gateway", "10.0.2.2"],
            "card 2, bridge:br0: --gateway without --address",
        ),
        (["clone", "toy", "web", "--wait", "--no-start"], "--wait and --no-start exclude each other"),
        (
            ["clone", "toy", "web", "--ansible-inventory", "--ssh-config"],
            "only one of --ansible-inventory, --ssh-config and --json",
        ),
        (
            ["vm", "list", "--ansible-inventory", "--ssh-config"],
            "only one of --ansible-inventory, --ssh-config and --json",
        ),
        (
            ["clone", "toy", "web", "--network", "bridge:br0", "--ssh-config"],
            "the addresses of VMs on a bridge are known only once they are up",
        ),
        (["clone", "oci://127.0.0.1:9/toy:1", "web", "--ssh-key", "missing.pub"], "cannot read key file missing.pub"),
        (["clone", "toy", "web", "--memory", "2GB"], "--memory: '2GB' is no"),
        (["clone", "toy", "web", "--connect", "qemu+ssh://host/system"], "--connect qemu+ssh://host/system: builder"),
        (["vm", "set", "web"], "nothing to change"),
        (["vm", "set", "web", "--memory", "12"], "--memory: 12 bytes are fewer than 64 MiB"),
        (["vm", "snapshot", "web", "--revert"], "the name of a snapshot is missing"),
        (["vm", "snapshot", "web", "one", "--revert", "--delete"], "--revert and --delete exclude each other"),
    ],
)
def test_bad_words_exit_2(builder: Run, words: list[str], message: str) -> None:
    done = builder(*words)
    assert (done.returncode, done.stderr.startswith(f"error: {message}")) == (2, True), done.stderr


def test_without_vms_the_list_is_empty(builder: Run) -> None:
    assert builder("vm", "list").stdout == "no VMs\n"
    assert json.loads(builder("vm", "list", "--json").stdout) == []
    assert builder("vm", "list", "--ssh-config").stdout == ""
