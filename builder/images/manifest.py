"""What the `manifest.json` of an image version may say, and the one place where a manifest is read.

Invariant: what was read here is right in every value that builder uses. A manifest may come from another host: keys of
a newer builder are passed over, but a value that is not known here is an error and never a guess.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import from_json

from builder.errors import VerifyError
from builder.recipe.types import GIB, MIB, NAME

MANIFEST = "manifest.json"
VERSION_DIGITS = 12
# Bytes of a manifest, and of each other file beside the disk. With the records of all stages and the packages of both
# test VMs they have some hundred KiB.
LARGEST = 16 << 20
# Clocks of two hosts differ; a date that lies farther ahead is wrong.
SKEW = timedelta(hours=1)

_FIRST, _LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
_MOST_BYTES = 1 << 50


def _moment(value: object) -> object:
    """Read a date as builder writes them: ISO 8601 with its offset from UTC."""
    if not isinstance(value, str):
        raise ValueError("it is not a text")
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None or not _FIRST <= moment <= _LAST:
        raise ValueError("it has no offset from UTC, or lies outside 1970 to 9000")
    return moment


class ManifestError(VerifyError):
    """A manifest that cannot be used; `why` is the rest of the sentence that begins with its file.

    Args:
        spoken: whose it is, for people.
        why: what is wrong with it.
        details: where it is, and what else is wrong.
    """

    def __init__(self, spoken: str, why: str, details: str) -> None:
        self.why = why
        name = spoken.partition("@")[0]
        hint = f"take another version, or a newer builder if that made it: builder images list {name}"
        super().__init__(f"the manifest of {spoken} {why}", details, hint)


ImageName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]
Version = Annotated[str, StringConstraints(pattern=rf"^[0-9a-f]{{{VERSION_DIGITS}}}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,254}$")]
RecipeName = Annotated[str, StringConstraints(pattern=f"^{NAME}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# What a guest or a program said of itself, for people; it is cleaned where it is printed.
Line = Annotated[str, StringConstraints(max_length=4096)]
Lines = Annotated[tuple[Line, ...], Field(max_length=100_000)]
Moment = Annotated[datetime, BeforeValidator(_moment)]
Bytes = Annotated[int, Field(ge=0, le=_MOST_BYTES)]
Seconds = Annotated[float, Field(ge=0, le=1e9)]


class _ManifestPart(BaseModel):
    """Base of every part of a manifest: no value is converted, and what is not known by name is passed over."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)


class FileFacts(_ManifestPart):
    """One file of a version."""

    size: Bytes
    sha256: Digest


class DiskFacts(_ManifestPart):
    """The sealed disk; `virtual_size` is what a guest sees of it."""

    virtual_size: Annotated[int, Field(gt=0, le=_MOST_BYTES, multiple_of=512)] | None = None


class MachineFacts(_ManifestPart):
    """The machine of a stage, which becomes that of clones and of a Vagrant box; memory in bytes."""

    vcpus: int = Field(default=2, ge=1, le=255)
    memory: int = Field(default=2 * GIB, ge=64 * MIB, le=16 << 40, multiple_of=MIB)
    firmware: Literal["bios", "uefi"] = "bios"
    devices: Literal["virtio", "emulated"] = "virtio"
    machine: Literal["q35", "pc"] = "q35"


class StageFacts(_ManifestPart):
    """Record of a stage. Of its inputs only the machine is used."""

    inputs: MachineFacts = MachineFacts()
    seconds: Seconds | None = None


class CopyFacts(_ManifestPart):
    """Observations of a booted copy; None where there is no record."""

    release: Line | None = None
    kernel: Line | None = None
    cmdline: Line | None = None
    boot_seconds: Seconds | None = None
    packages: Lines | None = None
    services: Lines | None = None
    users: Lines | None = None
    ports: Lines | None = None
    suid: Lines | None = None


class VerifiedFacts(_ManifestPart):
    """Record of the test VMs: how they were run, and what each showed, by role."""

    accel: Line = ""
    twins: dict[Line, CopyFacts] = {}

    @property
    def first(self) -> CopyFacts:
        """Observations of the first test VM."""
        return next(iter(self.twins.values()), CopyFacts())


