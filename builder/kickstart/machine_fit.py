"""What a kickstart asks of the machine alone: names of disks, sizes, memory. Needs no medium, so it is said at once.

Invariant: no other module judges whether the machine has a disk.

Source of the facts: Anaconda 21.48.22.159 (pyanaconda/kickstart.py: `ignoredisk`, `clearpart`, `part` and `bootloader`
end the install for a disk that is not there).
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator

from builder.kickstart import parse, preflight
from builder.kickstart.parse import Kickstart
from builder.kickstart.preflight import Mismatch, Room

# The machine's one disk, whether it is on SCSI, SATA or IDE.
DISK = "sda"
_OPTIONS = {
    "ignoredisk": ("only-use", "drives"),
    "clearpart": ("drives", "list"),
    "part": ("ondisk", "ondrive"),
    "bootloader": ("boot-drive",),
}
# Names that the kernel gives; others, such as disk/by-path/…, are not judged.
_KERNEL = re.compile(r"(?:[shv]d|xvd|nvme|mmcblk).*")
_BY_ID = "disk/by-id/"


def require(kickstart: str, room: Room, serial: str) -> None:
    """Compare a rendered kickstart with the machine.

    Args:
        serial: of the machine's one disk.

    Raises:
        RecipeError: naming every fault, with the kickstart's lines.
    """
    given = parse.read(kickstart)
    faults = [*disks(given, serial), *preflight.machine(given, room)]
    preflight.refuse(faults, "the kickstart does not fit the machine")


def disks(given: Kickstart, serial: str) -> Iterator[Mismatch]:
    """Yield the names of disks that the machine does not have."""
    for command in given.commands:
        for option in _OPTIONS.get(command.name, ()):
            for word in filter(None, map(str.strip, (command.option(option) or "").split(","))):
                if _may_exist(word, serial, others=option != "list"):
                    continue
                asked = f"`{command.name} --{option}`: the machine"
                if option == "list":
                    text = f"{asked}'s one disk is new, it has no {word}; write `clearpart --all`"
                else:
                    text = f"{asked} has no disk {word}; its one disk is {DISK}, or {_BY_ID}*{serial}"
                yield Mismatch(text, line=command.line)


def _may_exist(word: str, serial: str, *, others: bool) -> bool:
    """Return whether a name, a pattern, or one of several names with `|` between them may be the machine's disk.

    Args:
        others: what is no name of the kernel's and none by-id may be there, too.
    """
    # As udev's rules for SCSI and ATA disks put them together.
    known = [DISK, f"{_BY_ID}scsi-0QEMU_QEMU_HARDDISK_{serial}", f"{_BY_ID}ata-QEMU_HARDDISK_{serial}"]
    for name in (re.sub(r"^/?dev/", "", one) for one in word.split("|")):
        judged = not others or name.startswith(_BY_ID) or _KERNEL.fullmatch(name)
        if not judged or "$" in name or name.endswith(serial) or any(fnmatch.fnmatch(disk, name) for disk in known):
            return True
    return False
