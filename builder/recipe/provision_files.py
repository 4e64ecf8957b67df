"""The files that a recipe provisions with: found, hashed, copied.

Invariant: they enter by content, what is used is what was hashed, and none is outside of the folder.

Sources are named relative to a folder `provision`, beside the folder of the recipes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from builder.errors import RecipeError
from builder.recipe import text_faults
from builder.settings import inside


def collect(sources: Iterable[str], folders: Sequence[Path]) -> dict[str, str]:
    """SHA-256 of each source, by its name; of a folder, over names, modes and bytes of all below it.

    Raises:
        RecipeError: one is in none of the folders, or holds something that is neither a file nor a folder.
    """
    return {name: _digest(_place(name, folders)) for name in sources}


def check_scripts(names: Iterable[str], folders: Sequence[Path]) -> None:
    """Check that a guest can start the scripts.

    Raises:
        RecipeError: one has a byte order mark or line endings of DOS, or is in none of the folders.
    """
    for name in names:
        path = _place(name, folders)
        if path.is_file() and (fault := text_faults.of_script(path.read_bytes())):
            raise RecipeError(f"the script {path} {fault.what}", fault.why, fault.command(path))


def take(name: str, sha256: str, folders: Sequence[Path], target: Path) -> Path:
    """Copy a source, and make sure that the copy is what was hashed.

    Raises:
        RecipeError: it is gone, or has changed since.
    """
    found = _place(name, folders)
    target.parent.mkdir(parents=True, exist_ok=True)
    if found.is_dir():
        shutil.copytree(found, target)
    else:
        shutil.copyfile(found, target)
        shutil.copymode(found, target)
    if _digest(target) != sha256:
        raise RecipeError(f"{found} was changed while the run was under way", hint="run again")
    return target


def _place(name: str, folders: Sequence[Path]) -> Path:
    for folder in folders:
        if (folder / name).exists():
            found = inside(folder, name)
            if found is None:
                why = "it is a link or below one: what is outside of the folder is not the recipe's"
                raise RecipeError(
                    f"{folder / name} leads out of {folder}", why, "copy what it leads to into the folder"
                )
            return found
    looked = "\n".join(f"looked in {folder}" for folder in folders)
    raise RecipeError(f"the recipe provisions with {name}, which is not there", looked, f"put it there: {folders[0]}")


def _digest(path: Path) -> str:
    if path.is_file() and not path.is_symlink():
        return _sha256(path)
    listed = []
    for one in sorted(path.rglob("*")):
        if one.is_symlink() or not (one.is_file() or one.is_dir()):
            raise RecipeError(f"{one} is neither a file nor a folder", hint="a source is plain files")
        if one.is_file():
            executable = bool(one.stat().st_mode & 0o100)
            listed.append((one.relative_to(path).as_posix(), executable, _sha256(one)))
    if not listed:
        raise RecipeError(f"{path} holds nothing to provision with")
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
