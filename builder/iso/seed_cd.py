"""Create a seed CD with long lower-case file names; the same content gives the same bytes.

`BUILDER_KS` carries a kickstart beside an untouched install medium. It must not hold a `.discinfo` (the installer
would take it for an install medium), and its label must not be OEMDRV (that also starts driver updates).
`cidata` carries a machine's identity, by the NoCloud convention.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from builder.iso.image import author, open_iso
from builder.system.atomic_file import replacing

KICKSTART_LABEL = "BUILDER_KS"
IDENTITY_LABEL = "cidata"
# Any fixed moment will do; a date of today would make every image another one.
EPOCH = datetime(2020, 1, 1, tzinfo=UTC)


def write_iso(
    output: Path, label: str, files: Mapping[str, bytes], *, when: datetime = EPOCH, mode: int = 0o644
) -> None:
    """Write a small CD image with Rock Ridge and Joliet names.

    Args:
        output: replaced when the new one is complete.
        label: volume id, 1 to 16 bytes; kept as it is, small letters too.
        files: content by name, in the root folder.
        when: the date of everything in it.
        mode: permissions of the image file.

    Raises:
        ValueError: the label or a name cannot be stored.
        HostError: the file cannot be written.
    """
    if ".discinfo" in files:
        raise ValueError("a seed CD with .discinfo would be taken for an install medium")
    data = author(label, files, when)
    with replacing(output, mode) as file:
        file.write(data)


def read_iso(path: Path) -> dict[str, bytes]:
    """Read the files of a CD image that `write_iso` wrote, by name.

    Raises:
        MediumError: it cannot be read.
    """
    files = {}
    with open_iso(path) as iso:
        for name in iso.paths:
            with iso.file(name) as file:
                files[name.removeprefix("/")] = file.read()
    return files
