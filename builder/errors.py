"""The one rule: every fault a user can meet is a BuilderError that says what, where and what to do next.

The class decides the exit code; nothing outside `builder.cli` exits.
"""

from __future__ import annotations

import errno
import os
from dataclasses import asdict, dataclass

# What a full, read-only or failing disk, or a lack of rights, is to blame for, and never a bug of ours.
_FULL = (errno.ENOSPC, errno.EDQUOT)
_PLACES = (*_FULL, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


@dataclass(frozen=True)
class Proof:
    """Which known cause a fault has, and how that is known.

    Args:
        cause: its name; never changes, so that programs may act on it. Empty when none is known.
        line: the words that told it.
        source: where they were found (`console`, `anaconda.log`, `libvirt`, …).
        transient: the same run may succeed later although nobody mended anything.
    """

    cause: str = ""
    line: str = ""
    source: str = ""
    transient: bool = False


class BuilderError(Exception):
    """A fault with a message for people.

    Args:
        brief: one line: what happened, and to what.
        details: where and why; may have several lines (program output, the offending line).
        hint: what to do next, one or two lines, without a "hint:" in front.
    """

    exit_code = 1
    kind = "error"

    def __init__(self, brief: str, details: str = "", hint: str = "") -> None:
        super().__init__(brief)
        self.brief = brief
        self.details = details
        self.hint = hint
        self.proof = Proof()

    def as_dict(self) -> dict[str, object]:
        """The same fault for programs (`--json`, verdict.json)."""
        return {
            "kind": self.kind,
            "exit_code": self.exit_code,
            "brief": self.brief,
            "details": self.details,
            "hint": self.hint,
            **asdict(self.proof),
        }


class RecipeError(BuilderError):
    """Bad recipe, kickstart or command line: exit 2, nothing was started."""

    exit_code = 2
    kind = "recipe"


class HostError(BuilderError):
    """The host cannot do it (no libvirt, no qemu-img, no space, no access): exit 3."""

    exit_code = 3
    kind = "host"


def of_os_error(fault: OSError, where: object = "") -> HostError | None:
    """The same for people, when the disk or our rights on it are to blame; None when it may be a bug.

    Args:
        where: the place, if the fault names none.
    """
    if fault.errno not in _PLACES:
        return None
    hint = "builder gc frees space" if fault.errno in _FULL else ""
    place = fault.filename or where
    return HostError(f"{os.strerror(fault.errno)}{f': {place}' if place else ''}", str(fault), hint)


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
