"""Read ISO images and create small ones; pycdlib is used only here, and its exceptions become a MediumError.

Names are looked up through Rock Ridge, else Joliet, else plain ISO 9660 (`/.treeinfo` has that name in the first two
only). All dates are arguments: the same inputs give the same bytes.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import pycdlib
from pycdlib import dates

from builder.errors import BuilderError, MediumError
from builder.iso.layout import SECTOR, SYSTEM_AREA, ExtentSource, IsoPlan, Recorder
from builder.system.atomic_file import replacing

_PLATFORMS = {0: "bios", 1: "ppc", 2: "mac", 0xEF: "uefi"}


@dataclass(frozen=True)
class BootEntry:
    """One entry of the El Torito catalogue.

    Args:
        platform: bios, uefi, or another platform's name or number.
        load_sectors: how much the firmware loads, in units of 512 bytes.
        sector: where the boot image starts, in units of 2048 bytes.
        path: its file; None where it has no name in the tree.
    """

    platform: str
    load_sectors: int
    sector: int
    path: str | None


@dataclass(frozen=True)
class Volume:
    """The primary volume descriptor.

    Args:
        size: bytes of the volume; the file may be longer (isohybrid pads it), never shorter.
        application_use: 512 bytes, where the media checksum is implanted.
        written: the volume's creation date; None where it is not set or makes no sense.
    """

    volume_id: str
    application_id: str
    size: int
    application_use: bytes
    written: datetime | None


def read_volume(file: BinaryIO, name: str) -> Volume:
    """The volume descriptor of an image, and a first look at whether the image is whole.

    Raises:
        MediumError: no ISO 9660 image, or shorter than its descriptor says.
    """
    size = os.fstat(file.fileno()).st_size
    raw = os.pread(file.fileno(), SECTOR, SYSTEM_AREA)
    if len(raw) < SECTOR or raw[:6] != b"\x01CD001":
        raise MediumError(f"{name} is not an ISO 9660 image", hint="give the vendor's install ISO")
    volume = Volume(
        raw[40:72].decode("latin-1").rstrip("\0 "),
        raw[574:702].decode("latin-1").rstrip("\0 "),
        int.from_bytes(raw[80:84], "little") * SECTOR,
        raw[883:1395],
        _volume_date(raw[813:830]),
    )
    if size < volume.size:
        raise MediumError(
            f"{name} is truncated: {size} of {volume.size} bytes",
            details=f"volume {volume.volume_id!r}",
            hint="download it again and compare its sha256",
        )
    return volume


def _volume_date(raw: bytes) -> datetime | None:
    try:
        local = datetime.strptime(raw[:14].decode("ascii"), "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None
    # The last byte is the distance from Greenwich in quarters of an hour.
    return local - timedelta(minutes=15 * int.from_bytes(raw[16:17], "little", signed=True))


class Iso:
    """An open image; made by `open_iso`."""

    def __init__(self, image: Any, source: ExtentSource, volume: Volume, name: str) -> None:
        self._image = image
        self._source = source
        self.volume = volume
        self.name = name
        self.joliet = bool(image.has_joliet())
        if image.has_rock_ridge():
            self.names = "rock ridge"
        elif self.joliet:
            self.names = "joliet"
        else:
            self.names = "iso9660"
        self._where = self._index()

    def _index(self) -> dict[str, dict[str, str]]:
        keyword = {"rock ridge": "rr_path", "joliet": "joliet_path", "iso9660": "iso_path"}[self.names]
        found = {}
        for folder, _, files in self._image.walk(**{keyword: "/"}):
            for file in files:
                path = f"{folder.rstrip('/')}/{file}"
                shown = path
                if self.names == "iso9660":
                    shown = path.rpartition(";")[0].rstrip(".").lower() if ";" in file else path.lower()
                found[shown] = {keyword: path}
        return found

    @property
    def paths(self) -> list[str]:
        """All files, in the order of the tree; symbolic links too."""
        return list(self._where)

    def find(self, path: str) -> str | None:
        """The path as it is on the medium, found without regard to case; None when there is none."""
        if path in self._where:
            return path
        folded = path.casefold()
        return next((known for known in self._where if known.casefold() == folded), None)

    def copy_out(self, path: str, target: Path) -> None:
        """Copy a file of the image; `target` is replaced when the copy is complete.

        Raises:
            MediumError: no such file.
        """
        with self.file(path) as opened, replacing(target) as copy:
            while data := opened.read(1 << 20):
                copy.write(data)

    @contextmanager
    def file(self, path: str) -> Iterator[Any]:
        """A file of the image, to read from.

        Raises:
            MediumError: no such file.
        """
        try:
            place = self._where[path]
        except KeyError:
            raise MediumError(f"{self.name} has no {path}") from None
        with _translated(self.name), self._image.open_file_from_iso(**place) as opened:
            yield opened

    def boot_entries(self) -> list[BootEntry]:
        """The El Torito catalogue, in its order; sectors as the last `plan` placed them."""
        with _translated(self.name):
            return self._boot_entries()

    def _boot_entries(self) -> list[BootEntry]:
        catalogue = self._image.eltorito_boot_catalog
        if catalogue is None:
            return []
        pairs = [(catalogue.validation_entry.platform_id, catalogue.initial_entry)]
        pairs += [(section.platform_id, entry) for section in catalogue.sections for entry in section.section_entries]
        pairs += [(catalogue.validation_entry.platform_id, entry) for entry in catalogue.standalone_entries]
        names = {id(self._record(path).inode): path for path in self._where}
        return [
            BootEntry(
                _PLATFORMS.get(platform, str(platform)),
                entry.sector_count,
                entry.get_rba(),
                names.get(id(entry.inode)),
            )
            for platform, entry in pairs
        ]

    def short_name(self, path: str) -> str:
        """Return the plain ISO 9660 name of a new file in the root folder."""
        return _new_paths(self._image, path.removeprefix("/"))["iso_path"].removeprefix("/")

    def _record(self, path: str) -> Any:
        return self._image.get_record(**self._where[path])

    def plan(self, files: Mapping[str, bytes | Path], when: datetime, stack: ExitStack) -> IsoPlan:
        """A new image: this one with some files replaced or added. To be called once.

        Args:
            files: content by path; a path that does not exist yet has to be in the root folder.
            when: date of added files.
            stack: closes the files that the plan reads from.

        Raises:
            MediumError: this image cannot be laid out anew.
        """
        if self._image.has_udf():
            raise MediumError(f"{self.name} carries UDF beside ISO 9660, which cannot be rewritten")
        with _translated(self.name):
            deferred = [self._source]
            for path, content in files.items():
                opened: ExtentSource | io.BytesIO
                if isinstance(content, bytes):
                    opened = io.BytesIO(content)
                    length = len(content)
                else:
                    opened = ExtentSource(stack.enter_context(content.open("rb")), hide_system_area=False)
                    length = content.stat().st_size
                    deferred.append(opened)
                if path in self._where:
                    self._image.update_file_contents_fp(opened, length, **self._where[path])
                else:
                    self._add(path.removeprefix("/"), opened, length, when)
            self._image.force_consistency()
            for source in deferred:
                source.deferred = True
            recorder = Recorder()
            self._image.write_fp(recorder, blocksize=1 << 60)
            for source in deferred:
                source.deferred = False
        plan = IsoPlan(recorder.size, recorder.pieces)
        for offset, date in _modification_dates(self._image):
            plan.put(offset, date)
        plan.check()
        return plan

    def _add(self, name: str, content: Any, length: int, when: datetime) -> None:
        where = _new_paths(self._image, name)
        self._image.add_fp(content, length, **where)
        _stamp(self._image.get_record(iso_path=where["iso_path"]), when)
        if "joliet_path" in where:
            _stamp(self._image.get_record(joliet_path=where["joliet_path"]), when)


@contextmanager
def open_iso(path: Path) -> Iterator[Iso]:
    """An image, opened and parsed.

    Raises:
        MediumError: missing, unreadable, truncated, or no ISO 9660 image.
    """
    try:
        file = path.open("rb")
    except OSError as fault:
        raise MediumError(f"cannot read {path}: {fault.strerror}") from fault
    with file:
        volume = read_volume(file, str(path))
        source = ExtentSource(file, hide_system_area=True)
        image: Any = pycdlib.PyCdlib()
        with _translated(str(path)):
            image.open_fp(source)
        try:
            with _translated(str(path)):
                iso = Iso(image, source, volume, str(path))
            yield iso
        finally:
            image.close()


@contextmanager
def _translated(name: str) -> Iterator[None]:
    try:
        yield
    except (BuilderError, OSError):
        raise
    except Exception as fault:
        # On a damaged image pycdlib raises its own exceptions and whatever its parsing ends in: struct.error,
        # IndexError, AttributeError, TypeError, OverflowError, RecursionError were seen.
        raise MediumError(
            f"{name}: the file system of the image is damaged or of an unknown kind",
            details=f"{type(fault).__name__}: {fault}",
            hint="compare its sha256 with the vendor's; xorriso -indev shows what another reader makes of it",
        ) from fault


def author(label: str, files: Mapping[str, bytes], when: datetime) -> bytes:
    """A small image of its own, with Rock Ridge and Joliet, made in memory.

    Args:
        label: volume id, at most 16 characters (Joliet keeps no more).
        files: content by name; all in the root folder.
        when: the date of everything in it.

    Raises:
        ValueError: the label or a name cannot be stored.
    """
    if not 0 < len(label.encode()) <= 16:
        raise ValueError(f"volume label {label!r} is not 1 to 16 bytes long")
    image: Any = pycdlib.PyCdlib()
    image.new(
        interchange_level=3,
        vol_ident=label,
        sys_ident="LINUX",
        app_ident_str="BUILDER SEED",
        joliet=3,
        rock_ridge="1.09",
    )
    try:
        for name, content in sorted(files.items()):
            if "/" in name or not name or len(name) > 64:
                raise ValueError(f"{name!r} cannot be a file name on a small CD")
            image.add_fp(io.BytesIO(content), len(content), **_new_paths(image, name))
        image.force_consistency()
        _stamp_volume(image, when)
        written = io.BytesIO()
        image.write_fp(written)
        for offset, date in _modification_dates(image):
            written.seek(offset)
            written.write(date)
    finally:
        image.close()
    return written.getvalue()


def _new_paths(image: Any, name: str) -> dict[str, str]:
    """Return the position of a new root file in each of the image's trees."""
    taken = {child.file_identifier() for child in image.list_children(iso_path="/")}
    stem, _, extension = name.upper().partition(".")
    stem, extension = ("".join(c if c.isascii() and c.isalnum() else "_" for c in part) for part in (stem, extension))
    candidates = [f"{stem[:8]}.{extension[:3]};1"]
    candidates += [f"{stem[: 8 - len(str(n))]}{n}.{extension[:3]};1" for n in range(1, 1000)]
    where = {"iso_path": "/" + next(short for short in candidates if short.encode() not in taken)}
    if image.has_rock_ridge():
        where["rr_name"] = name
    if image.has_joliet():
        where["joliet_path"] = "/" + name
    return where


