"""The catalogue: versions, which never change, and `latest`, which moves to a complete version by one rename.

`images/<name>/<version>/` holds the disk `<name>.qcow2`, what belongs to it, `SHA256SUMS` and `manifest.json`; the
version is the beginning of the disk's SHA-256. What may change about a version is beside it, in hidden files:
`.hold-<version>` (`builder.images.holds`), `.origins.json` (`origins`), `.users/` (`references`) and `.verified/`
(`verification_record`).
"""

from __future__ import annotations

import difflib
import errno
import hashlib
import json
import os
import re
import secrets as randomness
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from builder.errors import BuilderError, Cause, PublishError, VerifyError
from builder.images import holds, origins
from builder.images import manifest as manifests
from builder.images.manifest import MANIFEST, VERSION_DIGITS, Manifest
from builder.store.objects import remove, sync_file
from builder.system import locks, process
from builder.system.atomic_file import sync_folder
from builder.system.digests import sha256_file

SUMS = "SHA256SUMS"
# CycloneDX, and one DSSE envelope with the SLSA provenance of all other files (slsa.dev names it so).
SBOM = "sbom.cdx.json"
PROVENANCE = "provenance.intoto.jsonl"
LATEST = "latest"
LOCK = ".lock"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Reasons why a file cannot get a second name: other file system, no hard links there, not ours, too many names.
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}


@dataclass(frozen=True)
class Image:
    """One version of a golden image.

    Args:
        manifest: what `manifest.json` says, as it was written.
        facts: what that means, as far as builder uses it.
        latest: `latest` points here.
        held: it was rolled back from, and does not become the latest again until it is released.
        origin: `origins.LOCAL`, or the repository that it was pulled from; None when that was never recorded.
    """

    name: str
    version: str
    path: Path
    manifest: Mapping[str, Any]
    facts: Manifest
    latest: bool
    held: bool = False
    origin: str | None = None

    @property
    def disk(self) -> Path:
        """The disk; the base of every clone, never to be written to."""
        return self.path / f"{self.name}.qcow2"

    @property
    def sha256(self) -> str:
        """The disk's SHA-256 as it was published."""
        return self.facts.files[self.disk.name].sha256

    @property
    def size(self) -> int:
        """Bytes of the disk as it was published."""
        return self.facts.files[self.disk.name].size


def publish(
    catalogue: Path,
    name: str,
    sources: Mapping[str, Path],
    manifest: Mapping[str, Any],
    expected: Mapping[str, str] | None = None,
    attest: Callable[[Mapping[str, str]], bytes] | None = None,
) -> Image:
    """Put a version into the catalogue and make it the latest, unless it is held; does nothing that was done before.

    Args:
        sources: files of the version, by their name in it; `<name>.qcow2` is the disk. They are linked, not copied,
            where the file system allows it.
        manifest: facts to add to `manifest.json`.
        expected: SHA-256 of sources as they were finished, by name.
        attest: makes the statement of provenance; gets the SHA-256 of every file of the version, by name.

    Raises:
        PublishError: a source has rotted, the version is there with other contents, or the catalogue cannot be
            written to. Whatever was published before stands as it stood.
    """
    if not _NAME.fullmatch(name):
        raise PublishError(f"an image cannot be named {name!r}", hint="letters, digits, dots, dashes and underscores")
    folder = catalogue / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with changing(folder):
            facts = {file: _facts(file, path, (expected or {}).get(file)) for file, path in sorted(sources.items())}
            version = facts[f"{name}.qcow2"]["sha256"][:VERSION_DIGITS]
            if (folder / version).exists():
                _check_same(folder / version, facts)
            else:
                created = datetime.now(UTC).isoformat(timespec="seconds")
                head = {**manifest, "name": name, "version": version, "created": created, "files": facts}
                origins.note(folder, version, origins.LOCAL)
                _write_version(folder, version, sources, head, attest)
            if version not in holds.read(folder):
                point(folder, version)
    except OSError as fault:
        raise PublishError(f"{name} cannot be published: {fault.strerror or fault}", str(fault)) from fault
    return load_image(catalogue, f"{name}@{version}")


