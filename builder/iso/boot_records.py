"""Read and rebuild the boot records of a hybrid image (MBR and both copies of its GPT), with right checksums.

A hybrid image boots from CD through El Torito, and from a disk or stick through an MBR (and GPT) in the 16 sectors
that ISO 9660 leaves alone. They hold addresses, in units of 512 bytes, of what is inside the image: when files move,
these records move with them.

Sources of the facts: UEFI specification 2.10, chapter 5 (GPT); syslinux, utils/isohybrid.c (address of isolinux.bin
at byte 432, CHS geometry, padding to a cylinder).
"""

from __future__ import annotations

import os
import struct
import uuid
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from builder.iso.layout import SECTOR, SYSTEM_AREA, ForeignLayoutError

BLOCK = 512
BLOCKS_PER_SECTOR = SECTOR // BLOCK
_ISOLINUX_ADDRESS = 432
_PARTITIONS = 446
_GPT = struct.Struct("<8sIIIIQQQQ16sQIII")
_ENTRY = struct.Struct("<16s16sQQQ72s")
_BACKUP_BLOCKS = 33
EFI_SYSTEM = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")


@dataclass(frozen=True)
class Partition:
    """A partition of a GPT: its number from 1 on, its type, its first and last block."""

    number: int
    kind: uuid.UUID
    first: int
    last: int


@dataclass(frozen=True)
class Gpt:
    """One copy of a GUID partition table.

    Attributes:
        valid: both checksums hold.
        at, other: block of this header and of the other copy's.
        entries_at: block of the array.
        last: last block of the usable area.
        array: the raw partition entries; empty where they would be outside of the image.
    """

    valid: bool
    at: int
    other: int
    first: int
    last: int
    disk: bytes
    entries_at: int
    count: int
    array: bytes

    @property
    def partitions(self) -> list[Partition]:
        """Partitions in use."""
        entries = enumerate(_ENTRY.iter_unpack(self.array), start=1)
        return [
            Partition(number, uuid.UUID(bytes_le=entry[0]), entry[2], entry[3])
            for number, entry in entries
            if any(entry[0])
        ]

    def header(self) -> bytes:
        """The 512 bytes of the header, with both checksums."""
        fields = [b"EFI PART", 0x10000, _GPT.size, 0, 0, self.at, self.other, self.first, self.last, self.disk]
        fields += [self.entries_at, self.count, _ENTRY.size, zlib.crc32(self.array)]
        fields[3] = zlib.crc32(_GPT.pack(*fields))
        return _GPT.pack(*fields).ljust(BLOCK, b"\0")


@dataclass(frozen=True)
class BootRecords:
    """Boot records by which an image boots from a disk.

    Attributes:
        mbr: there is a boot sector with at least one partition.
        isohybrid: and it starts isolinux.
        primary, backup: the two copies of the GPT; None where there is none.
    """

    mbr: bool
    isohybrid: bool
    primary: Gpt | None
    backup: Gpt | None

    @property
    def gpt(self) -> bool | None:
        """Both copies of the GPT are there with right checksums; None where there is none."""
        if self.primary is None:
            return None
        return self.primary.valid and self.backup is not None and self.backup.valid


def read(path: Path) -> BootRecords:
    """The boot records of an image; never fails on unknown ones."""
    with path.open("rb") as file:
        area = file.read(SYSTEM_AREA)
        size = os.fstat(file.fileno()).st_size
        primary = _gpt(file, 1, size)
        backup = None
        if primary is not None and primary.other * BLOCK < size:
            backup = _gpt(file, primary.other, size)
    mbr = area[510:512] == b"\x55\xaa" and any(area[_PARTITIONS:510])
    return BootRecords(mbr, mbr and any(area[_ISOLINUX_ADDRESS : _ISOLINUX_ADDRESS + 4]), primary, backup)


