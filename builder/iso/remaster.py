"""Copy an install medium, adding only a kickstart and boot menus that use it.

The vendor's file is only read. The new one gets its name when it is complete and on disk.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from builder.errors import MediumError
from builder.iso import boot_menu, boot_records, efi_fat, xorriso
from builder.iso.boot_menu import Menu
from builder.iso.boot_records import BLOCKS_PER_SECTOR
from builder.iso.image import BootEntry, Iso, open_iso
from builder.iso.layout import SECTOR, SYSTEM_AREA, ForeignLayoutError, IsoPlan, RewriteError
from builder.iso.media_checksum import APPLICATION_USE, APPLICATION_USE_SIZE, Implant, implant, parse
from builder.iso.writer import burn, require_room
from builder.system.atomic_file import replacing

KICKSTART = "/ks.cfg"
ISOLINUX = "/isolinux/isolinux.cfg"
GRUB = "/EFI/BOOT/grub.cfg"
# Of EL10 and Fedora, which have no isolinux.
GRUB_BIOS = "/boot/grub2/grub.cfg"
EFI_IMAGE = "/images/efiboot.img"
# The names of the root folder, long by short, for readers that know neither Rock Ridge nor Joliet (mkisofs -T).
TRANSLATIONS = "/TRANS.TBL"
# How a report names the menu in a partition behind the tree.
APPENDED = f"{GRUB} of the EFI system partition"
# Bytes of a boot menu; those of vendors have some KiB.
_MENU = 1 << 20
# Where no date is given and the medium has none.
_NO_DATE = datetime(2000, 1, 1, tzinfo=UTC)
_BLANK = b" " * APPLICATION_USE_SIZE


@dataclass(frozen=True)
class RemasterReport:
    """Result of a remaster.

    Args:
        size: bytes of the new file.
        volume_id: the vendor's, unchanged: `LABEL=` arguments and grub's search depend on it.
        md5: the implanted media checksum; None where none was wanted, or the application use of the medium holds
            something else.
        changed: paths whose content is new.
        boots: platforms in the El Torito catalogue (`bios`, `uefi`).
        hybrid: it also boots from a disk or stick.
    """

    output: Path
    size: int
    volume_id: str
    md5: str | None
    changed: tuple[str, ...]
    boots: tuple[str, ...]
    hybrid: bool

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self) | {"output": str(self.output)}


def remaster(
    source: Path,
    output: Path,
    *,
    kickstart: bytes,
    kernel_args: Sequence[str],
    beside: Mapping[str, bytes] | None = None,
    menu: Menu = "unattended",
    when: datetime | None = None,
    checksum: bool = True,
) -> RemasterReport:
    """Write a copy of an install medium that installs by the given kickstart.

    Args:
        source: the vendor's ISO.
        output: the new ISO; replaced only when the new one is complete.
        kickstart: becomes /ks.cfg.
        beside: files for the root folder, by name.
        kernel_args: words for the kernel's command line, such as `inst.ks=hd:LABEL=…:/ks.cfg`; a space inside a
            label is spelled `\\x20`.
        menu: `unattended` boots straight into the kickstart; `safe` boots from the local disk unless it is chosen.
        when: date of what is new; by default the medium's own. Same arguments, same bytes.
        checksum: implant one; without it the new medium has none, for the vendor's would not hold.

    Raises:
        MediumError: no install medium, a damaged one, one that cannot be rewritten, or one whose menus look for a
            medium of another name.
        HostError: no space, or mtools or dosfstools is missing.
    """
    with ExitStack() as stack:
        iso = stack.enter_context(open_iso(source))
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="builder-remaster-")))
        date = when or iso.volume.written or _NO_DATE
        added = _added(iso, beside or {}) | {KICKSTART: kickstart}
        edit = _Edit(iso, kernel_args, menu, date, work)
        entries = iso.boot_entries()
        changes = _changes(edit)
        appended = _appended(edit, source, entries)
        files = {**changes, **_translations(iso, [*added]), **added}
        with replacing(output) as file:
            planned = None if appended else _planned(iso, source, files, date, stack, checksum=checksum)
            if planned is not None:
                implanted = planned.implant
                burn(planned.plan, file, implanted)
            else:
                images = {at: content for at, entry in enumerate(entries) if (content := files.get(entry.path or ""))}
                loose = {path: files[path] for path in files if path not in {entry.path for entry in entries}}
                implanted = _replayed(edit, source, loose, images | appended, file, checksum=checksum)
            size, signature = os.fstat(file.fileno()).st_size, os.pread(file.fileno(), 2, 510)
        return RemasterReport(
            output,
            size,
            iso.volume.volume_id,
            implanted.md5 if implanted else None,
            (*files, *([APPENDED] if appended else [])),
            tuple(dict.fromkeys(entry.platform for entry in entries)),
            any(signature),
        )


@dataclass(frozen=True)
class _Planned:
    """The new image as builder's own writer wants it; `implant` is None where no sum is wanted or there is no room."""

    plan: IsoPlan
    implant: Implant | None


