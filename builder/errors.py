"""Errors that users can meet: what happened, where, what to do next, and the cause as a fact.

Invariant: the class decides the exit code, `cause` the diagnosis; no program reads the sentences. Nothing outside
`builder.cli` exits. What each cause means to people is in `builder.diagnosis.causes`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from enum import StrEnum

# What a full, read-only or failing disk, or a lack of rights, is to blame for, and never a bug of ours.
_FULL = (errno.ENOSPC, errno.EDQUOT)
_PLACES = (*_FULL, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)

# Commands that work on a full disk and give space back.
FREE_SPACE = "these free space: builder gc; builder images prune; builder vm delete NAME"


class Cause(StrEnum):
    """Names of known causes of failures; programs may act on the values, so they never change."""

    # The kickstart.
    KICKSTART_ERROR = "kickstart error"
    MISSING_PACKAGE = "missing package"
    MISSING_GROUP = "missing group"
    MANDATORY_ITEM = "mandatory item"
    PARTITIONING = "partitioning"
    DISK_TOO_SMALL = "disk too small"
    LOW_MEMORY = "low memory"
    SCRIPT_FAILED = "script failed"
    NO_POWER_OFF = "no power-off"
    REBOOT = "reboot"
    NO_MARKER = "no marker"
    FOREIGN_MARKER = "foreign marker"
    # The installer.
    PACKAGES = "packages"
    BOOT_LOADER = "boot loader"
    QUESTION = "question"
    TRACEBACK = "traceback"
    INSTALLER_ENDED = "installer ended"
    # The install medium inside the machine.
    KICKSTART_NOT_FOUND = "kickstart not found"
    MODULE_REFUSED = "module refused"
    DRACUT_TIMEOUT = "dracut timeout"
    EMERGENCY_SHELL = "emergency shell"
    MEDIUM_CHECK = "medium check"
    # The guest.
    CPU_TOO_OLD = "CPU too old"
    KERNEL_PANIC = "kernel panic"
    GUEST_OUT_OF_MEMORY = "guest out of memory"
    CONSOLE_FLOOD = "console flood"
    STALLED = "stalled"
    TIME_LIMIT = "time limit"
    NO_DHCP = "no DHCP"
    # Logging in.
    NO_TCP = "no TCP"
    NO_BANNER = "no banner"
    KEY_EXCHANGE = "key exchange"
    SSHD_REFUSES_ROOT = "sshd refuses root"
    WRONG_HOST_KEY = "wrong host key"
    CONSOLE_REFUSES_ROOT = "console refuses root"
    # The image.
    NO_LOGIN_PROGRAM = "no login program"
    NO_IDENTITY = "no identity"
    NOT_BOOTED = "not booted"
    FAILED_UNIT = "failed unit"
    CHECK_FAILED = "check failed"
    COPIES_ALIKE = "copies alike"
    SECRET_IN_IMAGE = "secret in image"
    PROVISION_FAILED = "provision failed"
    # The host.
    QEMU_KILLED = "QEMU killed"
    QEMU_OUT_OF_MEMORY = "QEMU out of memory"
    QEMU_CRASHED = "QEMU crashed"
    MACHINE_ENDED = "machine ended"
    LIBVIRT_GONE = "libvirt gone"
    HOST_MEMORY = "host memory"
    DISK_FULL = "disk full"
    READ_ONLY = "read-only"
    CORRUPT = "corrupt"
    DISK_ERROR = "disk error"
    # The download of the install medium.
    NO_MIRROR = "no mirror"
    NOT_ON_MIRRORS = "not on mirrors"
    WRONG_MEDIUM = "wrong medium"

    @property
    def transient(self) -> bool:
        """True if the same run may succeed later without anybody repairing anything."""
        return self in _TRANSIENT


_TRANSIENT = frozenset({Cause.QEMU_OUT_OF_MEMORY, Cause.LIBVIRT_GONE, Cause.HOST_MEMORY, Cause.NO_MIRROR})
_CAUSE_OF_ERRNO = {
    errno.ENOSPC: Cause.DISK_FULL,
    errno.EDQUOT: Cause.DISK_FULL,
    errno.EROFS: Cause.READ_ONLY,
    errno.EIO: Cause.DISK_ERROR,
    errno.ENOMEM: Cause.HOST_MEMORY,
}


class Source(StrEnum):
    """The source of the line that names a cause."""

    CONSOLE = "console"
    INSTALLER_LOG = "anaconda.log"
    GUEST_REPORT = "ttyS1"
    QEMU_LOG = "qemu.log"
    LIBVIRT = "libvirt"
    KERNEL = "kernel"
    WATCHDOG = "all signals"
    # What a program of this host wrote, and what builder found out itself.
    PROGRAM = "host"
    KICKSTART = "kickstart"
    PROVISION_LOG = "provision.log"
    PRIVATE_KEYS = "private_keys.txt"
    BUILDER = "builder"


@dataclass(frozen=True)
class Diagnosis:
    """The known cause of a failure, and how it is known.

    Args:
        cause: None when none is known; `""` in JSON.
        line: the words that name it.
        source: where they were read; None without a cause.
        role: the machine that failed (`twin-a`), if its evidence has names of its own.
    """

    cause: Cause | None = None
    line: str = ""
    source: Source | None = None
    role: str = ""

    @property
    def transient(self) -> bool:
        """True if the same run may succeed later without anybody repairing anything."""
        return self.cause is not None and self.cause.transient

    def as_dict(self) -> dict[str, object]:
        """Return the same for JSON."""
        return {**asdict(self), "cause": self.cause or "", "source": self.source or "", "transient": self.transient}


def _writable(text: str) -> str:
    """Return text that every file and terminal takes: a file name need not be UTF-8, and has surrogates then."""
    return text.encode("utf-8", "backslashreplace").decode()


class BuilderError(Exception):
    """A failure with a message for people.

    Args:
        brief: one line: what happened, and to what.
        details: where and why; may have several lines (program output, the offending line). Without it, `output`.
        hint: what to do next, one or two lines, without a "hint:" in front.
        cause: what went wrong, where the place that raises knows it.
        source: where to look first; by default builder itself found the cause.
        role: the machine that failed (`twin-a`), if its evidence has names of its own.
        output: what a program of others wrote (QEMU, libvirt, curl); `builder.diagnosis.classify.diagnose` looks for
            a cause in it, and in nothing else.
    """

    exit_code = 1
    kind = "error"

    def __init__(
        self,
        brief: str,
        details: str = "",
        hint: str = "",
        *,
        cause: Cause | None = None,
        source: Source = Source.BUILDER,
        role: str = "",
        output: str = "",
    ) -> None:
        self.brief = _writable(brief)
        super().__init__(self.brief)
        self.details = _writable(details or output)
        self.hint = _writable(hint)
        self.output = output
        self.diagnosis = Diagnosis(role=role) if cause is None else Diagnosis(cause, self.brief, source, role)

    def as_dict(self) -> dict[str, object]:
        """Return the same for programs (`--json`, verdict.json)."""
        return {
            "kind": self.kind,
            "exit_code": self.exit_code,
            "brief": self.brief,
            "details": self.details,
            "hint": self.hint,
            **self.diagnosis.as_dict(),
        }


class RecipeError(BuilderError):
    """Bad recipe, kickstart or command line: exit 2, nothing was started."""

    exit_code = 2
    kind = "recipe"


class HostError(BuilderError):
    """The host cannot do it (no libvirt, no qemu-img, no space, no access): exit 3."""

    exit_code = 3
    kind = "host"


@contextmanager
def failed_machine(role: str) -> Iterator[None]:
    """Note on every error that leaves the block which machine failed."""
    try:
        yield
    except BuilderError as error:
        error.diagnosis = replace(error.diagnosis, role=role)
        raise


def cause_of(error: OSError) -> Cause | None:
    """Return the cause that the error number names, if it names one."""
    return _CAUSE_OF_ERRNO.get(error.errno or 0)


def space_hint(error: OSError) -> str:
    """Return how to get space if the disk is full, else nothing."""
    return FREE_SPACE if error.errno in _FULL else ""


def of_os_error(fault: OSError, where: object = "") -> HostError | None:
    """Return the same for people when the disk or our rights on it are to blame; None when it may be a bug.

    Args:
        where: the place, if the fault names none.
    """
    if fault.errno not in _PLACES:
        return None
    place = fault.filename or where
    brief = f"{os.strerror(fault.errno)}{f': {place}' if place else ''}"
    return HostError(brief, str(fault), space_hint(fault), cause=cause_of(fault))


class MediumError(BuilderError):
    """The install medium is missing, broken or not what was asked for: exit 4."""

    exit_code = 4
    kind = "medium"


class InstallError(BuilderError):
    """The unattended install failed: exit 5, evidence is kept."""

    exit_code = 5
    kind = "install"


class VerifyError(BuilderError):
    """The image was built but did not prove itself; nothing is published: exit 6."""

    exit_code = 6
    kind = "verify"


class PublishError(BuilderError):
    """The catalogue or the store refused: exit 7."""

    exit_code = 7
    kind = "publish"


class UnreachableError(BuilderError):
    """A running guest did not let us in: exit 8."""

    exit_code = 8
    kind = "unreachable"


class KvmError(BuilderError):
    """KVM was required and this host has none: exit 9."""

    exit_code = 9
    kind = "kvm"


class Interrupted(BaseException):
    """INT, TERM or HUP as one exception, so that every context manager undoes its work: exit 130.

    Like KeyboardInterrupt it is no Exception: no `except Exception` may swallow it.
    """

    exit_code = 130

    def __init__(self, signal_name: str = "SIGINT") -> None:
        super().__init__(signal_name)
        self.signal_name = signal_name
