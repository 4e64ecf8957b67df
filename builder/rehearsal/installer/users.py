# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""Make users and groups as Anaconda does with libuser (rhel7-branch, users.py: createUser, createGroup; kickstart.py).

Invariant: passwords are passed through standard input only. What cannot be made is logged, and the install goes on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import log, program
from .disk.storage import ROOT


def _entries(root: Path, file: str) -> dict[str, list[str]]:
    """The lines of /etc/passwd or /etc/group, by name."""
    rows = [line.split(":") for line in (root / "etc" / file).read_text().splitlines()]
    return {row[0]: row for row in rows}


def algorithm(authconfig: str) -> str:
    """Return the hash of plain passwords that `auth` asks for (users.py: getPassAlgo)."""
    if "--enablemd5" in authconfig or "--passalgo=md5" in authconfig:
        return "MD5"
    return "SHA256" if "--passalgo=sha256" in authconfig else "SHA512"


def plan(data: Any, names: set[str], groups: set[str]) -> list[list[str]]:
    """The commands that make one user; none when there is one of that name.

    The user's own group is made with it, of the groups it is to be in only those that are there.

    Args:
        names: of the users that are there.
        groups: of the groups that are there.
    """
    if data.name in names:
        return []
    own = ["groupadd", *(["--gid", str(data.gid)] if data.gid is not None else []), data.name]
    words = ["--create-home", "--shell", data.shell or "/bin/bash", "--no-user-group", "--gid", data.name]
    words += ["--uid", str(data.uid)] if data.uid is not None else []
    words += ["--comment", data.gecos] if data.gecos else []
    words += ["--home-dir", data.homedir] if data.homedir else []
    others = [name for name in dict.fromkeys(data.groups) if name in groups and name != data.name]
    words += ["--groups", ",".join(others)] if others else []
    return [*([] if data.name in groups else [own]), ["useradd", *words, data.name]]


def apply(ks: Any) -> None:
    """rootpw, group, user and sshkey."""
    root, hashed = ks.rootpw, algorithm(ks.authconfig.authconfig)
    if root.password:
        _password("root", root.password, "" if root.isCrypted else hashed)
    if root.lock or not root.password:
        program.run("usermod", "--lock", "root", root=ROOT)
    for data in ks.group.groupList:
        _group(data)
    for data in ks.user.userList:
        _user(data, hashed)
    for data in ks.sshkey.sshUserList:
        _key(data.username, data.key)


def _group(data: Any) -> None:
    if data.name in _entries(ROOT, "group"):
        log.error("anaconda", f"Group {data.name} already exists, not creating.")
        return
    words = ["--gid", str(data.gid)] if data.gid is not None else []
    program.run("groupadd", *words, data.name, root=ROOT, check=False)


def _user(data: Any, hashed: str) -> None:
    names, groups = set(_entries(ROOT, "passwd")), set(_entries(ROOT, "group"))
    commands = plan(data, names, groups)
    if not commands:
        log.error("anaconda", f"User {data.name} already exists, not creating.")
        return
    home = ROOT / (data.homedir or f"/home/{data.name}").lstrip("/")
    there = home.exists()
    home.parent.mkdir(parents=True, exist_ok=True)
    for words in commands:
        program.run(*words, root=ROOT, check=False)
    if data.name not in _entries(ROOT, "passwd"):
        log.write("CRIT", "anaconda", f"Error when creating new user: {data.name}")
        return
    if data.name in groups:
        # libuser cannot make the group a second time, and what comes after that is left undone.
        log.write("CRIT", "anaconda", f"Error when creating new group: {data.name} exists")
        return
    if there:
        program.run("chown", "-R", f"{data.name}:{data.name}", f"/{home.relative_to(ROOT)}", root=ROOT)
    if data.password:
        _password(data.name, data.password, "" if data.isCrypted else hashed)
    if data.lock:
        program.run("usermod", "--lock", data.name, root=ROOT)


def _password(name: str, password: str, hashed: str) -> None:
    """Set a password; `hashed` is how a plain one is to be hashed, empty for one that is already."""
    words = ["chpasswd", "-c", hashed] if hashed else ["chpasswd", "-e"]
    program.run(*words, root=ROOT, stdin=f"{name}:{password}\n")


def _key(name: str, key: str) -> None:
    entry = _entries(ROOT, "passwd").get(name)
    if entry is None:
        log.error("anaconda", f"setUserSshKey: user {name} does not exist")
        return
    folder = ROOT / entry[5].lstrip("/") / ".ssh"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / "authorized_keys"
    with file.open("a") as out:
        out.write(f"{key}\n")
    file.chmod(0o600)
    program.run("chown", "-R", f"{name}:", f"{entry[5]}/.ssh", root=ROOT)
