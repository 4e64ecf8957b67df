"""The stage that downloads or copies the install medium of the requested digest, or builds a rehearsal medium."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

from builder.errors import Cause, MediumError
from builder.iso import inspect, media_checksum
from builder.recipe import Media
from builder.recipe.build_spec import BuildSpec
from builder.rehearsal import medium as rehearsal
from builder.releases import DEFAULT, Name
from builder.stage import Inputs, Job, Ledger, Progress, ReasonKind, Stage, Step, added, digest
from builder.stages import rehearsal_base
from builder.store.store import Store
from builder.system import reflink
from builder.system.digests import DigestCache
from builder.system.reflink import How

FILE = "medium.iso"
FACTS = "medium.json"


class FetchInputs(Inputs):
    """The medium's sha256, the list that has to name it and who signs that.

    For a rehearsal that is to be built, what goes into it and the release whose shape it gets.
    """

    sha256: str | None
    rehearsal: str | None
    signed_by: str | None = None
    checksums: str | None = added(None)
    shape: Name = added(DEFAULT)


def inputs(spec: BuildSpec) -> FetchInputs:
    """The chosen medium; nobody signs a rehearsal."""
    chosen = spec.medium
    if chosen.rehearsal:
        shape = spec.recipe.release if chosen.sha256 is None else DEFAULT
        return FetchInputs(sha256=chosen.sha256, rehearsal=chosen.rehearsal, shape=shape)
    media = spec.recipe.media
    return FetchInputs(sha256=chosen.sha256, rehearsal=None, signed_by=media.signed_by, checksums=media.checksums)


def object_of(given: FetchInputs) -> str:
    """Digest of the object that these inputs lead to."""
    return digest(STAGE, given, {})


def objects_of(sha256: str, media: Media) -> tuple[str, ...]:
    """Digests of the objects that may hold a vendor's medium: with the list of checksums looked at, and without."""
    plain = FetchInputs(sha256=sha256, rehearsal=None)
    looked_at = plain.model_copy(update={"signed_by": media.signed_by, "checksums": media.checksums})
    return tuple(dict.fromkeys((object_of(looked_at), object_of(plain))))


def run(job: Job[FetchInputs]) -> None:
    """Build, copy or download the medium, and write down what it is.

    Raises:
        MediumError: it cannot be had, has another digest, is no whole ISO, the vendor's list does not name it, or its
            signature does not hold.
    """
    # Not at the head: every plan loads this module, and requests takes longer to start than all the rest of it.
    from builder.media import vendor_list

    wanted = job.inputs
    if (wanted.signed_by or wanted.checksums) and wanted.sha256 is not None:
        _unlisted(job)
        asked = vendor_list.Asked(wanted.checksums or vendor_list.DEFAULT, wanted.signed_by)
        said = vendor_list.require(job.out / FILE, wanted.sha256, asked, job.build.medium, job.paths.keys)
        job.progress.note(f"medium: {said}")
        facts = _describe(job.out)
    else:
        facts = _get(job)
    job.progress.note(f"medium: {facts.volume_id}, {facts.file_size >> 20} MiB")


def _get(job: Job[FetchInputs]) -> inspect.MediumFacts:
    """The medium, whoever signed it."""
    from builder.media import download

    target = job.out / FILE
    digests = Store(job.paths.store).digests
    sha256, source = job.inputs.sha256, job.build.medium
    if sha256 is None:
        place = (Store(job.paths.store), job.run_id, job.out, job.scratch)
        return make_rehearsal(job.inputs, place, job.ledger, job.progress)
    if source.file is not None:
        with job.ledger.spend("copy", source.file.stat().st_size):
            _take(source.file, target, sha256, digests)
        if job.inputs.rehearsal is not None:
            require_sum(target, source.file)
    elif not source.urls:
        raise MediumError(
            "the recipe names no mirror of its medium, and the store has none",
            f"sha256 wanted: {sha256}",
            "give the ISO with --media FILE, or once and for all: builder media add FILE",
            cause=Cause.NOT_ON_MIRRORS,
        )
    else:
        # Not in the working directory: what a killed download has got is resumed by the next run.
        downloads = Store(job.paths.store).downloads
        downloads.mkdir(mode=0o700, exist_ok=True)
        arrived = downloads / f"{sha256}.iso"
        with job.ledger.spend("download"):
            download.fetch(source.urls, sha256, arrived, progress=job.progress)
        arrived.rename(target)
        digests.remember(target, sha256)
    return _describe(job.out)


def make_rehearsal(
    inputs: FetchInputs, place: tuple[Store, str, Path, Path], ledger: Ledger, progress: Progress
) -> inspect.MediumFacts:
    """Make the content of a finished object by building a rehearsal medium out of this host's packages.

    Args:
        inputs: of a rehearsal that is to be built.
        place: the store, the run, the folder to fill, and an empty one that is empty again afterwards.

    Raises:
        HostError: this is neither Debian nor Ubuntu, or a program, room or the network is missing.
    """
    store, run_id, folder, work = place
    rehearsal.require_tools(inputs.shape)
    with (
        rehearsal_base.finished(inputs.rehearsal or "", store, run_id, ledger, progress) as base,
        ledger.spend("press"),
    ):
        rehearsal.press(base, inputs.shape, folder / FILE, work=work, progress=progress)
    return _describe(folder)


def take_in(file: Path, folder: Path, sha256: str, digests: DigestCache) -> How:
    """Make the content of a finished object out of a local file, sharing its bytes where the file system can.

    Raises:
        MediumError: it cannot be read, or has another digest (it was changed meanwhile).
    """
    how = _take(file, folder / FILE, sha256, digests)
    _describe(folder)
    return how


def require_sum(iso: Path, shown: Path) -> None:
    """Hold a rehearsal medium against the sum implanted in it: no recipe names its digest.

    Args:
        shown: the file as the user knows it.

    Raises:
        MediumError: its content is not what was made.
    """
    if media_checksum.verdict(iso) != "good":
        raise MediumError(
            f"{shown} is damaged: its content does not fit the checksum implanted in it",
            f"md5 implanted {inspect.inspect(iso).md5 or 'none'}",
            "--media rehearsal makes a new one",
        )


def _take(file: Path, target: Path, sha256: str, digests: DigestCache) -> How:
    got, how = reflink.take(file, target, link=True, cache=digests)
    if got != sha256:
        details = f"sha256 expected {sha256}\nsha256 found    {got}"
        raise MediumError(f"{file} changed while it was read", details, cause=Cause.WRONG_MEDIUM)
    return how


def _describe(folder: Path) -> inspect.MediumFacts:
    facts = inspect.inspect(folder / FILE)
    (folder / FACTS).write_text(json.dumps(facts.as_dict(), indent=2) + "\n", encoding="utf-8")
    return facts


def _unlisted(job: Job[FetchInputs]) -> None:
    """The same medium as no list was asked for: an object of its own, got only once, and a second name."""
    store = Store(job.paths.store)
    inputs = FetchInputs(sha256=job.inputs.sha256, rehearsal=None)
    reason = "wanted before the vendor's list is looked at"
    step = Step(STAGE, inputs, object_of(inputs), "run", reason, ReasonKind.FIRST_RUN)
    with store.building(step, job.run_id, {}, on_wait=job.progress.beat) as build:
        if build.found is None:
            start = time.monotonic()
            _get(replace(job, inputs=inputs, out=build.out, scratch=build.scratch))
            build.finish(job.ledger, time.monotonic() - start)
        (job.out / FILE).hardlink_to(store.path(step.digest) / FILE)


STAGE = Stage("fetch", 1, (), inputs, run, "get the install medium")
