"""Running a playbook against a guest with the ansible-playbook that is installed.

Invariant: it gets a host, a key and the host key, and asks nothing.
"""

from __future__ import annotations

from pathlib import Path

from builder.errors import Cause, InstallError, Source
from builder.guest import ssh_words
from builder.system import process

PROGRAM = "ansible-playbook"


def require() -> None:
    """Make sure that ansible-playbook is installed.

    Raises:
        HostError: it is not installed.
    """
    process.find(PROGRAM)


def play(tree: Path, playbook: str, *, port: int, key: Path, host_key: str, work: Path) -> str:
    """Run a playbook against the one machine on 127.0.0.1; returns its output.

    Args:
        tree: the playbook's folder; roles, templates and an ansible.cfg in it are found.
        key: root's private key, in a file.
        host_key: type and base64, as known_hosts has it; no other is accepted.
        work: for the files that ansible is configured by.

    Raises:
        InstallError: a task failed.
    """
    known = work / "known_hosts"
    known.write_text(f"[127.0.0.1]:{port} {host_key}\n", encoding="utf-8")
    options = {
        "HostName": "127.0.0.1",
        "Port": str(port),
        "User": "root",
        "IdentityFile": str(key),
        "UserKnownHostsFile": str(known),
        "StrictHostKeyChecking": "yes",
        "IdentitiesOnly": "yes",
    }
    inventory = work / "inventory.ini"
    inventory.write_text(f"{ssh_words.inventory_line('machine', options)}\n", encoding="utf-8")
    done = process.run(
        [PROGRAM, "-i", inventory, playbook],
        cwd=tree,
        env={"ANSIBLE_HOST_KEY_CHECKING": "True", "ANSIBLE_LOCAL_TEMP": str(work / "ansible"), "ANSIBLE_NOCOLOR": "1"},
        check=False,
    )
    if done.status != 0:
        # What went wrong stands in its output; its standard error has warnings only.
        words = "\n".join(done.stdout.strip().splitlines()[-20:])
        raise InstallError(
            f"provision: playbook {tree.name}/{playbook} failed (exit status {done.status})",
            f"{words}\n{done.error_text}".strip(),
            cause=Cause.PROVISION_FAILED,
            source=Source.PROVISION_LOG,
        )
    return done.stdout
