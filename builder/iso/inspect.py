"""Inspect an install medium by its tables; its contents are read only on request."""

from __future__ import annotations

import configparser
import importlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from builder.errors import BuilderError, MediumError
from builder.iso import boot_records, media_checksum
from builder.iso.image import BootEntry, Iso, open_iso, read_volume
from builder.iso.media_checksum import Verdict
from builder.iso.unpack import unpack

# `builder.rehearsal` writes it into the application id of the media that it makes.
REHEARSAL_MARK = "BUILDER REHEARSAL"
_SMALL = 64 << 20
# comps.xml has three levels; each that is open costs memory.
_DEEPEST = 100
# Bytes of comps.xml; those of vendors have 2 MiB.
_GROUPS = 16 << 20
_LISTS = ("primary", "group", "group_gz")


@dataclass(frozen=True)
class MediumFacts:
    """What a medium is.

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


@dataclass(frozen=True)
class Contents:
    """What can be installed from a medium.

    Args:
        packages: names, sorted.
        groups: ids of package groups and environments, sorted.
        answers_to: all that may be asked for as a package: names with and without version and architecture, and what
            packages provide.
        group_names: ids and the names for people, in all languages.
    """

    packages: tuple[str, ...]
    groups: tuple[str, ...]
    answers_to: frozenset[str]
    group_names: frozenset[str]


def inspect(path: Path, *, md5: bool = False, packages: bool = False) -> MediumFacts:
    """What the medium is and whether it is whole.

    Args:
        md5: read all of it and compare with the implanted sum.
        packages: read the names of packages and groups out of its repodata.

    Raises:
        MediumError: missing, truncated, damaged, or no ISO 9660 image.
    """
    with open_iso(path) as iso:
        volume = iso.volume
        tree = _treeinfo(iso)
        records = boot_records.read(path)
        found = media_checksum.parse(volume.application_use)
        listed = _contents(iso) if packages else None
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
            gpt=_gpt_holds(records),
            md5=found.md5 if found else None,
            md5_verdict=media_checksum.verdict(path) if md5 else None,
            packages=listed.packages if listed else None,
            groups=listed.groups if listed else None,
            is_rehearsal=volume.application_id.startswith(REHEARSAL_MARK),
        )


def contents(path: Path) -> Contents | None:
    """What can be installed from the medium; None where it has no repodata.

    Raises:
        MediumError: no such medium, or its repodata is damaged.
    """
    with open_iso(path) as iso:
        return _contents(iso)


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


def _gpt_holds(records: boot_records.BootRecords) -> bool | None:
    if records.primary is None:
        return None
    return records.primary.valid and records.backup is not None and records.backup.valid


def _treeinfo(iso: Iso) -> dict[str, str]:
    path = iso.find("/.treeinfo")
    if path is None:
        return {}
    with iso.file(path) as opened:
        text = opened.read(1 << 20).decode("utf-8", "replace")
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(text)
    except (configparser.Error, AttributeError) as fault:
        raise MediumError(f"{iso.name}: its .treeinfo is damaged", details=str(fault)) from None
    return dict(parser["general"]) if parser.has_section("general") else {}


def _contents(iso: Iso) -> Contents | None:
    if iso.find("/repodata/repomd.xml") is None:
        return None
    repository = _repository_library()
    with tempfile.TemporaryDirectory(prefix="builder-repodata-") as folder:
        try:
            lists = _lists(iso, repository, Path(folder))
            names, answers_to = _packages(repository, lists["primary"])
            comps = lists.get("group") or lists.get("group_gz")
            ids, group_names = _groups(comps) if comps else ((), frozenset())
        except (BuilderError, MemoryError):
            raise
        except Exception as fault:
            # createrepo_c is written in C and hands out what it found: names that are missing or no text.
            raise MediumError(f"{iso.name}: its repodata is damaged", str(fault) or type(fault).__name__) from fault
        return Contents(tuple(sorted(names)), ids, frozenset(answers_to), group_names)


def _lists(iso: Iso, repository: Any, folder: Path) -> dict[str, Path]:
    """The lists of packages and groups, by kind, as files that are not compressed."""
    index, lists = repository.Repomd(), {}
    _copy_small(iso, "/repodata/repomd.xml", folder / "repomd.xml")
    repository.xml_parse_repomd(str(folder / "repomd.xml"), index)
    places = {record.type: record.location_href for record in index.records}
    # The other lists (files, change logs, the same as databases) are large, and not needed.
    for kind in _LISTS:
        if kind in places:
            _copy_small(iso, f"/{places[kind]}", folder / "packed")
            lists[kind] = folder / f"{kind}.xml"
            unpack(folder / "packed", lists[kind], _SMALL if kind == "primary" else _GROUPS)
    return lists


def _copy_small(iso: Iso, path: str, target: Path) -> None:
    with iso.file(path) as opened:
        data = opened.read(_SMALL + 1)
    if len(data) > _SMALL:
        raise MediumError(f"{iso.name}: {path} is larger than {_SMALL >> 20} MiB")
    target.write_bytes(data)


def _packages(repository: Any, primary: Path) -> tuple[set[str], set[str]]:
    """Names of packages, and all that they may be asked for by."""
    names: set[str] = set()
    answers_to: set[str] = set()

    def note(package: Any) -> None:
        version = f"{package.name}-{package.version}"
        release = f"{version}-{package.release}"
        names.add(package.name)
        answers_to.update((package.name, version, release))
        answers_to.update((f"{package.name}.{package.arch}", f"{release}.{package.arch}"))
        answers_to.update(provided[0] for provided in package.provides)

    repository.xml_parse_primary(str(primary), pkgcb=note, do_files=False)
    return names, answers_to


def _groups(comps: Path) -> tuple[tuple[str, ...], frozenset[str]]:
    """Ids out of comps.xml; and ids and names together."""
    found = _Groups()
    # A tree of all elements would take ten times the size of the file.
    parser = ElementTree.XMLParser(target=found)
    with comps.open("rb") as file:
        while data := file.read(1 << 20):
            parser.feed(data)
    parser.close()
    return tuple(sorted(found.ids)), frozenset(found.ids | found.names)


class _Groups:
    """Collects ids and names of groups and environments while comps.xml is parsed."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.names: set[str] = set()
        self._open: list[str] = []
        self._text: list[str] = []

    def start(self, tag: str, _attributes: object) -> None:
        if len(self._open) > _DEEPEST:
            raise ValueError("elements are nested too deeply")
        self._open.append(tag)
        self._text.clear()

    def data(self, text: str) -> None:
        self._text.append(text)

    def end(self, tag: str) -> None:
        self._open.pop()
        text = "".join(self._text)
        if text and self._open[-1:] in (["group"], ["environment"]) and tag in ("id", "name"):
            (self.ids if tag == "id" else self.names).add(text)
        self._text.clear()

    def close(self) -> None:
        """There is nothing to hand out."""


def _repository_library() -> Any:
    """createrepo_c, loaded late (it is large) and without its complaint about hosts that have no rpm."""
    with tempfile.TemporaryDirectory(prefix="builder-rpm-") as folder:
        before = os.environ.get("RPM_CONFIGDIR")
        (Path(folder) / "rpmrc").touch()
        os.environ["RPM_CONFIGDIR"] = folder
        try:
            return importlib.import_module("createrepo_c")
        finally:
            if before is None:
                del os.environ["RPM_CONFIGDIR"]
            else:
                os.environ["RPM_CONFIGDIR"] = before