class Manifest(_ManifestPart):
    """The parts of `manifest.json` that builder uses.

    Args:
        builder: version of the builder that made it.
        secrets_of: the recipe whose root password the image has, in the store in which it was built.
    """

    name: ImageName
    version: Version
    created: Moment
    files: dict[FileName, FileFacts]
    builder: Line | None = None
    recipe: RecipeName | None = None
    secrets_of: RecipeName | None = None
    rehearsal: bool = False
    disk: DiskFacts = DiskFacts()
    stages: dict[Line, StageFacts] = {}
    verified: VerifiedFacts = VerifiedFacts()

    @property
    def machine(self) -> MachineFacts:
        """The machine that the image was verified on."""
        return self.stages.get("verify", StageFacts()).inputs

    @property
    def has_cloud_init(self) -> bool:
        """True if it was verified with the package cloud-init, which gives each copy its identity then."""
        return any(package.partition(" ")[0] == "cloud-init" for package in self.verified.first.packages or ())

    @property
    def credible(self) -> bool:
        """True if its date is not in the future: one that is comes from a wrong clock, and makes nothing newer."""
        return self.created <= datetime.now(UTC) + SKEW

    @property
    def age(self) -> tuple[bool, datetime]:
        """Sort key of versions: one whose date cannot be right counts as the oldest."""
        return self.credible, self.created


@dataclass(frozen=True)
class Read:
    """A manifest that was read: as it was written, and what it means."""

    raw: Mapping[str, Any]
    facts: Manifest


def read(path: Path) -> Read:
    """Read the manifest of the version in this folder, `…/<name>/<version>`.

    Raises:
        FileNotFoundError: there is none.
        ManifestError: it cannot be read, says what this builder does not know, or belongs to another version.
    """
    file, spoken = path / MANIFEST, f"{path.parent.name}@{path.name}"
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST + 1)
    except FileNotFoundError:
        raise
    except OSError as fault:
        raise ManifestError(spoken, f"cannot be read: {fault.strerror or fault}", str(file)) from fault
    return parse(content, spoken, file, (path.parent.name, path.name))


def parse(content: bytes, spoken: str, where: object, expected: tuple[str, str] | None = None) -> Read:
    """Read a manifest.

    Args:
        spoken: whose it is, for people: `name@version`, or an address.
        where: the file or the address that it is from, for people.
        expected: name and version that it has to bear.

    Raises:
        ManifestError: it cannot be read, says what this builder does not know, or belongs to another version.
    """
    try:
        if len(content) > LARGEST:
            raise ValueError(f"it has more than {LARGEST >> 20} MiB")
        raw = from_json(content, allow_inf_nan=False)
        if not isinstance(raw, dict):
            raise ValueError("it is not a JSON object")
    except ValueError as fault:
        raise ManifestError(spoken, "cannot be read", f"{where}: {fault}") from None
    try:
        facts = Manifest.model_validate_json(content)
    except ValidationError as fault:
        first, *more = [_said(one) for one in fault.errors(include_url=False)]
        raise ManifestError(spoken, first, "\n".join([str(where), *more[:5]])) from None
    if expected is not None and (facts.name, facts.version) != expected:
        raise ManifestError(spoken, f"belongs to {facts.name}@{facts.version}", str(where))
    disk = facts.files.get(f"{facts.name}.qcow2")
    if disk is None or disk.sha256[:VERSION_DIGITS] != facts.version:
        why = "has no disk" if disk is None else f"says that its disk's sha256 is {disk.sha256}"
        raise ManifestError(spoken, why, str(where))
    return Read(raw, facts)


def _said(fault: Mapping[str, Any]) -> str:
    place = ".".join(str(part)[:40] for part in fault["loc"])
    if fault["type"] == "missing":
        return f"has no {place}"
    if fault["loc"] and fault["loc"][-1] == "[key]":
        return f"says {place.removesuffix('.[key]')!r}, which this builder does not know"
    return f"says {place}={reprlib.repr(fault['input'])}, which this builder does not know"
