"""Reads an own kickstart and the files beside it, as a recipe names them.

Invariant: what lets somebody in stays out of the records: they get the text masked, and a MAC of all of it.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from builder.diagnosis import evidence
from builder.errors import RecipeError
from builder.kickstart import last_act, parse, render
from builder.recipe import KickstartSection
from builder.settings import OwnKickstart, inside
from builder.stages.kickstart import APPENDED

LARGEST = 64 << 20  # bytes of all files that come along; they pass through memory


def load(chosen: KickstartSection, search: Sequence[Path]) -> tuple[OwnKickstart, dict[str, str]]:
    """Return the kickstart with its files, and the texts that records may have.

    Args:
        chosen: with a `file`.
        search: folders, first match wins; the files lie in one of them, too.

    Raises:
        RecipeError: the kickstart or one of the files is missing (all of them are named), or it is not text.
    """
    name = chosen.file or ""
    missing = [one for one in (name, *chosen.files) if _place(one, search) is None]
    if missing:
        raise _missing(missing, search)
    files = {one: _bytes(_found(one, search)) for one in chosen.files}
    if sum(map(len, files.values())) > LARGEST:
        raise RecipeError(
            f"kickstart.files hold more than {LARGEST >> 20} MiB", hint="put large files under `provision`"
        )
    closing = last_act.collect(search) if chosen.adapt else {}
    if not chosen.plain:
        return OwnKickstart("", files), {**render.collect(name, search), **closing}
    text = parse.load(_found(name, search))
    texts = {name: evidence.anonymous(text), **closing}
    for command in parse.read(text.replace("\r", "")).all("%ksappend"):
        appended = (command.words or ("",))[0].rpartition("/")[2]
        if appended in files:
            texts[f"{APPENDED}{appended}"] = evidence.anonymous(parse.load(_found(appended, search)))
    return OwnKickstart(text, files), texts


def _place(name: str, search: Sequence[Path]) -> Path | None:
    # What comes with a recipe from elsewhere reads no other file of this host.
    found = (inside(folder, name) for folder in search)
    return next((path for path in found if path is not None and path.is_file()), None)


def _found(name: str, search: Sequence[Path]) -> Path:
    place = _place(name, search)
    assert place is not None
    return place


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as fault:
        raise RecipeError(f"cannot read {path}", str(fault.strerror)) from None


def _missing(names: Sequence[str], search: Sequence[Path]) -> RecipeError:
    known = sorted(
        {found.name for folder in search if folder.is_dir() for found in folder.iterdir() if found.is_file()}
    )
    lines = []
    for name in names:
        near = difflib.get_close_matches(name, known, n=1)
        lines.append(f"{name} is in none of them" + (f"; did you mean {near[0]}?" if near else ""))
    looked = [f"looked in {folder}" for folder in search]
    what = f"no kickstart file {names[0]}" if len(names) == 1 else f"{len(names)} files of the kickstart are missing"
    return RecipeError(what, "\n".join([*lines, *looked]), f"put it into {search[0]}")
