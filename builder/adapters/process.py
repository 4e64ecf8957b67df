"""The one rule: every program that builder starts is started here, and none outlives its caller.

A program runs in its own process group with a clean environment (C locale). When the caller is interrupted
or the time limit passes, the whole group is ended and reaped before the exception goes on.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.errors import BuilderError, HostError

# Debian package that brings each program, for the hint of a missing one.
PACKAGES = {
    "ansible-playbook": "ansible-core",
    "blkid": "util-linux",
    "checkisomd5": "isomd5sum",
    "cp": "coreutils",
    "depmod": "kmod",
    "dpkg-deb": "dpkg",
    "fsck.fat": "dosfstools",
    "genisoimage": "genisoimage",
    "gpg": "gnupg",
    "grub-mkimage": "grub-common",
    "implantisomd5": "isomd5sum",
    "isohybrid": "syslinux-utils",
    "libvirtd": "libvirt-daemon-system",
    "mcopy": "mtools",
    "mkfs.vfat": "dosfstools",
    "mksquashfs": "squashfs-tools",
    "mmdebstrap": "mmdebstrap",
    "openssl": "openssl",
    "ip": "iproute2",
    "lsblk": "util-linux",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "ssh": "openssh-client",
    "setpriv": "util-linux",
    "unshare": "util-linux",
    "virtlogd": "libvirt-daemon-system",
    "wipefs": "util-linux",
    "xorriso": "xorriso",
}


@dataclass(frozen=True)
class Finished:
    """What a program left: its exit status and both outputs, decoded with errors replaced."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str

    @property
    def said(self) -> str:
        """The last words of the program, for an error message: at most 20 lines of stderr, else of stdout."""
        text = self.stderr.strip() or self.stdout.strip()
        return "\n".join(text.splitlines()[-20:])


def find(program: str) -> str:
    """The program's path on PATH or in the system directories an ordinary user's PATH leaves out.

    Raises:
        HostError: it is not installed; the hint names the package.
    """
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    found = shutil.which(program, path=path)
    if found is None:
        package = PACKAGES.get(program, program)
        raise HostError(f"{program} is not installed", hint=f"apt-get install {package}")
    return found


def run(
    argv: Sequence[str | Path],
    *,
    stdin: str | bytes | None = None,
    timeout: float | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = True,
    error: type[BuilderError] = HostError,
    heard: Callable[[str], None] | None = None,
) -> Finished:
    """Run one program to its end and return what it said.

    Args:
        argv: program and arguments; never a secret, since every user of the host can read them.
        stdin: given to the program; secrets go this way. Without it the program reads end-of-file.
        timeout: seconds until the whole process group is killed.
        env: added to the environment.
        check: raise when the exit status is not 0.
        error: the class raised for a bad exit status or a time-out.
        heard: told what the program writes on standard output as it comes; then nothing is given to the program, and
            there is no time limit.

    Raises:
        HostError: the program is not installed.
        BuilderError: of class `error`, for a bad exit status or a time-out.
    """
    words = [find(str(argv[0])), *map(str, argv[1:])]
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "LANG": "C.UTF-8", **(env or {})}
    data = stdin.encode() if isinstance(stdin, str) else stdin
    with subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL if data is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env=environment,
        start_new_session=True,
    ) as child:
        try:
            if heard is not None:
                _listen(child, heard)
            out, err = child.communicate(data, timeout=timeout)
        except subprocess.TimeoutExpired:
            _end_group(child)
            raise error(f"{words[0]} did not end within {timeout:g} s", details=" ".join(words)) from None
        except BaseException:
            _end_group(child)
            raise
    done = Finished(tuple(words), child.returncode, _text(out), _text(err))
    if check and done.status != 0:
        how = f"exit status {done.status}" if done.status > 0 else signal.Signals(-done.status).name
        raise error(f"{Path(words[0]).name} failed ({how})", details=f"{' '.join(words)}\n{done.said}".strip())
    return done


def start_daemon(argv: Sequence[str | Path]) -> int:
    """Start a program detached, in a session of its own with no terminal, and return its process id.

    For the one thing that has to outlive its caller: a libvirt daemon that leaves by itself when unused.
    """
    words = [find(str(argv[0])), *map(str, argv[1:])]
    child = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )
    # The daemon is meant to outlive this object: keep Python from warning that it still runs.
    child.returncode = 0
    return child.pid


def _listen(child: subprocess.Popen[bytes], heard: Callable[[str], None]) -> None:
    """Hand on what comes until its end. Such programs write a line or two on standard error: no pipe fills up."""
    stream = child.stdout
    while stream is not None and (piece := os.read(stream.fileno(), 4096)):
        heard(_text(piece))


def _end_group(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
