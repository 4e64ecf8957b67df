"""libvirt's library, loaded when it is asked for, and its errors as errors with a hint."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from builder.errors import HostError
from builder.system import packages

if TYPE_CHECKING:
    import libvirt


def library() -> Any:
    """Return libvirt's module. Not imported at the head: `host check` also runs where its library is not installed.

    Raises:
        HostError: it is not.
    """
    try:
        import libvirt
    except ImportError as error:
        raise HostError("libvirt's library cannot be loaded", str(error), packages.hint("libvirtd")) from None
    return libvirt


@contextmanager
def libvirt_errors(brief: str) -> Iterator[None]:
    """Raise an error of libvirt in this block as a HostError that says `brief`, with a hint where one is known."""
    try:
        yield
    except library().libvirtError as error:
        raise HostError(brief, hint=_hint(error), output=str(error)) from error


def _hint(error: libvirt.libvirtError) -> str:
    # libvirt 9.0: "Unable to find any firmware to satisfy 'efi'"; 11.3: "Unable to find 'efi' firmware that is …".
    if re.search(r"find (any|'\w+') firmware", str(error)):
        return packages.hint("uefi")
    # A session's libvirtd may not remove what another user's left when it was killed; root's does it by itself.
    if lock := re.search(r"lock file for device .* in path '(/[^']+)': File exists", str(error)):
        return f"a libvirtd that was killed left this lock of another user; as root: rm {lock[1]}"
    codes = library()
    match error.get_error_code():
        case codes.VIR_ERR_AUTH_UNAVAILABLE:
            return "run as root, or leave --connect out to use qemu:///session"
        case codes.VIR_ERR_AUTH_FAILED:
            return "run as root, join the group libvirt, or use --connect qemu:///session"
        case codes.VIR_ERR_SYSTEM_ERROR:
            return f"is libvirt installed and running? {packages.hint('libvirtd')}"
        case codes.VIR_ERR_CONFIG_UNSUPPORTED:
            return packages.hint("qemu-system-x86_64", "uefi")
    return ""
