"""How each kind of change in the journal is undone.

Invariant: an undo may run twice, and destroys nothing that others made since. An entry that cannot be undone, also one
of a kind that this builder does not know, stops no other.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from builder.errors import HostError
from builder.host import distro as host_system
from builder.host.journal import Entry, Journal
from builder.host.network import rollback
from builder.system import netlink, process
from builder.vm import networks


def restore(journal: Journal, packages: bool, note: Callable[[str], None]) -> list[Entry]:
    """Undo everything that the journal holds, the newest first.

    Args:
        packages: also remove the packages that were installed.
        note: called with a line for each step, and for each line of the journal that is passed over.

    Returns:
        What stays, because it was kept on purpose, was changed by others since, or is of an unknown kind.
    """
    left: list[Entry] = []
    entries = journal.entries()
    if unreadable := journal.unreadable():
        for text in unreadable:
            note(f"warning: {text}")
        journal.keep(entries)
    while entries:
        entry = entries[-1]
        if entry["kind"] == "packages" and not packages:
            left.insert(0, entry)
        else:
            note(title(entry))
            if fault := _undo(entry):
                note(f"  left as it is: {fault}")
                left.insert(0, entry)
        entries.pop()
        journal.keep([*entries, *left])
    return left


def _undo(entry: Entry) -> str:
    """Undo one entry; returns why it could not be undone, or ""."""
    if entry["kind"] not in UNDO:
        return "this builder does not know how to undo it; run the one that recorded it"
    try:
        UNDO[entry["kind"]](entry)
    except (HostError, OSError) as fault:
        return str(fault)
    except Exception as fault:
        # Facts of another shape than this builder writes: one entry is lost, the others must not be.
        return f"its entry in the journal cannot be used: {type(fault).__name__}: {fault}"
    return ""


def rewind(journal: Journal, count: int) -> None:
    """Undo all but the first `count` entries at once, because what they were part of failed.

    Raises:
        HostError, OSError: one could not be undone; it stays in the journal.
    """
    entries = journal.entries()
    while len(entries) > count:
        UNDO[entries[-1]["kind"]](entries[-1])
        entries.pop()
        journal.keep(entries)


def title(entry: Entry) -> str:
    """Say in a line what undoing an entry means; one that this builder cannot read is shown as it is."""
    texts = {
        "file": "put {path} back" if entry.get("backup") else "remove {path}",
        "directory": "remove {path} if it is empty",
        "pool": "make libvirt forget the pool {name}",
        "network": "make libvirt forget the network {name}",
        "service": "switch {name} off again",
        "group": "take {user} out of the group {name}",
        "target": "make {name} the default target",
        "packages": "remove the packages {names}",
        "device": "give {path} the group and the mode back that it had",
        "label": "give {path} the SELinux type back that it had",
        "link": "give {uplink} its addresses back and remove {bridge}",
    }
    unknown = f"undo {json.dumps(entry)[:160]}"
    if entry["kind"] not in texts:
        return unknown
    try:
        text = texts[entry["kind"]].format(**{**entry, "names": " ".join(entry.get("names", ()))})
        guests = _guests(entry) if entry["kind"] == "link" else ""
    except (KeyError, TypeError, ValueError):
        return unknown
    return f"{text}; {guests} lose their network" if guests else text


def _guests(entry: Entry) -> str:
    """Cards of guests on the bridge."""
    ports = Path("/sys/class/net", entry["bridge"], "brif")
    return (
        " ".join(sorted(port.name for port in ports.iterdir() if port.name != entry["uplink"]))
        if ports.is_dir()
        else ""
    )


def _file(entry: Entry) -> None:
    path = Path(entry["path"])
    backup = Path(entry["backup"]) if entry["backup"] else None
    if backup is not None and not backup.exists():
        return
    if path.exists():
        ours = hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]
        same = backup is not None and backup.read_bytes() == path.read_bytes()
        if not ours and not same:
            raise HostError(f"{path} was changed since" + (f"; its backup is {backup}" if backup else ""))
    if backup is None:
        path.unlink(missing_ok=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.builder")
        shutil.copy2(backup, part)
        status = backup.stat()
        os.chown(part, status.st_uid, status.st_gid)
        part.rename(path)
        backup.unlink()
    if entry.get("then"):
        process.run(entry["then"], check=False)


def _directory(entry: Entry) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not any(Path(entry["path"]).iterdir()):
            Path(entry["path"]).rmdir()


def _pool(entry: Entry) -> None:
    networks.remove_pool(entry["uri"], entry["name"])


def _network(entry: Entry) -> None:
    networks.remove_network(entry["uri"], entry["name"])


def _service(entry: Entry) -> None:
    if not entry["enabled"]:
        process.run(["systemctl", "disable", entry["name"]], check=False)
    if not entry["active"]:
        process.run(["systemctl", "stop", entry["name"]], check=False)


def _group(entry: Entry) -> None:
    process.run(["gpasswd", "-d", entry["user"], entry["name"]], check=False)


def _device(entry: Entry) -> None:
    path = Path(entry["path"])
    if not path.exists():
        return
    status = path.stat()
    now = [status.st_gid, stat.S_IMODE(status.st_mode)]
    gid, mode = entry["before"]
    # Also half done: the group was changed, and the mode was not.
    if now not in (entry["before"], entry["after"], [entry["after"][0], mode]):
        raise HostError(f"group or mode of {path} were changed since")
    os.chown(path, -1, gid)
    path.chmod(mode)


def _target(entry: Entry) -> None:
    process.run(["systemctl", "set-default", entry["name"]])


def _label(entry: Entry) -> None:
    process.run(["semanage", "fcontext", "-d", entry["pattern"]], check=False)
    if Path(entry["path"]).exists():
        process.run(["restorecon", "-R", entry["path"]], check=False)


def _packages(entry: Entry) -> None:
    manager = "dnf" if host_system.find().manager == "dnf" else "apt-get"
    process.run([manager, "remove", "-y", *entry["names"]], env={"DEBIAN_FRONTEND": "noninteractive"})


def _link(entry: Entry) -> None:
    """In the boot of the change the recorded state comes back; in a later one, what the bridge has now moves back."""
    uplink, bridge = entry["uplink"], entry["bridge"]
    before = netlink.Snapshot.from_dict(entry["snapshot"])
    if entry["boot"] != Path("/proc/sys/kernel/random/boot_id").read_text().strip():
        if netlink.port_of(uplink) != bridge:
            return
        before = replace(netlink.snapshot(bridge), uplink=uplink)
    rollback.roll_back(before, bridge)


UNDO: dict[str, Callable[[Entry], None]] = {
    "file": _file,
    "directory": _directory,
    "pool": _pool,
    "network": _network,
    "service": _service,
    "group": _group,
    "device": _device,
    "target": _target,
    "packages": _packages,
    "label": _label,
    "link": _link,
}