def _gpt(file: BinaryIO, block: int, file_size: int) -> Gpt | None:
    file.seek(block * BLOCK)
    raw = file.read(BLOCK)
    if len(raw) < BLOCK or raw[:8] != b"EFI PART":
        return None
    fields = list(_GPT.unpack_from(raw))
    size, header_sum = fields[2], fields[3]
    at, other, first, last, disk, entries_at, count, entry_size, array_sum = fields[5:]
    if entry_size != _ENTRY.size or count > 4096 or not _GPT.size <= size <= BLOCK:
        return None
    array = b""
    if entries_at * BLOCK + count * entry_size <= file_size:
        file.seek(entries_at * BLOCK)
        array = file.read(count * entry_size)
    blanked = raw[:16] + bytes(4) + raw[20:size]
    whole = len(array) == count * entry_size
    valid = zlib.crc32(blanked) == header_sum and whole and zlib.crc32(array) == array_sum and at == block
    return Gpt(valid, at, other, first, last, disk, entries_at, count, array)


@dataclass(frozen=True)
class Rebuilt:
    """Boot records for a new image.

    Attributes:
        area: the new first 16 sectors.
        size: bytes of the whole file, with padding to a full cylinder.
        backup: the second GPT copy, for the very end of the file; empty where there is none.
    """

    area: bytes
    size: int
    backup: bytes


