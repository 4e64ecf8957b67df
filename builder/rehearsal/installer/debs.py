# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""Find the packages that are on the medium as files, each with those that it needs and that are there, too."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from . import program

# Of a medium with one repository, and with several.
FOLDERS = (Path("/run/install/repo/Packages"), Path("/run/install/repo/AppStream/Packages"))


def depends(field: str) -> list[str]:
    """The names in a Depends field; of alternatives the first one."""
    parts = [part.split("|")[0] for part in field.split(",")]
    return [re.split(r"[\s(:]", part.strip())[0] for part in parts if part.strip()]


@functools.cache
def _base() -> frozenset[str]:
    """What the base system brings, by all its names."""
    said = program.run("dpkg-query", "--show", "--showformat=${Package},${Provides}\\n", quiet=True)
    return frozenset(depends(said.replace("\n", ",")))


@functools.cache
def _virtual(folders: tuple[Path, ...]) -> dict[str, Path]:
    """The packages of the folders by their other names (Provides)."""
    debs = [path for folder in folders for path in sorted(folder.glob("*.deb"))]
    return {name: path for path in debs for name in depends(_field(path, "Provides"))}


def _field(path: Path, *names: str) -> str:
    """The values of fields that list packages."""
    said = program.run("dpkg-deb", "--field", str(path), *names, quiet=True)
    # One field is said without its name.
    return said if len(names) == 1 else ",".join(line.partition(":")[2] for line in said.splitlines())


def needed(package: str, folders: tuple[Path, ...] = FOLDERS) -> list[Path]:
    """The package and what it needs, as far as the folders have it: the rest is in the base system."""
    found: dict[str, Path] = {}
    todo = [package]
    while todo:
        name = todo.pop()
        if name in found:
            continue
        path = next((path for folder in folders for path in folder.glob(f"{name}_*.deb")), None)
        if path is None and name not in _base():
            path = _virtual(folders).get(name)
        if path is None:
            continue
        found[name] = path
        todo += depends(_field(path, "Depends", "Pre-Depends"))
    return list(dict.fromkeys(found.values()))
