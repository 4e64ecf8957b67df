"""The OCI artifact of an image version; it follows from the version alone, so one version has one digest.

It is an OCI image manifest (opencontainers/image-spec 1.1, "Guidelines for Artifact Usage") whose configuration is the
version's `manifest.json`, byte for byte. Its layers are the other files, each by its title; the disk is all layers of
its type, one after the other. A disk larger than one piece is several layers, so that a broken transfer loses one piece
at most; `cat` puts the disk together again.

The media types in the tree of `vnd.builder` are this program's own and not registered with IANA.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import from_json

from builder.errors import PublishError
from builder.images.catalogue import PROVENANCE, SBOM, SUMS, Image
from builder.images.manifest import LARGEST, MANIFEST, SKEW, VERSION_DIGITS
from builder.registry.blobs import Blob
from builder.registry.client import INDEX_TYPE, MANIFEST_TYPE, RemoteManifest, digest_of

ARTIFACT = "application/vnd.builder.image.v1"
CONFIG = "application/vnd.builder.image.manifest.v1+json"
DISK = "application/vnd.builder.image.disk.v1.qcow2"
TYPES = {
    "verify.json": "application/vnd.builder.image.verify.v1+json",
    SUMS: "text/plain",
    SBOM: "application/vnd.cyclonedx+json",
    # in-toto/attestation, spec/v1/envelope.md: `application/vnd.in-toto.<predicate>+dsse`
    PROVENANCE: "application/vnd.in-toto.provenance+dsse",
}
OTHER = "application/octet-stream"
# Files that others look for as referrers of an image; they are layers, too, so that one digest names a whole version.
REFERRERS = (SBOM, PROVENANCE)
# image-spec, "Guidance for an Empty Descriptor"
EMPTY, EMPTY_TYPE = b"{}", "application/vnd.oci.empty.v1+json"
# Bytes of a disk in one layer: half a minute at 10 Mbit/s, and below the limits of proxies and of registries.
PIECE = 32 << 20

TITLE = "org.opencontainers.image.title"
VERSION = "org.opencontainers.image.version"
CREATED = "org.opencontainers.image.created"
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]


class Descriptor(BaseModel):
    """OCI content descriptor; keys that are not needed are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    media_type: str = Field(alias="mediaType")
    digest: Digest
    size: int = Field(ge=0, le=1 << 50)
    annotations: dict[str, str] = {}

    @property
    def blob(self) -> Blob:
        """The bytes."""
        return Blob(self.digest, self.size)


class _Manifest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    media_type: str = Field(alias="mediaType")
    config: Descriptor
    layers: list[Descriptor]


@dataclass(frozen=True)
class Artifact:
    """A version as it lies in a registry.

    Args:
        config: its `manifest.json`.
        files: the other files, by name, without the disk.
        disk: the pieces of the disk, in order.
    """

    digest: str
    config: Descriptor
    files: Mapping[str, Descriptor]
    disk: tuple[Descriptor, ...]

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return self.config.size + sum(one.size for one in (*self.files.values(), *self.disk))


@dataclass(frozen=True)
class Piece:
    """A blob that is to be sent: where its bytes are in which file of the version."""

    file: str
    start: int
    layer: Mapping[str, Any]

    @property
    def blob(self) -> Blob:
        """The bytes."""
        return Blob(str(self.layer["digest"]), int(self.layer["size"]))


@dataclass(frozen=True)
class Draft:
    """Artifact to be sent: the manifest's bytes, and the blobs that it names."""

    content: bytes
    pieces: tuple[Piece, ...]

    @property
    def digest(self) -> str:
        """Digest of the manifest."""
        return digest_of(self.content)


def is_rehearsal(manifest: Mapping[str, Any]) -> bool:
    """Return whether a version is marked as a rehearsal, in either of the two ways."""
    return bool(manifest.get("rehearsal")) or str(manifest.get("name", "")).endswith("-rehearsal")