def admit(catalogue: Path, ready: Path, origin: str, *, latest: bool, replace: bool = False) -> Image:
    """Give a version that was made elsewhere, and proved, its place; does nothing that was done before.

    Args:
        ready: its folder, `<name>/<version>`, on the file system of the catalogue, or in the catalogue already.
        origin: the repository that it was pulled from.
        latest: make it the latest, unless it is held, or the latest of this name comes from somewhere else. It becomes
            so in any case when there is no other.
        replace: make it the latest although the latest of this name comes from somewhere else.

    Raises:
        OSError: the catalogue cannot be written to. Whatever was there before stands as it stood.
    """
    name, version = ready.parent.name, ready.name
    folder = catalogue / name
    folder.mkdir(parents=True, exist_ok=True)
    with changing(folder):
        before = latest_of(folder)
        ours = before is None or origins.read(folder).get(before) == origin
        if not (folder / version).exists():
            origins.note(folder, version, origin)
            for path in ready.iterdir():
                path.chmod(0o444)
                sync_file(path)
            sync_folder(ready)
            ready.rename(folder / version)
            sync_folder(folder)
        if version not in holds.read(folder) and (replace or (latest and ours) or before is None):
            point(folder, version)
    return load_image(catalogue, f"{name}@{version}")


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Hold the lock under which the versions of one name change, after mending what a killed process left.

    Raises:
        OSError: the folder cannot be written to.
    """
    # Listing needs nothing of it, and its library takes longer to start than the list.
    with locks.held(folder / LOCK, holder=f"process {os.getpid()}"):
        # With the lock held nobody else builds or removes here: these are left from a process that was killed.
        for torn in torn_versions(folder):
            remove(torn)
        holds.repair(folder, latest_of(folder))
        yield


def torn_versions(folder: Path) -> list[Path]:
    """List versions that are being made or removed; left by killed processes where nobody holds the lock."""
    return [*folder.glob(".new-*"), *folder.glob(".gone-*")]


def latest_of(folder: Path) -> str | None:
    """The version that `latest` names; None when there is no such link."""
    with suppress(OSError):
        return str((folder / LATEST).readlink())
    return None


def list_images(catalogue: Path, name: str | None = None) -> list[Image]:
    """All versions of one image or of all, by name, the newest first; `survey` names those without a manifest, too."""
    return survey(catalogue, name)[0]


def survey(catalogue: Path, name: str | None = None) -> tuple[list[Image], list[BuilderError]]:
    """List all versions of one image or of all, and what cannot be read of them: a manifest, or origins."""
    found: list[Image] = []
    faults: list[BuilderError] = []
    for one in [name] if name is not None else folders(catalogue):
        images = []
        beside = _Beside.read(catalogue / one)
        if origins.damaged(catalogue / one):
            faults.append(PublishError(f"the origins of {one} cannot be read: {catalogue / one / origins.FILE}"))
        for version in folders(catalogue / one):
            try:
                images.append(_read(catalogue / one, version, beside))
            except FileNotFoundError as fault:
                # It may be pruned at this moment; otherwise it has lost its manifest.
                if (catalogue / one / version).is_dir():
                    faults.append(VerifyError(f"{one}@{version} has no {MANIFEST}", str(fault.filename)))
            except VerifyError as fault:
                faults.append(fault)
        found += sorted(images, key=lambda image: (image.facts.age, image.version), reverse=True)
    return found, faults


def load_image(catalogue: Path, spec: str) -> Image:
    """The image `name` (its latest version) or `name@version`; the beginning of a version is enough.

    Raises:
        PublishError: there is no such image; the message names those with similar names.
        VerifyError: its manifest is missing or cannot be read, or says what this builder does not know.
    """
    name, at, version = spec.partition("@")
    require_name(catalogue, name)
    there = folders(catalogue / name)
    if at:
        matches = [one for one in there if version and one.startswith(version)]
    else:
        matches = [one for one in there if one == latest_of(catalogue / name)]
    if len(matches) != 1:
        known = ", ".join(image.version for image in list_images(catalogue, name)) or "none"
        if at:
            count = "several versions" if matches else "no version"
            raise PublishError(
                f"image {name} has {count} {version}", f"versions: {known}", f"builder images show {name}"
            )
        raise PublishError(
            f"image {name} has no latest version", f"versions: {known}", f"builder images rollback {name} VERSION"
        )
    try:
        return _read(catalogue / name, matches[0], _Beside.read(catalogue / name))
    except FileNotFoundError as fault:
        spoken = f"{name}@{matches[0]}"
        raise VerifyError(
            f"{spoken} has no {MANIFEST}", str(fault.filename), f"builder images verify {spoken}"
        ) from fault


def require_name(catalogue: Path, name: str) -> None:
    """Check that there are images of this name, readable or not.

    Raises:
        PublishError: there are none; the message names those with similar names.
    """
    names = folders(catalogue)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "builder images list"
        raise PublishError(f"there is no image {name}", f"images in {catalogue}: {', '.join(names) or 'none'}", hint)


def folders(folder: Path) -> list[str]:
    """Names of the folders in it, without hidden ones and links."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(one.name for one in entries if one.is_dir(follow_symlinks=False) and one.name[0] != ".")


