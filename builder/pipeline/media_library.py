"""Install media in the store: listed, added, and verified.

Invariant: a medium that was added is the same object that a download would have left.

So `builder run` finds it by its digest, whichever way it came.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from builder import recipe
from builder.errors import Cause, MediumError, RecipeError
from builder.iso import inspect, media_checksum
from builder.iso.inspect import MediumFacts
from builder.iso.media_checksum import Verdict
from builder.rehearsal import medium as rehearsal
from builder.releases import Name
from builder.settings import Settings
from builder.stage import Ledger, Progress, ReasonKind, Step
from builder.stages import fetch
from builder.store import runs
from builder.store.objects import mark_corrupt
from builder.store.store import RECORD, Store
from builder.system import reflink
from builder.system.digests import sha256_file


@dataclass(frozen=True)
class StoredMedium:
    """A medium that stands in the store.

    Args:
        path: of the ISO.
        facts: `iso_inspect.MediumFacts`, as written when it came in.
        created: UTC, ISO 8601.
    """

    sha256: str
    path: Path
    facts: dict[str, Any]
    created: str


class _Facts(BaseModel):
    """Facts that lists of media need of each; the others are passed on as they are."""

    model_config = ConfigDict(extra="allow")

    volume_id: str
    file_size: int = Field(ge=0)
    is_rehearsal: bool


def in_store(store: Store) -> list[StoredMedium]:
    """All media of the store, the newest first; each once. `damaged` names those whose facts cannot be read."""
    found: dict[str, StoredMedium] = {}
    for known in _standing(store):
        if known.sha256 not in found or found[known.sha256].created < known.created:
            found[known.sha256] = known
    return sorted(found.values(), key=lambda known: known.created, reverse=True)


def _standing(store: Store) -> Iterator[StoredMedium]:
    folders = list(store.objects.iterdir()) if store.objects.is_dir() else []
    for folder in folders:
        known = _known(store, folder)
        if known is not None:
            yield known


def _known(store: Store, folder: Path) -> StoredMedium | None:
    record = store.load(folder.name)
    if record is None or record.stage != fetch.STAGE.name or fetch.FILE not in record.files:
        return None
    try:
        facts = _Facts.model_validate_json((folder / fetch.FACTS).read_bytes())
    except (OSError, ValidationError):
        # Another run drops or replaces it at this moment, or it is damaged: then a run builds it anew.
        return None
    whole = facts.model_dump()
    return StoredMedium(record.files[fetch.FILE].sha256 or "", folder / fetch.FILE, whole, record.created)


def damaged(store: Store) -> list[Path]:
    """Files of media in the store that cannot be read; a run that needs such a medium gets it anew."""
    found = []
    for folder in sorted(store.objects.iterdir()) if store.objects.is_dir() else []:
        record = store.load(folder.name)
        if record is None:
            if os.path.lexists(folder / RECORD):
                found.append(folder / RECORD)
        elif record.stage == fetch.STAGE.name and _known(store, folder) is None:
            found.append(folder / fetch.FACTS)
    return found


def add(file: Path, store: Store) -> tuple[StoredMedium, str]:
    """Take a medium into the store: blocks shared where the file system can, else a hard link, else a copy.

    A hard link is the same file, and becomes read-only.

    Returns:
        The medium, and how it came: `there already`, `reflink`, `hard link` or `copy`.

    Raises:
        MediumError: it cannot be read, is truncated, or is no ISO; or it is a damaged rehearsal medium.
        HostError: no room in the store.
    """
    facts = inspect.inspect(file)
    if facts.is_rehearsal:
        fetch.require_sum(file, file)
    store.prepare()
    sha256 = store.sha256_of(file)
    inputs = fetch.FetchInputs(sha256=sha256, rehearsal=sha256 if facts.is_rehearsal else None)
    step = Step(
        fetch.STAGE, inputs, fetch.object_of(inputs), "run", "taken in by `builder media add`", ReasonKind.FIRST_RUN
    )
    run_id = runs.new_id()
    how = "there already"
    with (
        runs.register(store, run_id, {step.digest}),
        store.building(step, run_id, {}) as build,
    ):
        if build.found is None:
            start = time.monotonic()
            how = fetch.take_in(file, build.out, sha256, store.digests)
            build.finish(Ledger(), time.monotonic() - start)
        known = _known(store, store.path(step.digest))
    if known is None:
        raise MediumError(f"{file} was taken in, and removed from the store at once", hint="do it again")
    return known, how


def write_rehearsal(output: Path, release: Name, store: Store, settings: Settings, progress: Progress) -> StoredMedium:
    """Write a rehearsal medium to a file, for hosts that cannot build one.

    It is the very object that `--media rehearsal` uses on this host: built once, and kept in the store.

    Args:
        output: replaced if it is there.
        release: whose shape it gets.

    Returns:
        The medium, with `output` as its path.

    Raises:
        HostError: this is neither Debian nor Ubuntu, something it is built with is missing, or `output` cannot be
            written.
        MediumError: what the store has is damaged; the next call builds it anew.
    """
    content = rehearsal.inputs_digest(settings.artifacts / ".cache")
    inputs = fetch.FetchInputs(sha256=None, rehearsal=content, shape=release)
    step = Step(
        fetch.STAGE,
        inputs,
        fetch.object_of(inputs),
        "run",
        "written by `builder media rehearsal`",
        ReasonKind.FIRST_RUN,
    )
    run_id = runs.new_id()
    with runs.register(store, run_id, {step.digest}):
        with store.building(
            step, run_id, {}, why_stale=lambda: store.why_stale(step.digest, {}), on_wait=progress.beat
        ) as build:
            record = build.found
            if record is None:
                start, ledger = time.monotonic(), Ledger()
                fetch.make_rehearsal(inputs, (store, run_id, build.out, build.scratch), ledger, progress)
                record = build.finish(ledger, time.monotonic() - start)
        folder = store.path(step.digest)
        known = _known(store, folder)
        progress.beat(f"writing {output}")
        sha256, _ = reflink.take(folder / fetch.FILE, output)
        if known is None or sha256 != known.sha256:
            output.unlink()
            mark_corrupt(folder, record)
            raise MediumError(
                "the rehearsal medium in the store has rotted",
                hint="do it again: it is built anew",
                cause=Cause.CORRUPT,
            )
    return replace(known, path=output)


def pipelines_of(sha256: str, search: tuple[Path, ...]) -> list[str]:
    """Names of the recipes that accept this medium; a recipe with a fault accepts none."""
    names = []
    for name, path in recipe.find_all(search).items():
        try:
            sources = recipe.load(str(path), {}, ()).media.sources
        except RecipeError:
            continue
        if any(source.sha256 == sha256 for source in sources):
            names.append(name)
    return sorted(names)


@dataclass(frozen=True)
class Verified:
    """Ways to verify a medium: its implanted checksum, and the recipes that name its digest."""

    facts: MediumFacts
    sha256: str
    md5: Verdict
    pipelines: tuple[str, ...]


def require_sound(file: Path, facts: MediumFacts) -> Verdict:
    """Read all of a medium and compare with the sum implanted in it.

    Raises:
        MediumError: there is one, and it does not hold.
    """
    verdict = media_checksum.verdict(file)
    if verdict == "bad":
        raise MediumError(
            f"{file} is damaged: its content does not fit the checksum implanted in it",
            f"md5 implanted {facts.md5}",
            "get it again, or compare its sha256 with the vendor's list to see which of the two was changed",
        )
    return verdict


def verify(file: Path, search: tuple[Path, ...]) -> Verified:
    """Read all of a medium, twice, and say what vouches for it.

    Raises:
        MediumError: it is not whole, its sum does not hold, or nothing vouches for it.
    """
    facts = inspect.inspect(file)
    verdict = require_sound(file, facts)
    # Not from the cache of digests: whoever asks wants the bytes to be read.
    sha256 = sha256_file(file)
    named = tuple(pipelines_of(sha256, search))
    if verdict == "none" and not named:
        raise MediumError(
            f"nothing vouches for {file}: no checksum is implanted, and no pipeline names its sha256",
            f"sha256 {sha256}",
            "compare it with the vendor's list of checksums",
        )
    return Verified(facts, sha256, verdict, named)
