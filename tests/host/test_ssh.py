"""Over SSH a change is kept only when a new session proves that the host can still be reached."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder.system import retry
from tests.host.conftest import GATEWAY, OWN, SOURCE, World

Ssh = Callable[[str], subprocess.Popen[str]]
BUILDER = f"PYTHONPATH={SOURCE} {sys.executable} -m builder"
CHANGE = f"{BUILDER} host prepare --network-only --bridge br0 --uplink up0 --address {OWN}/24 --gateway {GATEWAY}"
CONFIG = """\
Port 2222
HostKey {key}
AuthorizedKeysFile {key}.pub
StrictModes no
UsePAM no
PermitRootLogin yes
PidFile none
"""


@pytest.fixture
def ssh(equipped: World, tmp_path: Path) -> Iterator[Ssh]:
    """A way into the host from its gateway: every call is a session of its own."""
    host, gateway = equipped
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-t", "ed25519", "-f", key], check=True)
    (tmp_path / "sshd_config").write_text(CONFIG.format(key=key))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SSH_")}
    log = (tmp_path / "sshd.log").open("w")
    words = ["/usr/sbin/sshd", "-D", "-e", "-f", tmp_path / "sshd_config"]
    with log, subprocess.Popen(host.enter(*words), env=kept, stderr=log) as server:
        options = [
            "StrictHostKeyChecking=no",
            f"UserKnownHostsFile={tmp_path}/known",
            "LogLevel=ERROR",
            "BatchMode=yes",
        ]
        flags = [word for option in options for word in ("-o", option)]

        def session(command: str) -> subprocess.Popen[str]:
            to = ["ssh", "-p", "2222", "-i", key, *flags, f"root@{OWN}", command]
            return subprocess.Popen(gateway.enter(*to), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

        try:
            assert retry.until(lambda: "listening" in (tmp_path / "sshd.log").read_text() or None, within=10)
            yield session
        finally:
            server.kill()


def test_confirmed_from_a_new_session(equipped: World, ssh: Ssh) -> None:
    host, _ = equipped
    before = host.network()
    # An older session tries first, then a new one.
    with ssh(f"read go; {BUILDER} host confirm") as old, ssh(CHANGE) as changer:
        assert changer.stderr is not None
        assert any("host confirm" in line for line in changer.stderr)
        with ssh(f"{BUILDER} host confirm") as new:
            assert new.wait(60) == 0
        assert changer.wait(60) == 0
        old.kill()
    assert "br0" in host.run("ip", "route", "show", "default").stdout
    with ssh(f"{BUILDER} host restore") as back:
        assert back.wait(60) == 0
    assert host.network() == before


def test_not_confirmed_from_an_older_session(equipped: World, ssh: Ssh) -> None:
    host, _ = equipped
    before = host.network()
    wait = "while ! ls /sys/class/net/br0 >/dev/null 2>&1; do sleep 0.1; done; sleep 1"
    with ssh(f"echo here; {wait}; {BUILDER} host confirm") as old:
        assert old.stdout is not None
        assert old.stdout.readline() == "here\n"
        with ssh(f"{CHANGE} --confirm-within 15s") as changer:
            out, err = changer.communicate(timeout=60)
            assert changer.returncode == 3, out + err
        refused = old.communicate(timeout=60)[1]
    assert "this session is older than the change" in refused
    assert host.network() == before


@pytest.mark.slow
def test_the_session_is_cut_off(equipped: World, ssh: Ssh) -> None:
    host, _ = equipped
    before = host.network()
    with ssh(f"{CHANGE} --confirm-within 5s") as changer:
        assert changer.stderr is not None
        assert any("host confirm" in line for line in changer.stderr)
        changer.kill()
    assert retry.until(lambda: host.network() == before or None, within=30, every=0.2)
