# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""Find the packages that are on the medium as files, each with those that it needs and that are there, too."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from . import program

# Of a medium with one repository, and with several.
FOLDERS = (Path("/run/install/repo/Packages"), Path("/run/install/repo/AppStream/Packages"))


def depends(field: str) -> list[str]:
    """The names in a Depends field; of alternatives the first one."""
    parts = [part.split("|")[0] for part in field.split(",")]
    return [re.split(r"[\s(:]", part.strip())[0] for part in parts if part.strip()]


def needed(package: str, folders: Sequence[Path] = FOLDERS) -> list[Path]:
    """The package and what it needs, as far as the folders have it: the rest is in the base system."""
    found: dict[str, Path] = {}
    todo = [package]
    while todo:
        name = todo.pop()
        path = next((path for folder in folders for path in folder.glob(f"{name}_*.deb")), None)
        if path is None or name in found:
            continue
        found[name] = path
        said = program.run("dpkg-deb", "--field", str(path), "Depends", "Pre-Depends", quiet=True)
        todo += depends(",".join(line.partition(":")[2] for line in said.splitlines()))
    return list(found.values())
