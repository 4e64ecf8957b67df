"""Facts about this host, looked up on it, with reasons: KVM, QEMU's user, CPUs, space, access to files."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from builder import settings
from builder.errors import Cause, HostError, KvmError
from builder.system import process

CPUINFO = Path("/proc/cpuinfo")
KVM = Path("/dev/kvm")
QEMU_CONF = Path("/etc/libvirt/qemu.conf")
# QEMU's user where qemu.conf names none: Debian and Ubuntu, then RHEL and its kin.
QEMU_USERS = ("libvirt-qemu", "qemu")
KvmAccess = Literal["opens", "denied", "broken"]


@dataclass(frozen=True)
class Accel:
    """The accelerator to use, and why, in a few words for people."""

    name: Literal["kvm", "tcg"]
    why: str


def choose_accel(
    wanted: settings.Accel,
    require_kvm: bool,
    offered: Collection[str],
    qemu_user: tuple[int, int] | None = None,
    *,
    cpuinfo: Path = CPUINFO,
    device: Path = KVM,
) -> Accel:
    """KVM where it can be trusted, else plain emulation.

    KVM needs a CPU that shows `vmx` or `svm`, a device that opens, and libvirt's word. Opening the device alone
    proves nothing: there are hosts where it answers, the CPU shows neither flag, and guests hang at boot.

    Args:
        wanted: `kvm` and `tcg` are taken at their word.
        offered: domain types that libvirt lists for x86_64.
        qemu_user: user and group that QEMU runs as; None when they are our own.

    Raises:
        KvmError: KVM was asked for, by name or by `require_kvm`, and is not there.
    """
    if wanted == "tcg":
        if require_kvm:
            raise KvmError("KVM is required, and TCG was asked for", hint="drop --require-kvm or --accel tcg")
        return Accel("tcg", "asked for")
    doubt = None if _has_flags(cpuinfo) else "the CPU shows neither vmx nor svm"
    missing = (None if wanted == "kvm" else doubt) or _missing_kvm(offered, qemu_user, device)
    if missing is None:
        why = "asked for" if wanted == "kvm" else "the CPU, /dev/kvm and libvirt offer it"
        return Accel("kvm", f"{why}, although {doubt}: guests may hang" if doubt else why)
    if wanted == "kvm" or require_kvm:
        raise KvmError(
            f"KVM is required, but {missing}",
            hint="builder host check says why; switch virtualization on in the firmware (or nesting in the hypervisor "
            "above), or go without --require-kvm and --accel kvm: emulation is about ten times slower",
        )
    return Accel("tcg", missing)


def qemu_user(conf: Path = QEMU_CONF) -> tuple[int, int] | None:
    """Find user and group that the system's libvirt runs QEMU as, without asking a daemon.

    Returns:
        What qemu.conf says, else the distribution's; None when there is no such account.
    """
    try:
        text = conf.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    given = dict(re.findall(r'^\s*(user|group)\s*=\s*"?\+?([^"\s#]+)', text, re.M))
    for name in (given["user"],) if "user" in given else QEMU_USERS:
        with contextlib.suppress(KeyError):
            found = pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
            group = given.get("group")
            if group is None:
                return found.pw_uid, found.pw_gid
            return found.pw_uid, int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    return None


def user_name(uid: int) -> str:
    """Name a user; one without an account by its number."""
    return _known(uid) or str(uid)


def kvm_access(uid: int, gid: int, device: Path = KVM) -> KvmAccess | None:
    """Find out whether a user can use KVM's device, by opening it as this user.

    Args:
        uid, gid: of the user that libvirt runs QEMU as.

    Returns:
        `denied` without the permission; `broken` where the permission is there and it does not open (it has no driver,
        or a container's device filter forbids it); None when there is no device, or only root could find out.
    """
    if os.geteuid() != 0 or not device.exists():
        return None
    script = (
        'if ! test -r "$1" || ! test -w "$1"; then echo denied; elif (: <>"$1"); then echo opens; else echo broken; fi'
    )
    answer = process.run([*_as_user(uid, gid), "sh", "-c", script, "sh", device], cwd=Path("/"), check=False).stdout
    return next((known for known in get_args(KvmAccess) if known == answer.strip()), None)


def phys_bits(cpuinfo: Path = CPUINFO) -> int:
    """Physical address bits of the host's CPU; 0 when it does not say."""
    found = re.search(r"^address sizes\s*:\s*(\d+) bits physical", cpuinfo.read_text(errors="replace"), re.M)
    return int(found[1]) if found else 0


@dataclass(frozen=True)
class CpuFacts:
    """The host's CPU: its name, and the features that Linux lists for it."""

    model: str
    flags: frozenset[str]


def cpu(cpuinfo: Path = CPUINFO) -> CpuFacts:
    """Read name and features of the host's first CPU."""
    text = cpuinfo.read_text(errors="replace")
    named, listed = (re.search(rf"^{key}\s*:\s*(.*)$", text, re.M) for key in ("model name", "flags"))
    return CpuFacts(named[1] if named else "CPU", frozenset((listed[1] if listed else "").split()))


def cpu_count() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def oom_kills() -> int:
    """Return how many processes this host's kernel has killed for their memory since it started (proc(5), vmstat)."""
    lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def require_space(directory: Path, needed: int, purpose: str) -> None:
    """Make sure that a directory has room.

    Args:
        needed: bytes.
        purpose: what they are for, for the message.

    Raises:
        HostError: it has less.
    """
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise HostError(
            f"{directory} has {free / 2**30:.1f} GiB free, and {purpose} needs {needed / 2**30:.1f} GiB",
            hint="builder gc; builder images prune; or point --artifacts at a larger disk",
            cause=Cause.DISK_FULL,
        )


def require_reach(uid: int, gid: int, read: Sequence[Path], own: Sequence[Path]) -> None:
    """Make sure that QEMU's user gets at the files of a machine.

    Args:
        uid, gid: of the user that libvirt runs QEMU as.
        read: files it must be able to read as they are.
        own: files that libvirt will give to it; their directories must let it through.

    Raises:
        HostError: one is out of reach; names the directory or file, and the chmod.
    """
    if uid == 0 or not (read or own):
        return
    script = 'w=-x; for p; do if [ "$p" = -- ]; then w=-r; else test $w "$p" || echo "$p"; fi; done'
    words = [*dict.fromkeys(str(path.parent) for path in own), "--", *map(str, read)]
    refused = process.run([*_as_user(uid, gid), "sh", "-c", script, "sh", *words], cwd=Path("/")).stdout.splitlines()
    if not refused:
        return
    culprit, fix = _culprit(Path(refused[0]))
    raise HostError(
        f"QEMU's user {user_name(uid)} cannot reach {refused[0]}",
        details=f"{culprit} does not let it through",
        hint=f"chmod {fix} {culprit}, or keep artifacts elsewhere (/var/lib/builder)",
    )


def _has_flags(cpuinfo: Path) -> bool:
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text(errors="replace"), re.M)
    return bool({"vmx", "svm"} & set((flags[1] if flags else "").split()))


def _missing_kvm(offered: Collection[str], qemu_user: tuple[int, int] | None, device: Path) -> str | None:
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{device} does not open ({error.strerror})"
    if qemu_user is not None and kvm_access(*qemu_user, device) in ("denied", "broken"):
        return f"QEMU's user {user_name(qemu_user[0])} cannot open {device}"
    return None if "kvm" in offered else "libvirt does not offer it"


def _as_user(uid: int, gid: int) -> list[str]:
    """The words before a command that run it as another user, in all groups of that user."""
    groups = "--init-groups" if _known(uid) else "--clear-groups"
    return ["setpriv", f"--reuid={uid}", f"--regid={gid}", groups]


def _known(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def _culprit(path: Path) -> tuple[Path, str]:
    """The topmost directory on the way that others may not pass, else the file itself."""
    for directory in reversed([path, *path.parents] if path.is_dir() else path.parents):
        if not directory.stat().st_mode & 0o001:
            return directory, "o+x"
    return path, "o+r"
