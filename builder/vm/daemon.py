"""Find the daemons of libvirt, and start them where nothing else would; they exit when nothing uses them any more.

Where systemd runs, its sockets start the daemons of `qemu:///system`, and libvirt itself starts the one of
`qemu:///session`. Elsewhere (containers, chroots) nothing would start them for root, and process 1 often collects
orphans late, which makes libvirt wait for the dead. There they are started here, detached and below
`builder.vm.reaper`; they exit by themselves two minutes after the last client and machine are gone. The log daemon of a
session is always started here: the one that libvirt starts would leave its machines after that time.
"""

from __future__ import annotations

import contextlib
import grp
import os
import shutil
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from builder.errors import HostError
from builder.system import host_facts, packages, process, retry
from builder.vm import reaper
from builder.vm.uri import (
    LONGEST_FOLDER,
    SYSTEM_DIRECTORY,
    LongPath,
    kind_of,
    long_paths,
    names_socket,
    session_directory,
)

IDLE = 120  # seconds without client and machine after which a daemon of ours leaves
WITHIN = 60  # seconds a daemon may take to open its socket; a predecessor that is leaving holds it up for 30
SHORTEN = "export XDG_CONFIG_HOME=/DIR XDG_RUNTIME_DIR=/DIR"
NO_KVM = SYSTEM_DIRECTORY / "no-kvm"
# systemd's sockets of the one daemon, and of the modular ones that take its place (https://libvirt.org/daemons.html).
MONOLITHIC = ("libvirtd.socket", "virtlogd.socket")
MODULAR = ("virtqemud.socket", "virtnetworkd.socket", "virtstoraged.socket", "virtlogd.socket")


def ensure(uri: str) -> None:
    """Make sure that the daemons behind a local QEMU address answer, starting them where nothing else would.

    Cheap when all runs, so it is asked again before every start of a machine: virtlogd may have left since the
    connection was opened.

    Raises:
        HostError: they are not installed, do not come up, or would have sockets with paths that are too long.
    """
    require_short_paths(uri)
    kind = None if names_socket(uri) else kind_of(uri)
    if kind == "system" and os.geteuid() == 0:
        _ensure_system()
    elif kind == "session" and os.geteuid() != 0:
        folder = session_directory()
        # Without one libvirt starts its own, or writes logs itself (stdio_handler = "file" in qemu.conf).
        with contextlib.suppress(HostError):
            _start_log_daemon(folder / "virtlogd-sock")
        if not _systemd():
            _start_daemons(folder)


def starts(uri: str) -> bool:
    """Return whether `ensure` starts the daemon of this address, rather than systemd or another user."""
    kind = None if names_socket(uri) else kind_of(uri)
    return not _systemd() and kind == ("system" if os.geteuid() == 0 else "session")


def answers(path: Path) -> bool:
    """Somebody accepts connections on this socket; a left-over socket file is not enough."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(WITHIN)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


@contextlib.contextmanager
def log_daemon_kept(uri: str) -> Iterator[None]:
    """Keep libvirt's log daemon for the length of the block, by being a client of it.

    A virtlogd with a time-out leaves when it has had no client for so long, although it holds the logs of running
    machines (seen with libvirt 9.0: it was gone 120 s after the last start, and what a guest wrote afterwards was
    lost). libvirtd talks to it at starts and ends only.
    """
    folder = SYSTEM_DIRECTORY if kind_of(uri) == "system" else session_directory()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        # Without a log daemon (stdio_handler = "file" in qemu.conf) there is nothing to keep.
        with contextlib.suppress(OSError):
            client.connect(str(folder / "virtlogd-sock"))
        yield


def long_socket_paths(uri: str) -> list[LongPath]:
    """Return the sockets of this user's libvirt whose paths are too long, see `builder.vm.uri.long_paths`."""
    return long_paths(uri, modular=_modular())


def require_short_paths(uri: str) -> None:
    """Check, before any work is done for it, that a machine of this user can start.

    Raises:
        HostError: a socket of libvirt's would have a path that is too long.
    """
    if long := long_socket_paths(uri):
        raise HostError(
            "the paths of libvirt's sockets are too long for machines of this user",
            "\n".join(map(str, long)),
            f"{SHORTEN}, with a directory of yours whose path has at most {LONGEST_FOLDER} bytes",
        )


def _modular() -> bool:
    """Return whether the modular daemons are the ones that are installed."""
    return bool(packages.find_program("virtqemud") and not packages.find_program("libvirtd"))


def _systemd() -> bool:
    return Path("/run/systemd/system").is_dir()


def _ensure_system() -> None:
    if not _systemd():
        _own_kvm_as_udev_does(host_facts.KVM)
        _make_lock_folder(Path("/run/lock"))
        _start_log_daemon(SYSTEM_DIRECTORY / "virtlogd-sock")
        _start_daemons(SYSTEM_DIRECTORY)
    elif not any(map(answers, _main(SYSTEM_DIRECTORY))):
        process.run(["systemctl", "start", *(sockets() or MONOLITHIC)], timeout=WITHIN)