def _planned(
    iso: Iso, source: Path, files: Mapping[str, bytes | Path], when: datetime, stack: ExitStack, *, checksum: bool
) -> _Planned | None:
    """Plan the new image for builder's own writer; None where it does not know the layout."""
    before = [entry.sector for entry in iso.boot_entries()]
    with source.open("rb") as file:
        area = file.read(SYSTEM_AREA)
        if not boot_records.has_known_tables(file, before):
            return None
    plan = iso.plan(files, when, stack)
    moved = dict(zip(before, (entry.sector for entry in iso.boot_entries()), strict=True))
    try:
        records = boot_records.rebuild(area, moved, source.stat().st_size, iso.volume.size, plan.size)
    except ForeignLayoutError:
        return None
    volume_size = plan.size
    plan.put(0, records.area)
    plan.size = max(plan.size, records.size)
    if records.backup:
        plan.put(plan.size - len(records.backup), records.backup)
    if not _may_implant(iso.volume.application_use):
        return _Planned(plan, None)
    plan.put(APPLICATION_USE, _BLANK)
    return _Planned(plan, Implant(volume_size) if checksum else None)


def _replayed(
    edit: _Edit,
    source: Path,
    files: Mapping[str, bytes | Path],
    images: Mapping[int, bytes | Path],
    output: BinaryIO,
    *,
    checksum: bool,
) -> Implant | None:
    """Write the new image with xorriso; return what was implanted.

    Args:
        images: new content, as long as the old, of boot images, by their place in the El Torito catalogue. They are
            changed in place: xorriso 1.5.4 makes a new file beside the one that boots, unless it is the last of them.

    Raises:
        RewriteError: xorriso cannot, or its result does not boot as the medium does.
        HostError: no space, or xorriso is missing.
    """
    iso, new = edit.iso, Path(output.name)
    blank = _may_implant(iso.volume.application_use)
    use = _on_disk(_BLANK if blank else iso.volume.application_use, edit.work / "application-use", edit.when)
    numbered = enumerate(files.items())
    on_disk = {path: _on_disk(content, edit.work / f"file-{at}", edit.when) for at, (path, content) in numbered}
    size = source.stat().st_size + sum(file.stat().st_size for file in on_disk.values())
    require_room(output, size)
    try:
        xorriso.rewrite(source, new, on_disk, application_use=use, joliet=iso.joliet, when=edit.when)
    except RewriteError:
        # Somebody else may have filled the disk meanwhile.
        require_room(output, size - os.fstat(output.fileno()).st_size)
        raise
    with open_iso(new) as written, open_iso(source) as given:
        entries = written.boot_entries()
        were, are = _boots(source, given.boot_entries()), _boots(new, entries)
        if were != are:
            raise RewriteError(f"xorriso has not carried the boot records of {source} over", f"{were}\n{are}")
    for at, content in images.items():
        data = content if isinstance(content, bytes) else content.read_bytes()
        os.pwrite(output.fileno(), data, entries[at].sector * SECTOR)
    return implant(output) if blank and checksum else None


def _boots(medium: Path, entries: Sequence[BootEntry]) -> tuple[object, ...]:
    """The boot records of a medium, apart from their addresses."""
    records = boot_records.read(medium)
    images = [(entry.platform, entry.load_sectors, entry.path) for entry in entries]
    return records.mbr, records.isohybrid, records.gpt, images


def _on_disk(content: bytes | Path, file: Path, when: datetime) -> Path:
    """A file of the new medium with mode and date."""
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file = content
    file.chmod(0o444)
    os.utime(file, (when.timestamp(), when.timestamp()))
    return file


