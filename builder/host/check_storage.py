"""Checks of directories, changing none: space, access for this user and for QEMU's user, SELinux, AppArmor."""

from __future__ import annotations

import os
import pwd
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from builder.host.finding import HostFinding, read
from builder.system import host_facts
from builder.vm.uri import kind_of

GIB = 1 << 30
# A vendor medium, the remastered copy, the disk and the image of a minimal system together.
ROOM = 8 * GIB
LEAST = 3 * GIB
# Not there where SELinux is not; and the type of what QEMU reads and writes.
ENFORCE = Path("/sys/fs/selinux/enforce")
LABEL = "virt_image_t"


def rows(store: Path, media: Path, recorded: bool, uri: str) -> Iterator[HostFinding]:
    """Directories and their space, access of QEMU's user, SELinux, AppArmor."""
    there = nearest(store)
    why = "" if recorded else "media and images live below the working directory"
    fix = "" if recorded else "builder host prepare"
    yield HostFinding("directories", "ok" if recorded else "info", f"store {store}, media {media}", why, fix)
    yield _space(there)
    if not os.access(there, os.W_OK | os.X_OK):
        yield HostFinding(
            "access", "fail", f"{there} cannot be written to", "everything builder makes goes there", f"ls -ld {there}"
        )
    elif kind_of(uri) == "system":
        user = host_facts.qemu_user()
        name = host_facts.user_name(user[0]) if user else None
        reached = [reach(path, name) for path in dict.fromkeys((there, nearest(media)))]
        yield next((row for row in reached if row.state == "fail"), reached[0])
    else:
        yield HostFinding("access", "ok", "QEMU runs as this user")
    yield _selinux(store)
    yield _apparmor()


def nearest(path: Path) -> Path:
    """The directory itself, or the nearest one above that exists."""
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path


def reach(path: Path, user: str | None) -> HostFinding:
    """Return whether a user gets to a directory: every one on the way must let it through."""
    if user in (None, "root"):
        return HostFinding("access", "ok" if user else "info", f"QEMU runs as {user or 'a user not known yet'}")
    found = pwd.getpwnam(str(user))
    groups = set(os.getgrouplist(found.pw_name, found.pw_gid))
    for directory in reversed([path, *path.parents]):
        status = directory.stat()
        shift = 6 if status.st_uid == found.pw_uid else 3 if status.st_gid in groups else 0
        if not status.st_mode >> shift & 1:
            why = f"machines of qemu:///system run as {user} and must pass through it"
            return HostFinding("access", "fail", f"{directory} is closed to {user}", why, f"chmod o+x {directory}")
    return HostFinding("access", "ok", f"{user} gets to {path}")


def _space(there: Path) -> HostFinding:
    free = shutil.disk_usage(there).free
    text = f"{free / GIB:.1f} GiB free at {there}"
    if free < LEAST:
        return HostFinding("space", "fail", text, f"an image needs {LEAST // GIB} GiB while it is made", "builder gc")
    if free < ROOM:
        return HostFinding(
            "space", "warn", text, f"a vendor medium and its image need up to {ROOM // GIB} GiB", "builder gc"
        )
    return HostFinding("space", "ok", text)


def _selinux(store: Path) -> HostFinding:
    enforce = read(ENFORCE).strip()
    if not enforce:
        return HostFinding("selinux", "ok", "off")
    if enforce == "0":
        return HostFinding("selinux", "ok", "permissive")
    label = label_of(nearest(store))
    if labelled(label):
        return HostFinding("selinux", "ok", f"enforcing, {label}")
    fix = f"semanage fcontext -a -t {LABEL} '{store}(/.*)?' && restorecon -R {store}"
    why = "libvirt labels the files of machines itself; pools and what is copied there need this"
    return HostFinding("selinux", "warn", f"enforcing, {store} is {label}", why, fix)


def label_of(path: Path) -> str:
    """The SELinux context of a file."""
    try:
        return os.getxattr(path, "security.selinux").decode().rstrip("\0")
    except OSError:
        return "no label"


def labelled(label: str) -> bool:
    """Return whether QEMU's domain may read and write what bears this context."""
    return re.search(r":(virt_image_t|svirt_image_t|virt_var_lib_t):", label) is not None


def unknown(path: Path) -> bool:
    """Return whether the policy has no rule of its own for this file: a new directory below / is `default_t`."""
    return ":default_t:" in label_of(path)


def _apparmor() -> HostFinding:
    if read("/sys/module/apparmor/parameters/enabled").strip() != "Y":
        return HostFinding("apparmor", "ok", "off")
    if not Path("/etc/apparmor.d/usr.sbin.libvirtd").exists() and not Path("/etc/apparmor.d/libvirt").is_dir():
        return HostFinding("apparmor", "ok", "on, no profile for libvirt")
    return HostFinding("apparmor", "ok", "on, libvirt writes a profile for each machine")