def sockets() -> tuple[str, ...]:
    """Return systemd's sockets of libvirt, as far as they are installed.

    A host that has both kinds, as RHEL and its kin do, uses the one that it enables by itself.
    """
    wanted = dict.fromkeys((*MONOLITHIC, *MODULAR))
    installed = {name for name in wanted if process.run(["systemctl", "cat", name], check=False).status == 0}
    kind = MODULAR if MODULAR[0] in installed else MONOLITHIC
    if kind == MODULAR and MONOLITHIC[0] in installed:
        asked = process.run(["systemctl", "is-enabled", MODULAR[0]], check=False)
        kind = MODULAR if asked.stdout.strip() == "enabled" else MONOLITHIC
    return tuple(name for name in kind if name in installed)


def _main(folder: Path) -> list[Path]:
    """Sockets of the one daemon, and of the QEMU daemon of the modular set: either one will do."""
    return [folder / "libvirt-sock", folder / "virtqemud-sock"]


def _start_daemons(folder: Path) -> None:
    """Start libvirtd; where only the modular daemons are installed, those of QEMU, networks and pools.

    virtqemud hands on to the other two what a client asks of networks and pools, but starts neither.
    """
    if not _modular():
        _start_unless_up(_main(folder), ["libvirtd", "--timeout", str(IDLE)], before=_hiding_useless_kvm)
        return
    for name in ("virtnetworkd", "virtstoraged"):
        if packages.find_program(name):
            _start_unless_up([folder / f"{name}-sock"], [name, "--timeout", str(IDLE)])
    _start_unless_up(_main(folder), ["virtqemud", "--timeout", str(IDLE)], before=_hiding_useless_kvm)


def _own_kvm_as_udev_does(device: Path) -> None:
    """Give a device that only root may open to the group `kvm`, as udev's own rule does (50-udev-default.rules)."""
    with contextlib.suppress(OSError, LookupError):
        status = device.stat()
        if status.st_gid == 0 and status.st_mode & 0o777 == 0o600:
            grp.getgrnam("kvm")
            shutil.chown(device, group="kvm")
            device.chmod(0o660)


def _hiding_useless_kvm() -> list[str]:
    """Hide /dev/kvm from a daemon, in a mount namespace of its own, where QEMU's user cannot use the device.

    libvirt probes QEMU with the right to open any file (CAP_DAC_OVERRIDE, in its qemu_process.c) and then looks whether
    QEMU's user may open the device. Where the two disagree it drops what it has learnt, and probes again at each
    look-up: 2 s for its capabilities, 10 s for the start of a machine, also of one without KVM (measured, libvirt 9.0).

    What the daemon sees instead is a character device that is not KVM and that nobody may open: libvirt moves what is
    mounted below /dev into the /dev of each machine, and fails at that with a plain file.

    Returns:
        The words before the daemon's own; none where QEMU's user can use KVM, and where namespaces or devices cannot be
        made (a container without these rights): there all works as well, and slowly.
    """
    user = host_facts.qemu_user()
    if user is None or host_facts.kvm_access(*user) in (None, "opens"):
        return []
    try:
        apart = [process.find("unshare"), "--mount", "--propagation", "slave"]
        NO_KVM.parent.mkdir(parents=True, exist_ok=True)
        if not NO_KVM.exists():
            os.mknod(NO_KVM, stat.S_IFCHR, os.makedev(1, 3))
        process.run([*apart, "mount", "--bind", NO_KVM, host_facts.KVM])
    except (OSError, HostError):
        return []
    script = 'mount --bind "$0" "$1"; shift; exec "$@"'
    return [*apart, "sh", "-c", script, str(NO_KVM), str(host_facts.KVM)]


def _make_lock_folder(folder: Path) -> None:
    """Make what lies behind /var/lock, as systemd does (legacy.conf of systemd-tmpfiles).

    libvirt puts a lock for each console there, and starts no machine where it cannot: as in a container whose /run is
    an empty tmpfs.
    """
    if not folder.exists():
        with contextlib.suppress(OSError):
            folder.mkdir()
            folder.chmod(0o1777)


def _start_log_daemon(path: Path) -> None:
    """Start virtlogd, which stays as long as it has a machine's log open, see `reaper`."""
    _start_unless_up([path], ["virtlogd", "--timeout", str(IDLE)], "--logs", str(path), str(IDLE / 4))


def _start_unless_up(
    sockets: list[Path], argv: list[str], *reaped: str, before: Callable[[], list[str]] = list
) -> None:
    """Start a daemon and wait for it.

    Args:
        reaped: words for the reaper.
        before: asked at a start for the words of a program that runs the daemon, such as unshare.

    One that starts while a predecessor is still leaving, or a rival is just coming, ends itself on their pid file:
    so it is started again until somebody answers.
    """
    if any(map(answers, sockets)):
        return
    started: list[int] = []

    def up() -> bool | None:
        if any(map(answers, sockets)):
            return True
        if not started or os.waitpid(started[-1], os.WNOHANG)[0]:
            words = [sys.executable, "-I", str(reaper.__file__), *reaped, *before(), process.find(argv[0]), *argv[1:]]
            started.append(process.start_daemon(words))
        return None

    if not retry.until(up, within=WITHIN, every=0.05):
        raise HostError(
            f"{argv[0]} does not answer on {sockets[0]}",
            hint=f"run {' '.join(argv)} in a terminal and read what it says",
        )