def _added(iso: Iso, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """New files of the root folder by path; the vendor's own are not replaced."""
    added = {f"/{name}": content for name, content in files.items()}
    if taken := [path for path in added if path in iso.paths]:
        raise MediumError(
            f"{iso.name} has a file {taken[0]} of its own", hint="give the file of the recipe another name"
        )
    return added


def _may_implant(application_use: bytes) -> bool:
    """Blank, or it holds an implanted sum: not if somebody keeps something else there."""
    return not application_use.strip(b" \0") or parse(application_use) is not None


@dataclass(frozen=True)
class _Edit:
    """The change made to each menu.

    Args:
        when: date of changed files in FAT images.
        work: a folder for copies.
    """

    iso: Iso
    kernel_args: Sequence[str]
    menu: Menu
    when: datetime
    work: Path

    def text(self, text: str, name: str) -> bytes:
        """Return the edited menu; `name` is its path, with the image that it is in."""
        boot_menu.require_label(text, self.iso.volume.volume_id, f"{name} on {self.iso.name}")
        change = boot_menu.edit_isolinux if name.casefold().endswith(ISOLINUX) else boot_menu.edit_grub
        return _text(change(text, self.kernel_args, self.menu))

    def fat_image(self, image: Path, name: str) -> bool:
        """Edit the menu inside a FAT image; False if there is none."""
        inside = efi_fat.read(image, GRUB)
        if inside is None:
            return False
        edited = self.text(inside.decode("utf-8", "surrogateescape"), f"{GRUB} in {name}")
        efi_fat.replace(image, GRUB, edited, self.when)
        return True


def _changes(edit: _Edit) -> dict[str, bytes | Path]:
    """New content for each boot configuration in the tree of the medium."""
    changes: dict[str, bytes | Path] = {}
    iso = edit.iso
    for name in (ISOLINUX, GRUB, GRUB_BIOS):
        if (path := iso.find(name)) is not None:
            changes[path] = edit.text(_read_text(iso, path), path)
    if (path := iso.find(EFI_IMAGE)) is not None:
        image = edit.work / "efiboot.img"
        iso.copy_out(path, image)
        if edit.fat_image(image, path):
            changes[path] = image
    if not changes:
        raise MediumError(
            f"{iso.name} has no boot menu that could be edited",
            details=f"looked for {ISOLINUX}, {GRUB}, {GRUB_BIOS} and the same inside {EFI_IMAGE}",
            hint="give an install ISO of Enterprise Linux or Fedora",
        )
    return changes


def _appended(edit: _Edit, source: Path, entries: Sequence[BootEntry]) -> dict[int, Path]:
    """The EFI system partition behind the tree with its menu edited, where UEFI boots from one (EL10, Fedora).

    Returns:
        Its new content by its place in the El Torito catalogue.

    Raises:
        RewriteError: UEFI could boot from something that was not edited.
    """
    images = {entry.sector: at for at, entry in enumerate(entries) if entry.platform == "uefi"}
    unknown = [first for first in boot_records.efi_partitions(source) if first / BLOCKS_PER_SECTOR not in images]
    hidden = [sector for sector, at in images.items() if entries[at].path is None]
    partitions = [boot_records.partition_at(source, sector) for sector in hidden]
    if unknown or len(hidden) > 1 or None in partitions:
        raise RewriteError(
            "the install medium has an EFI system partition of an unknown kind",
            details=f"{source}: boot images at sectors {sorted(images)}, partitions at blocks {unknown}",
        )
    changed = {}
    for sector, partition in zip(hidden, partitions, strict=True):
        assert partition is not None
        image = edit.work / "partition.img"
        boot_records.copy_out(source, partition, image)
        if not edit.fat_image(image, f"partition {partition.number}"):
            raise RewriteError(f"partition {partition.number} of the install medium has no {GRUB}", details=str(source))
        changed[images[sector]] = image
    return changed


def _translations(iso: Iso, added: Sequence[str]) -> dict[str, bytes | Path]:
    """The table of names with the new files in it, where there is one."""
    path = iso.find(TRANSLATIONS)
    added = [name for name in added if name not in iso.paths]
    if path is None or not added:
        return {}
    lines = _read_text(iso, path).splitlines()
    width = max((line.find("\t") for line in lines), default=0)
    for name in added:
        new = f"F {iso.short_name(name)}".ljust(width) + f"\t{name.removeprefix('/')}"
        place = next((number for number, line in enumerate(lines) if line[2:] > new[2:]), len(lines))
        lines.insert(place, new)
    return {path: _text("\n".join(lines) + "\n")}


def _read_text(iso: Iso, path: str) -> str:
    with iso.file(path) as opened:
        data: bytes = opened.read(_MENU + 1)
    if len(data) > _MENU:
        raise MediumError(f"{iso.name}: {path} is larger than {_MENU >> 20} MiB")
    return data.decode("utf-8", "surrogateescape")


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