def draft(image: Image) -> Draft:
    """Read all of a version, and say how it looks in a registry.

    Raises:
        PublishError: a file is not what was published.
        OSError: a file cannot be read.
    """
    names = [*sorted(image.manifest["files"]), *(one for one in (PROVENANCE, SUMS) if (image.path / one).exists())]
    names.sort(key=lambda name: name == image.disk.name)
    known = {**_sums(image), **{name: facts["sha256"] for name, facts in image.manifest["files"].items()}}
    (config,) = _pieces(image, MANIFEST, known)
    pieces = [piece for name in names for piece in _pieces(image, name, known)]
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT,
        "config": config.layer,
        "layers": [piece.layer for piece in pieces],
        "annotations": _annotations(image),
    }
    return Draft(_json(manifest), (config, *pieces))


def referrer(file: Piece, subject: Draft, created: str) -> bytes:
    """A manifest that says of one file that it belongs to the image."""
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": file.layer["mediaType"],
        "config": {"mediaType": EMPTY_TYPE, "digest": digest_of(EMPTY), "size": len(EMPTY)},
        "layers": [file.layer],
        "subject": {"mediaType": MANIFEST_TYPE, "digest": subject.digest, "size": len(subject.content)},
        "annotations": {CREATED: created},
    }
    return _json(manifest)


def listed(index: bytes | None, referrers: Mapping[str, bytes]) -> bytes | None:
    """The list of referrers that a registry without such lists keeps under a tag (distribution-spec, "Referrers Tag
    Schema"), with these manifests, by media type of the file, in it; None when it holds them all.

    Raises:
        PublishError: what bears the tag is no such list.
    """
    told: dict[str, Any] = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": []}
    try:
        told = from_json(index, allow_inf_nan=False) if index else told
        there = {one["digest"] for one in told["manifests"]}
    except (ValueError, KeyError, TypeError) as fault:
        raise PublishError("the registry's list of referrers cannot be read", str(fault)) from fault
    missing = [
        {"mediaType": MANIFEST_TYPE, "digest": digest_of(one), "size": len(one), "artifactType": kind}
        for kind, one in referrers.items()
        if digest_of(one) not in there
    ]
    if not missing:
        return None
    told["manifests"] += missing
    return _json(told)


def read(found: RemoteManifest, where: str) -> Artifact:
    """A version from what bears its tag or digest.

    Args:
        where: what was asked for, for people.

    Raises:
        PublishError: it is no image of ours.
    """
    try:
        manifest = _Manifest.model_validate_json(found.content)
        if manifest.config.media_type != CONFIG:
            raise ValueError(f"its configuration is {manifest.config.media_type}")
        files = [layer for layer in manifest.layers if layer.media_type != DISK]
        named = {layer.annotations.get(TITLE, ""): layer for layer in files}
        strange = [name for name in named if not _FILE.fullmatch(name) or name == MANIFEST]
        if strange or len(named) != len(files):
            raise ValueError(f"its files are {', '.join(map(repr, named))}")
        large = [f"{name} has {layer.size} bytes" for name, layer in named.items() if layer.size > LARGEST]
        if large:
            raise ValueError(f"{', '.join(large)}, {LARGEST} are too many")
        disk = tuple(layer for layer in manifest.layers if layer.media_type == DISK)
        if not disk:
            raise ValueError("it has no disk")
    except ValidationError as fault:
        kind = found.media_type or "it"
        told = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in fault.errors()[:3])
        raise _not_ours(where, f"{kind}: {told}") from None
    except ValueError as fault:
        raise _not_ours(where, str(fault)) from None
    return Artifact(found.digest, manifest.config, named, disk)


