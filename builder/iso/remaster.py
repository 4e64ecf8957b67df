"""Copy an install medium, adding only a kickstart and boot menus that use it.

The vendor's file is only read. The new one gets its name when it is complete and on disk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from builder.errors import MediumError
from builder.iso import boot_menu, boot_records, efi_fat
from builder.iso.boot_menu import Menu
from builder.iso.image import Iso, open_iso
from builder.iso.layout import SYSTEM_AREA
from builder.iso.media_checksum import APPLICATION_USE, APPLICATION_USE_SIZE, Implant, parse
from builder.iso.writer import burn
from builder.system.atomic_file import replacing

KICKSTART = "/ks.cfg"
ISOLINUX = "/isolinux/isolinux.cfg"
GRUB = "/EFI/BOOT/grub.cfg"
EFI_IMAGE = "/images/efiboot.img"
# The names of the root folder, long by short, for readers that know neither Rock Ridge nor Joliet (mkisofs -T).
TRANSLATIONS = "/TRANS.TBL"
# Where no date is given and the medium has none.
# Bytes of a boot menu; those of vendors have some KiB.
_MENU = 1 << 20
_NO_DATE = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class RemasterReport:
    """Result of a remaster.

    Args:
        size: bytes of the new file.
        volume_id: the vendor's, unchanged: `LABEL=` arguments and grub's search depend on it.
        md5: the implanted media checksum; None where the application use of the medium holds something else.
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
        changes = _changes(iso, kernel_args, menu, date, work) | _translations(iso, [*added])
        before = [entry.sector for entry in iso.boot_entries()]
        plan = iso.plan({**changes, **added}, date, stack)
        with source.open("rb") as file:
            area = file.read(SYSTEM_AREA)
        moved = dict(zip(before, (entry.sector for entry in iso.boot_entries()), strict=True))
        records = boot_records.rebuild(area, moved, source.stat().st_size, iso.volume.size, plan.size)
        volume_size = plan.size
        plan.put(0, records.area)
        plan.size = max(plan.size, records.size)
        if records.backup:
            plan.put(plan.size - len(records.backup), records.backup)

        implant = None
        if _may_implant(iso.volume.application_use):
            plan.put(APPLICATION_USE, b" " * APPLICATION_USE_SIZE)
            implant = Implant(volume_size)
        with replacing(output) as file:
            burn(plan, file, implant)
        return RemasterReport(
            output,
            plan.size,
            iso.volume.volume_id,
            implant.md5 if implant else None,
            (*changes, *added),
            tuple(dict.fromkeys(entry.platform for entry in iso.boot_entries())),
            any(records.area[510:512]),
        )


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


def _changes(iso: Iso, kernel_args: Sequence[str], menu: Menu, when: datetime, work: Path) -> dict[str, bytes | Path]:
    """New content for each boot configuration that the medium has."""
    changes: dict[str, bytes | Path] = {}
    for name, edit in ((ISOLINUX, boot_menu.edit_isolinux), (GRUB, boot_menu.edit_grub)):
        if (path := iso.find(name)) is not None:
            text = _read_text(iso, path)
            boot_menu.require_label(text, iso.volume.volume_id, f"{path} on {iso.name}")
            changes[path] = _text(edit(text, kernel_args, menu))
    if (path := iso.find(EFI_IMAGE)) is not None:
        image = work / "efiboot.img"
        iso.copy_out(path, image)
        inside = efi_fat.read(image, GRUB)
        if inside is not None:
            text = inside.decode("utf-8", "surrogateescape")
            boot_menu.require_label(text, iso.volume.volume_id, f"{GRUB} in {path} on {iso.name}")
            edited = boot_menu.edit_grub(text, kernel_args, menu)
            efi_fat.replace(image, GRUB, _text(edited), when)
            changes[path] = image
    if not changes:
        raise MediumError(
            f"{iso.name} has no boot menu that could be edited",
            details=f"looked for {ISOLINUX}, {GRUB} and the same inside {EFI_IMAGE}",
            hint="give an install ISO of CentOS 7 or of its kin",
        )
    return changes


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
