"""Push versions of images to a registry, and pull them from it.

Invariant: a version gets its tag when all of it is there, and enters the catalogue when all of it is verified.
Order of a push: blobs, the manifest under its digest, referrers, the tag of the version (which never moves), and last
the tag that does (`latest`). A pull grows in `.pulling/<digest>/` beside the images, where an interrupted one resumes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.console import size_text
from builder.errors import FREE_SPACE, PublishError, VerifyError
from builder.images import manifest as manifests
from builder.images import references
from builder.images.catalogue import Image, admit, list_images
from builder.images.manifest import MANIFEST, Manifest
from builder.images.verification_record import VerificationResult, record
from builder.images.verify import require_signature, verify_version
from builder.registry import artifact, asked, blobs, staging
from builder.registry.artifact import Artifact, Draft, Piece
from builder.registry.client import INDEX_TYPE, LATEST, MANIFEST_TYPE, Reference, RemoteManifest, Repository, digest_of
from builder.stage import Progress
from builder.system import locks
from builder.system.transfer_progress import Beat

# Of a file that a pull holds in memory: a manifest with the records of all stages has some tens of KiB.
SMALL = 16 << 20
WAITING = "waiting for another pull of it"


@dataclass(frozen=True)
class Pushed:
    """Result of a push.

    Args:
        digest: of the manifest.
        tags: that name it now.
        sent: bytes that the registry did not have.
    """

    digest: str
    tags: tuple[str, ...]
    sent: int


@dataclass(frozen=True)
class Pulled:
    """Result of a pull.

    Args:
        digest: of the manifest.
        proof: None if the version was in the catalogue already.
    """

    image: Image
    digest: str
    proof: VerificationResult | None


def push(image: Image, repository: Repository, progress: Progress, *, allow_rehearsal: bool = False) -> Pushed:
    """Send a version to a registry, unless it is there.

    It gets the tag of its version. The tag of the address moves to it; without one `latest` does, if it is the latest
    here, and unless what bears that tag was published later: of several hosts that build the same, none takes it back.

    Raises:
        PublishError: it is a rehearsal, it has rotted, the registry is away or refuses, its version's tag names
            something else, or the tag that was to move was moved by somebody else meanwhile.
    """
    spoken = f"{image.name}@{image.version}"
    _no_rehearsal(image.manifest, f"{spoken} is a rehearsal's image and was not pushed", allow_rehearsal)
    if repository.address.digest:
        raise PublishError("an image is pushed to a tag, not to a digest", hint="leave out the part from the @ on")
    tag = repository.address.tag or (LATEST if image.latest else None)
    lock = image.path.parent / ".push.lock"
    try:
        with (
            references.using(image),
            locks.held(lock, holder="builder images push", on_wait=lambda _: progress.note("waiting for another push")),
        ):
            progress.beat(f"reading {spoken}")
            draft = artifact.draft(image)
            before = repository.manifest(tag) if tag else None
            newer = artifact.later(before, image) if before and not repository.address.tag else None
            if newer:
                progress.note(
                    f"{tag} stays with {newer}, which is newer; oci://{repository.address.name}:{tag} moves it"
                )
                tag = None
            sent = _version(image, draft, repository, progress)
            if tag and tag != image.version:
                _move(repository, tag, draft, before, image.version)
    except OSError as fault:
        raise PublishError(f"{spoken} cannot be read: {fault.strerror or fault}", str(fault)) from fault
    tags = dict.fromkeys((image.version, tag) if tag else (image.version,))
    return Pushed(draft.digest, tuple(tags), sent)


def pull(
    repository: Repository,
    catalogue: Path,
    progress: Progress,
    *,
    allow_rehearsal: bool = False,
    signed: bool = False,
    name: str | None = None,
    replace: bool = False,
) -> Pulled:
    """Take a version from a registry, prove it, and give it its place in the catalogue.

    It becomes the latest if the tag `latest` was asked for and the latest of its name came from this repository, too,
    or if there is no other.

    Args:
        signed: only what a trusted key has signed is good, and only if it is what was asked for.
        name: that the image has to have; see `asked.require_name`.
        replace: make it the latest, wherever the latest of its name came from.

    Raises:
        PublishError: there is no such tag, it is no image of ours, it is a rehearsal, the registry is away, refuses or
            has damaged it, or the disk is full. What was taken stays for the next pull.
        VerifyError: it came whole, but does not prove what it says; or it says what this builder does not know, or is
            not what was asked for.
    """
    address = repository.address
    version, content, facts = _offered(repository, allow_rehearsal=allow_rehearsal)
    asked.require_name(address, facts, name, signed=signed)
    if older := asked.compare_age(address, facts, list_images(catalogue, facts.name), signed=signed):
        progress.note(older)
    latest = address.reference == LATEST
    try:
        with staging.place(catalogue, version.digest, lambda _: progress.note(WAITING)) as place:
            proof = None
            ready = catalogue / facts.name / facts.version
            if not _is_there(ready, content):
                ready = place / facts.name / facts.version
                _take(version, repository, ready, f"{facts.name}.qcow2", progress)
                (ready / MANIFEST).write_bytes(content)
                progress.beat(f"proving {facts.name}@{facts.version}")
                proof = _good(verify_version(ready), signed=signed, bad=place)
            elif signed:
                _good(verify_version(ready), signed=True)
            image = admit(catalogue, ready, address.name, latest=latest, replace=replace)
            if proof is not None:
                record(image.path, proof)
            shutil.rmtree(place)
    except OSError as fault:
        raise PublishError(
            f"{facts.name}@{facts.version} cannot be pulled: {fault.strerror or fault}",
            str(fault),
            "what came so far is kept: remove the cause, and pull again",
        ) from fault
    if latest and not (image.latest or image.held):
        progress.note(_kept_latest(image, address))
    return Pulled(image, version.digest, proof)


def _offered(repository: Repository, *, allow_rehearsal: bool) -> tuple[Artifact, bytes, Manifest]:
    """Ask what bears the address: the artifact, its `manifest.json`, and what that says."""
    address = repository.address
    found = repository.manifest(address.reference)
    if found is None:
        raise _missing(repository)
    version = artifact.read(found, str(address))
    content = blobs.small(repository, version.config.blob, SMALL)
    manifest = artifact.facts(version, content, str(address))
    _no_rehearsal(manifest, f"{address} is a rehearsal's image and was not pulled", allow_rehearsal)
    return version, content, manifests.parse(content, str(address), MANIFEST).facts


def _kept_latest(image: Image, address: Reference) -> str:
    return (
        f"latest of {image.name} stays what it is, for it does not come from {address.name}: --replace moves it, "
        f"{image.name}@{image.version} names this one"
    )


def _no_rehearsal(manifest: Mapping[str, Any], brief: str, allowed: bool) -> None:
    if artifact.is_rehearsal(manifest) and not allowed:
        raise PublishError(
            brief, "it was made from the packages of a host", "if that is what you want: --allow-rehearsal"
        )


def _version(image: Image, draft: Draft, repository: Repository, progress: Progress) -> int:
    """All of a version, and the tag that says so; returns the bytes that were sent."""
    where = repository.address.name
    bears = _digest(repository, image.version)
    if bears is not None and bears != draft.digest:
        raise PublishError(
            f"{where}:{image.version} is another image already",
            f"digest there {bears}\ndigest here  {draft.digest}",
            "push it to another repository; the tag of a version never moves",
        )
    sent = 0
    if bears is None:
        sent = _send(image, draft, repository, progress)
        repository.put_manifest(draft.content, MANIFEST_TYPE, draft.digest)
    _refer(image, draft, repository)
    if bears is None:
        repository.put_manifest(draft.content, MANIFEST_TYPE, image.version, expecting=None)
        bears = _digest(repository, image.version)
        if bears != draft.digest:
            raise PublishError(f"{where}:{image.version} was taken by another image meanwhile", f"it is {bears}")
    return sent


def _send(image: Image, draft: Draft, repository: Repository, progress: Progress) -> int:
    """The blobs that the registry does not have."""
    missing = [piece for piece in draft.pieces if not blobs.has(repository, piece.blob)]
    there = sum(piece.blob.size for piece in draft.pieces if piece not in missing)
    total = there + sum(piece.blob.size for piece in missing)
    if there:
        progress.note(f"{repository.address.host} has {size_text(there)} of {size_text(total)} already")
    beat = Beat(progress, there, total, f"to {repository.address.host}")
    done = there
    for piece in missing:
        with (image.path / piece.file).open("rb") as file:
            file.seek(piece.start)
            content = file.read(piece.blob.size)
        blobs.send(repository, piece.blob, content, _from(done, beat))
        done += piece.blob.size
    return total - there


def _refer(image: Image, draft: Draft, repository: Repository) -> None:
    """Bill of materials and provenance where others look for them: as referrers of the image."""
    files: dict[str, Piece] = {piece.file: piece for piece in draft.pieces if piece.file in artifact.REFERRERS}
    if not files:
        return
    empty = blobs.Blob(digest_of(artifact.EMPTY), len(artifact.EMPTY))
    if not blobs.has(repository, empty):
        blobs.send(repository, empty, artifact.EMPTY)
    unlisted = {}
    for piece in files.values():
        content = artifact.referrer(piece, draft, str(image.manifest["created"]))
        answer = repository.put_manifest(content, MANIFEST_TYPE, digest_of(content))
        # A registry that keeps lists of referrers says so (section "Pushing Manifests with Subject").
        if answer is not None and "OCI-Subject" not in answer.headers:
            unlisted[str(piece.layer["mediaType"])] = content
    if unlisted:
        tag = draft.digest.replace(":", "-")
        before = repository.manifest(tag)
        index = artifact.listed(before.content if before else None, unlisted)
        if index is not None:
            repository.put_manifest(index, INDEX_TYPE, tag)


def _move(repository: Repository, tag: str, draft: Draft, before: RemoteManifest | None, version: str) -> None:
    """Move a tag if it is still where it was when the push began.

    A registry need not know conditional requests, so between the last look and the change somebody on another host
    may come in between: one of the two moves is lost then, and whoever looks afterwards and finds it so says it. No
    image is lost: each keeps the tag of its version.
    """
    was, now = before.digest if before else None, _digest(repository, tag)
    if now == was != draft.digest:
        repository.put_manifest(draft.content, MANIFEST_TYPE, tag, expecting=before)
        now = _digest(repository, tag)
    if now != draft.digest:
        raise PublishError(
            f"{repository.address.name}:{tag} was moved by somebody else meanwhile",
            f"it was {was or 'no tag yet'}\nit is  {now or 'gone'}",
            f"the image itself is there as :{version}; look at the other one, then push again",
        )


def _digest(repository: Repository, tag: str) -> str | None:
    found = repository.manifest(tag)
    return found.digest if found else None


def _missing(repository: Repository) -> PublishError:
    address = repository.address
    if address.digest:
        return PublishError(f"{address.name} has no image {address.digest}")
    tags = [one for one in sorted(repository.tags()) if not one.startswith("sha256-")]
    known = f"tags: {', '.join(tags[-20:])}" if tags else "there is no such repository, or nothing in it"
    return PublishError(
        f"{address.name} has no tag {address.reference}", known, f"one of them: oci://{address.name}:TAG"
    )


def _is_there(path: Path, manifest: bytes) -> bool:
    """Return whether this very version is in the catalogue."""
    try:
        found = (path / MANIFEST).read_bytes()
    except FileNotFoundError:
        if path.exists():
            raise PublishError(f"{path} is in the catalogue already, but damaged", f"it has no {MANIFEST}") from None
        return False
    if found != manifest:
        raise PublishError(
            f"{path.parent.name}@{path.name} is in the catalogue already, with another record",
            f"{path / MANIFEST} is not the one in the registry",
            f"if no clone is based on it, move it away: mv {path} /var/tmp",
        )
    return True


def _take(version: Artifact, repository: Repository, ready: Path, disk: str, progress: Progress) -> None:
    """Take all files of a version into a folder."""
    ready.mkdir(parents=True, exist_ok=True)
    wanted = {**{name: (layer,) for name, layer in version.files.items()}, disk: version.disk}
    there = sum(_size(ready / name) for name in wanted)
    total = version.size - version.config.size
    room = os.statvfs(ready)
    free = room.f_bavail * room.f_frsize
    if free < total - there:
        raise PublishError(
            f"no space in {ready.parents[2].parent}",
            f"{size_text(total - there)} to come, {size_text(free)} are free",
            FREE_SPACE,
        )
    if there:
        progress.note(f"going on after {size_text(there)} of {size_text(total)}")
    beat, done = Beat(progress, there, total, f"from {repository.address.host}"), 0
    for name, layers in wanted.items():
        pieces = [layer.blob for layer in layers]
        blobs.take(repository, pieces, ready / name, _from(done, beat))
        done += sum(layer.size for layer in layers)


def _from(start: int, beat: Beat) -> blobs.Tell:
    """Tells of the bytes of one file or blob, as some of all."""
    return lambda count: beat.at(start + count)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _good(proof: VerificationResult, *, signed: bool, bad: Path | None = None) -> VerificationResult:
    """Return the result if it is good; a version that failed is deleted."""
    faults = (require_signature(proof) if signed else proof).faults
    if faults:
        if bad is not None:
            shutil.rmtree(bad)
        raise VerifyError(
            f"{proof.name}@{proof.version} is not what it says, and was not taken", "\n".join(faults), _whom(signed)
        )
    return proof


def _whom(signed: bool) -> str:
    return "builder keys trust FILE, if you know whose it is" if signed else "ask whoever pushed it"