def _stamp(record: Any, when: datetime) -> None:
    """Date one directory record, and its Rock Ridge times."""
    record.date = _record_date(when)
    if record.rock_ridge is not None:
        for entries in (record.rock_ridge.dr_entries, record.rock_ridge.ce_entries):
            times = entries.tf_record if entries is not None else None
            for kind in ("creation_time", "access_time", "modification_time", "attribute_change_time"):
                if times is not None and getattr(times, kind) is not None:
                    setattr(times, kind, _record_date(when))


def _record_date(when: datetime) -> Any:
    moment = when.astimezone(UTC)
    date = dates.DirectoryRecordDate()
    date.parse(bytes([moment.year - 1900, moment.month, moment.day, moment.hour, moment.minute, moment.second, 0]))
    return date


def _modification_dates(image: Any) -> list[tuple[int, bytes]]:
    """Return the offset of each volume descriptor's modification date, and its new value.

    pycdlib writes the current time there, whatever the descriptor says.
    """
    return [
        (descriptor.extent_location() * SECTOR + 830, descriptor.volume_modification_date.record())
        for descriptor in (*image.pvds, *image.svds)
    ]


def _stamp_volume(image: Any, when: datetime) -> None:
    """Date a flat image: its descriptors, the root folders and all that is in them."""
    text = when.astimezone(UTC).strftime("%Y%m%d%H%M%S00").encode() + b"\0"
    for descriptor in (image.pvd, image.joliet_vd):
        for kind in ("volume_creation_date", "volume_modification_date", "volume_effective_date"):
            date = dates.VolumeDescriptorDate()
            date.parse(text)
            setattr(descriptor, kind, date)
        root = descriptor.root_directory_record()
        _stamp(root, when)
        for child in root.children:
            _stamp(child, when)