def rebuild(area: bytes, moved: Mapping[int, int], old_size: int, old_volume: int, new_volume: int) -> Rebuilt:
    """The boot records of an image whose boot files have moved.

    Args:
        area: the old first 16 sectors.
        moved: new sector by old sector, for each image in the El Torito catalogue.
        old_size: bytes of the old file.
        old_volume: bytes of the old ISO 9660 volume, without what follows it.
        new_volume: bytes of the new one.

    Raises:
        ForeignLayoutError: the records point at something that is no boot file of the catalogue.
    """
    if area[510:512] != b"\x55\xaa" or not any(area[_PARTITIONS:510]):
        return Rebuilt(area, new_volume, b"")
    if area[SECTOR : SECTOR + 2] == b"PM":
        raise _refused("it has an Apple partition map")
    gpt = area[BLOCK : BLOCK + 8] == b"EFI PART"
    cylinder = _cylinder(area)
    size = -(-new_volume // cylinder) * cylinder if old_size % cylinder == 0 else new_volume
    if gpt and size - new_volume < _BACKUP_BLOCKS * BLOCK:
        size += cylinder
    here = _Moves(moved, old_volume // BLOCK, size // BLOCK, new_volume // BLOCK)
    new = bytearray(area)
    address = int.from_bytes(area[_ISOLINUX_ADDRESS : _ISOLINUX_ADDRESS + 4], "little")
    if address % BLOCKS_PER_SECTOR == 0 and address // BLOCKS_PER_SECTOR in moved:
        new_address = moved[address // BLOCKS_PER_SECTOR] * BLOCKS_PER_SECTOR
        new[_ISOLINUX_ADDRESS : _ISOLINUX_ADDRESS + 4] = new_address.to_bytes(4, "little")
    for at in range(_PARTITIONS, 510, 16):
        new[at : at + 16] = _mbr_entry(area[at : at + 16], here)
    backup = b""
    if gpt:
        primary, backup = _both_copies(area, here)
        new[BLOCK : BLOCK * 2] = primary.header()
        new[primary.entries_at * BLOCK : primary.entries_at * BLOCK + len(primary.array)] = primary.array
    return Rebuilt(bytes(new), size, backup)


def has_known_tables(image: BinaryIO, sectors: Iterable[int]) -> bool:
    """Look whether the boot information table of each boot image, if it has one, is of the kind that pycdlib rewrites.

    The table (mkisofs(8), "EL TORITO BOOT INFORMATION TABLE"), at byte 8, names the sectors of a volume descriptor and
    of the image itself. In an ISO that xorriso made of another, the descriptor it names is the one of xorriso's second
    session, at 48 or 64: pycdlib 1.22 takes that for no table at all, and isolinux would load itself from where it was.
    """
    pairs = ((sector, struct.unpack("<II", os.pread(image.fileno(), 8, sector * SECTOR + 8))) for sector in sectors)
    return not any(own == sector and descriptor != SYSTEM_AREA // SECTOR for sector, (descriptor, own) in pairs)


def efi_partitions(image: Path) -> list[int]:
    """First blocks of the EFI system partitions in the MBR and the GPT of an image."""
    with image.open("rb") as file:
        mbr = file.read(BLOCK)
    starts = [struct.unpack_from("<I", mbr, at + 8)[0] for at in range(_PARTITIONS, 510, 16) if mbr[at + 4] == 0xEF]
    gpt = read(image).primary
    return starts + [each.first for each in gpt.partitions if each.kind == EFI_SYSTEM] if gpt else starts


def partition_at(image: Path, sector: int) -> Partition | None:
    """Find the partition of the GPT that begins at a sector of 2048 bytes."""
    gpt = read(image).primary
    begins = sector * BLOCKS_PER_SECTOR
    return next((each for each in gpt.partitions if each.first == begins), None) if gpt else None


def copy_out(image: Path, partition: Partition, target: Path) -> None:
    """Copy a partition's bytes into a file."""
    with image.open("rb") as file:
        size = (partition.last - partition.first + 1) * BLOCK
        target.write_bytes(os.pread(file.fileno(), size, partition.first * BLOCK))


def _refused(why: str) -> ForeignLayoutError:
    return ForeignLayoutError(f"the boot records of the install medium cannot be rewritten: {why}")


@dataclass(frozen=True)
class _Moves:
    """Old and new positions; all sizes in blocks."""

    moved: Mapping[int, int]
    old_volume: int
    new_size: int
    new_volume: int

    def place(self, start: int, length: int, what: str) -> tuple[int, int]:
        """New start and length of a partition."""
        if start % BLOCKS_PER_SECTOR == 0 and start // BLOCKS_PER_SECTOR in self.moved:
            return self.moved[start // BLOCKS_PER_SECTOR] * BLOCKS_PER_SECTOR, length
        if start == 0 and length == self.old_volume:
            return start, self.new_volume
        if start == 0 and length > self.old_volume:
            # All of it, with the padding to a full cylinder.
            return start, self.new_size
        raise _refused(f"{what} (block {start}, {length} long) is neither the image nor one of its boot files")


def _geometry(area: bytes) -> tuple[int, int]:
    """Heads and sectors of the first partition's last cylinder, as isohybrid wrote them."""
    for at in range(_PARTITIONS, 510, 16):
        heads, sectors = area[at + 5] + 1, area[at + 6] & 63
        # 0xfe 0xff 0xff: "beyond what CHS can say", no geometry.
        if any(area[at : at + 16]) and sectors and area[at + 5 : at + 8] != b"\xfe\xff\xff":
            return heads, sectors
    return 64, 32


def _cylinder(area: bytes) -> int:
    heads, sectors = _geometry(area)
    return heads * sectors * BLOCK


def _mbr_entry(entry: bytes, here: _Moves) -> bytes:
    start, length = struct.unpack_from("<II", entry, 8)
    if not length:
        return entry
    if entry[4] == 0xEE:
        # The protective partition: everything behind the MBR.
        protected: bytes = entry[:12] + min(here.new_size - start, 0xFFFFFFFF).to_bytes(4, "little")
        return protected
    new_start, new_length = here.place(start, length, "an MBR partition")
    chs = entry[5:8]
    sectors = chs[1] & 63
    if new_length != length and sectors and chs != b"\xfe\xff\xff":
        last = min((new_start + new_length) // ((chs[0] + 1) * sectors), 1024) - 1
        chs = bytes([chs[0], sectors | (last & 0x300) >> 2, last & 0xFF])
    return entry[:5] + chs + struct.pack("<II", new_start, new_length)


def _both_copies(area: bytes, here: _Moves) -> tuple[Gpt, bytes]:
    fields = _GPT.unpack_from(area, BLOCK)
    entries_at, count, entry_size = fields[10], fields[11], fields[12]
    end = entries_at * BLOCK + count * entry_size
    if entry_size != _ENTRY.size or entries_at < 2 or end > SYSTEM_AREA:
        raise _refused("its GPT does not fit the system area")
    array = bytearray(area[entries_at * BLOCK : end])
    for at in range(0, len(array), entry_size):
        entry = list(_ENTRY.unpack_from(array, at))
        if any(entry[0]):
            start, length = here.place(entry[2], entry[3] - entry[2] + 1, "a GPT partition")
            entry[2], entry[3] = start, start + length - 1
            _ENTRY.pack_into(array, at, *entry)
    last = here.new_size - 1
    usable = last - _BACKUP_BLOCKS
    primary = Gpt(True, 1, last, fields[7], usable, fields[9], entries_at, count, bytes(array))
    second = replace(primary, at=last, other=1, entries_at=last - len(array) // BLOCK)
    return primary, second.array + second.header()
