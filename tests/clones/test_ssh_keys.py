"""Several keys for the root of clones: each is let in, and builder logs in with one whose private half it knows."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from builder.clones.create import CreateOptions
from builder.clones.record import SEED
from builder.clones.ssh_keys import read_keys
from builder.guest import ssh
from tests.clones.conftest import CloneEnv


def key_files(folder: Path, name: str) -> tuple[Path, Path]:
    """A private key and its public half, which are not beside each other."""
    private, public = folder / name, folder / f"only-{name}.pub"
    private.write_bytes(ssh.make_private_key())
    private.chmod(0o600)
    public.write_text(f"{ssh.public_line(ssh.load_key(private), f'{name}@host')}\n")
    return private, public


@pytest.mark.unit
def test_a_key_that_is_given_twice_counts_once(tmp_path: Path) -> None:
    one, one_public = key_files(tmp_path, "one")
    two, two_public = key_files(tmp_path, "two")
    keys = read_keys([one_public, two_public, one, one_public])
    assert [key.private for key in keys] == [one, None]
    assert [key.line.split()[2] for key in keys] == ["one@host", "two@host"]
    assert CreateOptions(keys=keys).private_key == one
    assert CreateOptions(keys=read_keys([two_public])).private_key is None
    assert CreateOptions(keys=read_keys([two_public, two, one])).private_key == two


@pytest.mark.vm
def test_every_key_is_in_the_seed_and_one_logs_in(house: CloneEnv) -> None:
    one, _ = key_files(house.folder, "one")
    _, two_public = key_files(house.folder, "two")
    words = ("clone", "toy", house.name("web"), "--no-start", "--ssh-key", str(two_public), "--ssh-key", str(one))
    done = house.run(*words)
    assert done.returncode == 0, done.stderr
    shown = [line.split(maxsplit=1)[1] for line in done.stdout.splitlines() if line.startswith("key ")]
    assert shown == ["the private half of two@host", "one"]
    (vm,) = json.loads(house.run("vm", "list", "--json").stdout)
    assert vm["key"] == str(one)
    seed = house.vms / vm["name"] / SEED
    read = ["isoinfo", "-R", "-i", str(seed), "-x"]
    conf = subprocess.run([*read, "/builder.conf"], check=True, capture_output=True, text=True).stdout
    lines = [line for line in conf.splitlines() if line.startswith("ssh-key=")]
    assert [line.split()[1] for line in lines] == [key.line.split()[1] for key in read_keys([two_public, one])]
    meta_data = subprocess.run([*read, "/meta-data"], check=True, capture_output=True, text=True).stdout
    assert [f"ssh-key={key}" for key in json.loads(meta_data)["public-keys"]] == lines
