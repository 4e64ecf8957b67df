"""Edit the FAT image that UEFI boots from, without mounting it.

mtools reads and writes it as an ordinary user; `fsck.fat -n` checks the result.
"""

from __future__ import annotations

import tempfile
from datetime import datetime
from pathlib import Path

from builder.errors import MediumError
from builder.iso.layout import RewriteError
from builder.system import process

# mtools refuses images whose size does not match a floppy's geometry, and stamps local time: neither is wanted.
_ENVIRONMENT = {"MTOOLS_SKIP_CHECK": "1", "TZ": "UTC"}


def read(image: Path, path: str) -> bytes | None:
    """A file inside the image, None when there is none.

    Args:
        path: from the root, with slashes; case does not matter.

    Raises:
        MediumError: the image is no FAT file system.
        HostError: mtools is not installed.
    """
    listed = process.run(["mdir", "-i", image, "-b", "::/"], env=_ENVIRONMENT, check=False)
    if listed.status != 0:
        raise MediumError("the UEFI boot image on the install medium is no FAT file system", output=listed.error_text)
    with tempfile.TemporaryDirectory(prefix="builder-fat-") as folder:
        copy = Path(folder) / "file"
        found = process.run(["mcopy", "-n", "-i", image, f"::{path}", copy], env=_ENVIRONMENT, check=False)
        return copy.read_bytes() if found.status == 0 else None


def replace(image: Path, path: str, content: bytes, when: datetime) -> None:
    """Put new content into a file of the image.

    Args:
        when: the file's new date; FAT keeps every second second.

    Raises:
        MediumError: no space in the image, or it is damaged.
        HostError: mtools or dosfstools is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="builder-fat-") as folder:
        copy = Path(folder) / "file"
        copy.write_bytes(content)
        argv: list[str | Path] = ["mcopy", "-o", "-i", image, copy, f"::{path}"]
        # mtools dates what it writes by this variable.
        epoch = {"SOURCE_DATE_EPOCH": str(int(when.timestamp()))}
        done = process.run(argv, env=_ENVIRONMENT | epoch, check=False)
    if done.status != 0:
        why = "has no space for" if "Disk full" in done.error_text else "does not take"
        raise RewriteError(f"the UEFI boot image on the install medium {why} the boot entry", output=done.error_text)
    check(image)


def check(image: Path) -> None:
    """See that the image is a sound FAT file system.

    Raises:
        MediumError: it is not; the details hold what fsck.fat says.
        HostError: dosfstools is not installed.
    """
    looked = process.run(["fsck.fat", "-n", image], check=False)
    if looked.status != 0:
        raise MediumError("the UEFI boot image on the install medium is damaged", output=looked.error_text)
