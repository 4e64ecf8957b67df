"""Export a version's disk to a file of another format.

Invariant: an export has its name only when it is complete and was read back. Until then it is in a hidden folder that
only its writer may enter, so no one else can put a link in its way. What a killed process left is removed by the next
export to the same place.
"""

from __future__ import annotations

import glob
import tempfile
from pathlib import Path
from typing import Literal, get_args

from builder.errors import PublishError
from builder.images import references, vagrant
from builder.images.catalogue import Image
from builder.images.convert import Progress, converted
from builder.store.objects import remove, sync_file
from builder.system import locks
from builder.system.atomic_file import sync_folder
from builder.system.digests import sha256_file
from builder.vm import qemu_img

Kind = Literal["qcow2", "raw", "vmdk", "vhdx", "vdi", "vagrant"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SUFFIXES = {"raw": "img", "vagrant": "box"}


def default_name(image: Image, kind: Kind) -> str:
    """The file name of an export that was given none."""
    return f"{image.name}-{image.version}.{SUFFIXES.get(kind, kind)}"


def export(
    image: Image,
    kind: Kind,
    target: Path,
    *,
    compression: qemu_img.Compression = "zlib",
    force: bool = False,
    on_progress: Progress = lambda _what, _percent: None,
) -> Path:
    """Write a version's disk in another format; the version itself is only read, and cannot be pruned meanwhile.

    Args:
        compression: of a qcow2, also of the one in a Vagrant box. QEMU before 5.1 opens zlib only.
        force: replace a file that is there.

    Raises:
        PublishError: there is such a file already, the version is gone or has rotted, the folder cannot be written to,
            or what was written does not hold the bytes of the image; no file is left.
    """
    target = target.absolute()
    if target.is_dir() or (target.exists() and not force):
        raise PublishError(f"{target} exists already", hint="give another name with --output, or --force")
    if target.resolve().is_relative_to(image.path.parent.resolve()):
        raise PublishError(f"{target} lies inside the catalogue", hint="give another place with --output")
    hidden = f".{target.name}.exporting"
    lock = target.with_name(f".{target.name}.lock")
    work: Path | None = None
    try:
        with locks.held(lock, holder="builder images export"), references.using(image):
            try:
                # Nobody else writes here while the lock is held: what is there was left by a process that was killed.
                for left in target.parent.glob(f"{glob.escape(hidden)}*"):
                    remove(left)
                work = Path(tempfile.mkdtemp(prefix=f"{hidden}.", dir=target.parent))
                part = work / target.name
                if sha256_file(image.disk) != image.sha256:
                    raise PublishError(
                        f"the disk of {image.name}@{image.version} is not what was published",
                        hint=f"builder images verify {image.name}@{image.version}",
                    )
                _write(image, kind, part, compression, on_progress)
                part.chmod(0o644)
                _flush(part)
                part.rename(target)
                sync_folder(target.parent)
            finally:
                if work is not None:
                    remove(work)
                locks.remove(lock)
    except OSError as fault:
        raise PublishError(f"{target} cannot be written: {fault.strerror or fault}", str(fault)) from fault
    return target


def _write(image: Image, kind: Kind, part: Path, compression: qemu_img.Compression, on_progress: Progress) -> None:
    if kind == "vagrant":
        vagrant.write_box(image, part, compression=compression, on_progress=on_progress)
        return
    converted(image, kind, part, compression, on_progress)


def _flush(path: Path) -> None:
    sync_file(path)
