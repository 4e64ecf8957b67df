"""Folders with blanks, percent signs and quotes, as ssh(1) and Ansible read them back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from builder.errors import HostError
from builder.guest import ssh, ssh_words
from tests.fakes.sshd import sshd

FOLDERS = ["100%d ein Ort", "job%2Fmain", "a'b", "a  b", "%%", "#a;b=c", "a,b$HOME", "büro~(1)", "%h%%u "]
REFUSED = ['a"b', "a\\b", "a\nb", "a${HOME}b", "a{{ b }}", "a{% b", "a{# b"]


def options(folder: Path, port: int) -> dict[str, str]:
    """Options with paths below a folder, as those of a clone are."""
    return {
        "HostName": "127.0.0.1",
        "Port": str(port),
        "User": "root",
        "HostKeyAlias": "builder-x",
        "UserKnownHostsFile": str(folder / "known_hosts"),
        "StrictHostKeyChecking": "yes",
        "IdentityFile": str(folder / "key"),
        "IdentitiesOnly": "yes",
    }


@pytest.mark.parametrize("name", FOLDERS)
def test_ssh_logs_in_with_files_of_such_a_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "key").touch(mode=0o600)
    (folder / "key").write_bytes(ssh.make_private_key())
    key, host_key = ssh.load_key(folder / "key"), ssh.make_keypair()
    (folder / "known_hosts").write_text(f"builder-x {host_key.public}\n")
    with sshd(host_key.private, key) as port:
        given = options(folder, port)
        config = tmp_path / "config"
        config.write_text(ssh_words.config("web", given))
        for words in ([*ssh_words.words(given), "-F", "none"], ["-F", str(config)]):
            done = subprocess.run(
                ["ssh", *words, "-o", "BatchMode=yes", "-o", "GlobalKnownHostsFile=/dev/null", "web", "echo in"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            assert (done.returncode, done.stdout) == (0, "in\n"), done.stderr


@pytest.mark.skipif(not shutil.which("ansible"), reason="needs Ansible")
def test_ansible_logs_in_with_files_of_such_folders(tmp_path: Path) -> None:
    host_key, hosts, lines = ssh.make_keypair(), list[str](), list[str]()
    key = tmp_path / "key"
    key.touch(mode=0o600)
    key.write_bytes(ssh.make_private_key())
    with sshd(host_key.private, ssh.load_key(key)) as port:
        for number, name in enumerate(FOLDERS):
            folder = tmp_path / name
            folder.mkdir()
            shutil.copy(key, folder / "key")
            (folder / "known_hosts").write_text(f"builder-x {host_key.public}\n")
            hosts.append(f"vm{number}")
            lines.append(ssh_words.inventory_line(hosts[-1], options(folder, port)))
        inventory = tmp_path / "inventory.ini"
        inventory.write_text("[toy]\n" + "\n".join(lines) + "\n")
        environment = {**os.environ, "HOME": str(tmp_path), "ANSIBLE_LOCAL_TEMP": str(tmp_path / "tmp")}
        # The server has neither terminals nor connections that stay, and waits for the end of its input.
        program = tmp_path / "ssh"
        program.write_text('#!/bin/sh\nexec ssh "$@" < /dev/null\n')
        program.chmod(0o755)
        environment |= {"ANSIBLE_SSH_USETTY": "False", "ANSIBLE_SSH_ARGS": "", "ANSIBLE_SSH_EXECUTABLE": str(program)}
        words = ["-i", str(inventory)]
        read = subprocess.run(
            ["ansible-inventory", *words, "--list"], env=environment, capture_output=True, text=True, check=True
        )
        assert sorted(json.loads(read.stdout)["_meta"]["hostvars"]) == hosts
        done = subprocess.run(
            ["ansible", *words, "-m", "raw", "-a", "echo in", "all"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout.count("rc=0")) == (0, len(FOLDERS)), done.stdout + done.stderr


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_quoted_is_refused(name: str) -> None:
    given = options(Path("/srv") / name, 22)
    for write in (ssh_words.words, lambda some: ssh_words.inventory_line("web", some)):
        with pytest.raises(HostError, match="cannot be given a path"):
            write(given)