@dataclass(frozen=True)
class _Beside:
    """What the files beside the versions of one name say of them."""

    latest: str | None
    held: frozenset[str]
    origins: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path) -> _Beside:
        return cls(latest_of(folder), frozenset(holds.read(folder)), origins.read(folder))


def _read(folder: Path, version: str, beside: _Beside) -> Image:
    read = manifests.read(folder / version)
    latest = beside.latest == version
    held = version in beside.held and not latest
    return Image(
        folder.name, version, folder / version, read.raw, read.facts, latest, held, beside.origins.get(version)
    )


def _facts(name: str, path: Path, expected: str | None) -> dict[str, Any]:
    if not _NAME.fullmatch(name):
        raise PublishError(f"a file of an image cannot be named {name!r}")
    found = sha256_file(path)
    if expected not in (None, found):
        raise PublishError(
            f"{path} has changed since it was finished",
            f"sha256 expected {expected}\nsha256 found    {found}",
            "builder run … --rebuild seal",
            cause=Cause.CORRUPT,
        )
    return {"size": path.stat().st_size, "sha256": found}


def _check_same(path: Path, facts: Mapping[str, Mapping[str, Any]]) -> None:
    """The version is there: its disk must be the one that is to be published, byte for byte."""
    disk = f"{path.parent.name}.qcow2"
    try:
        found = sha256_file(path / disk)
    except FileNotFoundError:
        found = "no such file"
    if found != facts[disk]["sha256"] or not _readable(path):
        raise PublishError(
            f"{path} is in the catalogue already, but damaged",
            f"sha256 of {disk} expected {facts[disk]['sha256']}\nsha256 found {found}",
            f"if no clone is based on it, move it away: mv {path} /var/tmp",
        )


def _readable(path: Path) -> bool:
    with suppress(FileNotFoundError, VerifyError):
        manifests.read(path)
        return True
    return False


def _write_version(
    folder: Path,
    version: str,
    sources: Mapping[str, Path],
    manifest: Mapping[str, Any],
    attest: Callable[[Mapping[str, str]], bytes] | None,
) -> None:
    """Build the version beside its place, flush it, and give it its name with one rename."""
    text = (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode()
    # What a guest says is in there, too: nothing is published that could not be read again.
    manifests.parse(text, f"{folder.name}@{version}", "the new version")
    with _new(folder) as new:
        new.mkdir()
        for name, source in sources.items():
            _link(source, new / name, manifest["files"][name]["sha256"])
        (new / MANIFEST).write_bytes(text)
        sums = {name: manifest["files"][name]["sha256"] for name in sources}
        sums[MANIFEST] = hashlib.sha256(text).hexdigest()
        if attest is not None:
            envelope = attest(sums)
            (new / PROVENANCE).write_bytes(envelope)
            sums[PROVENANCE] = hashlib.sha256(envelope).hexdigest()
        (new / SUMS).write_text("".join(f"{sums[name]}  {name}\n" for name in sorted(sums)), encoding="utf-8")
        for path in new.iterdir():
            path.chmod(path.stat().st_mode & 0o444)
            sync_file(path)
        sync_folder(new)
        new.rename(folder / version)
    sync_folder(folder)


def _link(source: Path, target: Path, sha256: str) -> None:
    """A second name for the same file; else a copy that shares its blocks; else a copy."""
    try:
        target.hardlink_to(source)
    except OSError as fault:
        if fault.errno not in _NO_LINK:
            raise
        words = ("cp", "--reflink=auto", "--sparse=always", "--preserve=mode,timestamps", source, target)
        process.run(words, error=PublishError)
        if sha256_file(target) != sha256:
            raise PublishError(f"{target} is not what was copied from {source}") from None


def point(folder: Path, version: str) -> None:
    """Move `latest` by one rename. Call it inside `changing`."""
    if latest_of(folder) == version:
        return
    with _new(folder) as new:
        new.symlink_to(version)
        new.replace(folder / LATEST)
    sync_folder(folder)


@contextmanager
def _new(folder: Path) -> Iterator[Path]:
    """A hidden name in the folder; what still bears it when the block ends is removed."""
    new = folder / f".new-{randomness.token_hex(4)}"
    try:
        yield new
    finally:
        remove(new)
