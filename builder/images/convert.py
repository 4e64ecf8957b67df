"""Conversion of an image's disk to another format, read back and compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from builder.errors import PublishError
from builder.images.catalogue import Image
from builder.vm import qemu_img

# What is done, and how much of it in percent.
Progress = Callable[[str, float], None]


def converted(
    image: Image, kind: qemu_img.Format, part: Path, compression: qemu_img.Compression, on_progress: Progress
) -> None:
    """Convert the disk, and compare what was written with the image.

    Raises:
        PublishError: qemu-img failed, or the bytes differ.
    """
    qemu_img.convert(
        image.disk,
        "qcow2",
        part,
        kind,
        compression=compression if kind == "qcow2" else "none",
        error=PublishError,
        on_progress=lambda percent: on_progress("writing", percent),
    )
    if not qemu_img.same(
        image.disk, "qcow2", part, kind, on_progress=lambda percent: on_progress("reading back", percent)
    ):
        raise PublishError(f"what was written as {kind} does not hold the bytes of {image.name}@{image.version}")