def later(found: RemoteManifest, image: Image) -> str | None:
    """The version of what bears a tag, if it was published after the image; None also when that cannot be told."""
    try:
        said = from_json(found.content, allow_inf_nan=False)["annotations"]
        there = datetime.fromisoformat(str(said[CREATED]))
        # What another host's wrong clock dated ahead must not keep the tag for years.
        ahead = there > datetime.now(UTC) + SKEW
        return str(said[VERSION]) if there > image.facts.created and not ahead else None
    except (ValueError, KeyError, TypeError):
        return None


def facts(artifact: Artifact, content: bytes, where: str) -> dict[str, Any]:
    """Check the artifact as far as possible before its disk is transferred, and return its `manifest.json`.

    Raises:
        PublishError: it is no image of ours, or not this one.
    """
    try:
        manifest = from_json(content, allow_inf_nan=False)
        name, version, files = manifest["name"], manifest["version"], manifest["files"]
        disk = files.pop(f"{name}.qcow2")
        size = sum(one.size for one in artifact.disk)
        if not (_FILE.fullmatch(name) and re.fullmatch(rf"[0-9a-f]{{{VERSION_DIGITS}}}", version)):
            raise ValueError(f"it calls itself {name!r}, version {version!r}")
        if disk["sha256"][:VERSION_DIGITS] != version or disk["size"] != size:
            raise ValueError(f"its disk is not the one of version {version}")
        if artifact.files.keys() - {PROVENANCE, SUMS} != files.keys():
            raise ValueError(f"its files are {', '.join(artifact.files)}")
        if manifest.get("rehearsal") and not name.endswith("-rehearsal"):
            raise ValueError(f"it is a rehearsal and calls itself {name}")
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise _not_ours(where, f"{MANIFEST}: {fault}") from None
    return {**manifest, "files": {**files, f"{name}.qcow2": disk}}


def _not_ours(where: str, why: str) -> PublishError:
    return PublishError(f"{where} is no image that builder has pushed", why)


def _pieces(image: Image, name: str, known: Mapping[str, str]) -> Iterator[Piece]:
    """The layers of one file, after a look at all its bytes."""
    disk = name == image.disk.name
    kind = DISK if disk else CONFIG if name == MANIFEST else TYPES.get(name, OTHER)
    whole, found, start = hashlib.sha256(), [], 0
    with (image.path / name).open("rb") as file:
        while data := file.read(PIECE if disk else -1):
            whole.update(data)
            found.append((start, len(data), digest_of(data)))
            start += len(data)
    if name in known and whole.hexdigest() != known[name]:
        raise PublishError(
            f"{name} of {image.name}@{image.version} is not what was published",
            f"sha256 expected {known[name]}\nsha256 found    {whole.hexdigest()}",
            f"builder images verify {image.name}@{image.version}",
        )
    for number, (begin, size, digest) in enumerate(found):
        title = name if len(found) == 1 else f"{name}.{number:04}"
        layer = {"mediaType": kind, "digest": digest, "size": size, "annotations": {TITLE: title}}
        yield Piece(name, begin, layer)


def _sums(image: Image) -> dict[str, str]:
    """Return the entries of SHA256SUMS for files that `manifest.json` cannot list."""
    spoken = f"{image.name}@{image.version}"
    try:
        lines = (image.path / SUMS).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as fault:
        raise PublishError(f"{SUMS} of {spoken} is damaged", str(fault), f"builder images verify {spoken}") from None
    return {name: sha256 for sha256, _, name in (line.partition("  ") for line in lines)}


def _annotations(image: Image) -> dict[str, str]:
    """The keys that image-spec defines ("Pre-Defined Annotation Keys")."""
    rehearsal = is_rehearsal(image.manifest)
    kind = "a rehearsal, not for use" if rehearsal else "golden VM image, proved by two booted copies"
    return {
        TITLE: image.name,
        VERSION: image.version,
        CREATED: str(image.manifest["created"]),
        "org.opencontainers.image.description": kind,
    }


def _json(content: Any) -> bytes:
    return json.dumps(content, indent=2, ensure_ascii=False).encode()
