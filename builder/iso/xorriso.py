"""Rewrite an install medium with xorriso, where builder's own writer does not know how it is laid out.

What xorriso made it also makes again: `-boot_image any replay` takes MBR, GPT, El Torito catalogue, boot information
tables and an appended EFI system partition over from the medium, with the addresses of the new one. Lorax's mkksiso
(40.5.19, src/bin/mkksiso) goes this way for these media.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from builder.iso.layout import RewriteError
from builder.system import process


def rewrite(
    medium: Path,
    output: Path,
    files: Mapping[str, Path],
    *,
    application_use: Path,
    joliet: bool,
    when: datetime,
) -> None:
    """Write a copy of a medium with some files replaced or added, that boots as it does.

    Args:
        output: an empty file.
        files: content by path on the medium, of no boot image; mode and date are taken over, the owner is root.
        application_use: 512 bytes for the volume descriptor.
        joliet: write a Joliet tree, too.
        when: date of what xorriso makes anew. Same arguments, same bytes.

    Raises:
        RewriteError: xorriso cannot do it.
        HostError: xorriso is not installed.
    """
    argv: list[str | Path] = ["xorriso", "-no_rc", "-abort_on", "SORRY", "-iso_rr_pattern", "off"]
    argv += ["-indev", f"stdio:{medium.resolve()}", "-outdev", f"stdio:{output.resolve()}"]
    argv += ["-boot_image", "any", "replay", "-application_use", application_use]
    if joliet:
        argv += ["-joliet", "on", "-compliance", "joliet_long_names"]
    for path, content in files.items():
        argv += ["-map", content, path, "-chown", "0", path, "--", "-chgrp", "0", path, "--"]
    # Without the variable it dates by the clock and makes up GUIDs; times are stored with the distance from Greenwich.
    environment = {"SOURCE_DATE_EPOCH": str(int(when.timestamp())), "TZ": "UTC"}
    done = process.run([*argv, "-end"], env=environment, check=False)
    if done.status != 0:
        raise RewriteError(f"xorriso cannot rewrite {medium}", output=done.error_text)
