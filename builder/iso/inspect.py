"""Inspect an install medium by its tables; its contents are read only on request."""

from __future__ import annotations

import configparser
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from builder.errors import MediumError
from builder.iso import boot_records, media_checksum, repodata
from builder.iso.image import BootEntry, Iso, open_iso, read_volume
from builder.iso.media_checksum import Verdict
from builder.iso.repodata import Contents

# `builder.rehearsal` writes it into the application id of the media that it makes.
REHEARSAL_MARK = "BUILDER REHEARSAL"
_SMALL = 64 << 20


@dataclass(frozen=True)
class MediumFacts:
    """Identity of a medium.

    Args:
        product, family, version, arch: from `.treeinfo`; empty where it has none.
        volume_size: bytes, as the volume descriptor says.
        file_size: bytes; more than the volume where isohybrid padded it.
        names: where file names come from: `rock ridge`, `joliet` or `iso9660`.
        joliet: there is a Joliet tree, whether or not names come from it.
        boot: the El Torito catalogue.
        mbr, isohybrid: there is a boot sector; and it starts isolinux.
        gpt: both copies of the GPT are there with right checksums; None where there is none.
        md5: the implanted sum, None where there is none.
        md5_verdict: whether it holds; None when that was not asked.
        packages: package names, sorted; None when that was not asked or the medium has no repodata.
        groups: ids of package groups and environments, likewise.
        is_rehearsal: builder made it from the host's own packages.
    """

    volume_id: str
    application_id: str
    product: str
    family: str
    version: str
    arch: str
    volume_size: int
    file_size: int
    files: int
    names: str
    joliet: bool
    boot: tuple[BootEntry, ...]
    mbr: bool
    isohybrid: bool
    gpt: bool | None
    md5: str | None
    md5_verdict: Verdict | None
    packages: tuple[str, ...] | None
    groups: tuple[str, ...] | None
    is_rehearsal: bool

    @property
    def truncated(self) -> bool:
        """The file is shorter than the volume in it."""
        return self.file_size < self.volume_size

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def inspect(path: Path, *, md5: bool = False, packages: bool = False) -> MediumFacts:
    """Inspect a medium: what it is and whether it is whole.

    Args:
        md5: read all of it and compare with the implanted sum.
        packages: read the names of packages and groups out of its repodata.

    Raises:
        MediumError: missing, truncated, damaged, or no ISO 9660 image.
    """
    with open_iso(path) as iso:
        volume = iso.volume
        info = _treeinfo(iso)
        tree = dict(info["general"]) if info.has_section("general") else {}
        records = boot_records.read(path)
        found = media_checksum.parse(volume.application_use)
        listed = repodata.contents(iso, info) if packages else None
        return MediumFacts(
            volume_id=volume.volume_id,
            application_id=volume.application_id,
            product=tree.get("name", ""),
            family=tree.get("family", ""),
            version=tree.get("version", ""),
            arch=tree.get("arch", ""),
            volume_size=volume.size,
            file_size=path.stat().st_size,
            files=len(iso.paths),
            names=iso.names,
            joliet=iso.joliet,
            boot=tuple(iso.boot_entries()),
            mbr=records.mbr,
            isohybrid=records.isohybrid,
            gpt=records.gpt,
            md5=found.md5 if found else None,
            md5_verdict=media_checksum.verdict(path) if md5 else None,
            packages=listed.packages if listed else None,
            groups=listed.groups if listed else None,
            is_rehearsal=volume.application_id.startswith(REHEARSAL_MARK),
        )


def contents(path: Path) -> Contents | None:
    """Read the packages that the medium offers; None where it has no repodata.

    Raises:
        MediumError: no such medium, or its repodata is damaged.
    """
    with open_iso(path) as iso:
        return repodata.contents(iso, _treeinfo(iso))


def volume_id(path: Path) -> str:
    """The medium's volume id, without a look at anything else.

    Raises:
        MediumError: no such medium.
    """
    try:
        with path.open("rb") as file:
            return read_volume(file, str(path)).volume_id
    except OSError as fault:
        raise MediumError(f"cannot read {path}: {fault.strerror}") from fault


def roots(path: Path, prefix: str) -> dict[str, bytes]:
    """Small files of the root folder whose path begins so (`/RPM-GPG-KEY`), by path.

    Raises:
        MediumError: no such medium.
    """
    found = {}
    with open_iso(path) as iso:
        for place in iso.paths:
            if place.startswith(prefix) and place.count("/") == 1:
                with iso.file(place) as opened:
                    found[place] = opened.read(1 << 20)
    return found


def read_file(path: Path, iso_path: str) -> bytes:
    """A small file of a medium.

    Args:
        iso_path: as Rock Ridge (else Joliet) names it, from the root: `/.treeinfo`.

    Raises:
        MediumError: no such medium, no such file, or one of more than 64 MiB.
    """
    with open_iso(path) as iso, iso.file(iso_path) as opened:
        data: bytes = opened.read(_SMALL + 1)
    if len(data) > _SMALL:
        raise MediumError(f"{iso_path} in {path} is too large to be read into memory")
    return data


def extract(path: Path, files: Mapping[str, Path]) -> None:
    """Copy files out of a medium.

    Args:
        files: the new file by path on the medium.

    Raises:
        MediumError: no such medium or no such file.
    """
    with open_iso(path) as iso:
        for iso_path, target in files.items():
            iso.copy_out(iso_path, target)


def _treeinfo(iso: Iso) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    path = iso.find("/.treeinfo")
    if path is None:
        return parser
    with iso.file(path) as opened:
        text = opened.read(1 << 20).decode("utf-8", "replace")
    try:
        parser.read_string(text)
    except (configparser.Error, AttributeError) as fault:
        raise MediumError(f"{iso.name}: its .treeinfo is damaged", details=str(fault)) from None
    return parser
