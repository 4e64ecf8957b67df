"""Compare kickstart, medium and machine before the machine starts.

Each mismatch would make the installer stop minutes later, at a question or in its emergency shell.

What each release takes at least is in `builder.releases`. Sources of the other facts: Anaconda 21.48.22.159
(packaging/yumpayload.py: how package and group names are looked up; storage/checking: 200 MiB more memory without swap)
and its branches rhel-8 to rhel-10 (modules/storage/checker/utils.py: the same 520 MiB).
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.errors import Cause, MediumError, RecipeError, Source
from builder.iso import inspect
from builder.iso.inspect import MediumFacts
from builder.iso.repodata import Contents
from builder.kickstart import parse
from builder.kickstart.parse import Command, Kickstart, Wanted
from builder.releases import DEFAULT, RELEASES, Release, of_version

MIB = 1 << 20
LEAST_MEMORY_WITHOUT_SWAP = 520
# The first partition starts at 1 MiB; a GPT takes the last 33 blocks.
LABEL_ROOM = 2
NO_PACKAGES = "a network-install medium, no packages"
_SOURCES = ("cdrom", "url", "nfs", "harddrive", "liveimg", "ostreesetup")


@dataclass(frozen=True)
class Room:
    """The machine that is installed to, and the release that it is to get; sizes in bytes.

    Args:
        networked: the install may use a network.
        rehearsal: the medium is a rehearsal, whose installer takes packages from nowhere else.
    """

    memory: int
    disk: int
    firmware: str
    networked: bool = False
    release: Release = RELEASES[DEFAULT]
    rehearsal: bool = False


@dataclass(frozen=True)
class Mismatch:
    """One thing that kickstart, medium and machine ask of each other in vain.

    Args:
        message: without the line's number.
        line: of the kickstart; None where it is on no single line.
    """

    message: str
    cause: Cause | None = None
    line: int | None = None

    @property
    def text(self) -> str:
        """Return it as a line for people."""
        return f"line {self.line}: {self.message}" if self.line else self.message


def require_release(medium: MediumFacts, release: Release) -> None:
    """Compare the version in the medium's `.treeinfo` with the release that the recipe names.

    Raises:
        MediumError: it is another one; a medium without `.treeinfo` says nothing, and passes.
    """
    if not medium.version or re.fullmatch(release.versions, medium.version):
        return
    named = medium.product or medium.family or medium.volume_id
    title = named if medium.version in named else f"{named} {medium.version}"
    other = of_version(medium.version)
    fix = f"write `release: {other.name}` into the recipe, or take" if other else "take"
    raise MediumError(
        f"the medium is {title}, the recipe says release: {release.name}",
        f"version {medium.version} in .treeinfo of {medium.volume_id}\n{release.name} is {release.title}",
        f"{fix} a medium of {release.title}",
        cause=Cause.WRONG_MEDIUM,
    )


def require(kickstart: str, vendor: Path, room: Room) -> None:
    """Compare all that can be compared without starting anything.

    Args:
        kickstart: rendered.
        vendor: the install medium; its repodata is read, its contents are not.

    Raises:
        RecipeError: naming every fault that the recipe or its template can mend, with the kickstart's lines.
        MediumError: the medium's repodata is damaged, or it has none and the kickstart wants packages of it.
    """
    given = parse.read(kickstart)
    contents = inspect.contents(vendor)
    if contents is None:
        require_packages(given, vendor)
    refuse(check(given, contents, room), "the kickstart does not fit medium and machine")


def refuse(faults: Sequence[Mismatch], brief: str) -> None:
    """Raise what does not fit, if anything does not.

    Args:
        brief: says it where there are several faults; a single one speaks for itself.

    Raises:
        RecipeError: naming every fault, with the kickstart's lines.
    """
    if faults:
        raise RecipeError(
            brief if len(faults) > 1 else faults[0].text,
            "\n".join(fault.text for fault in faults) if len(faults) > 1 else "",
            "`builder kickstart render` shows the lines; `builder kickstart adapt` those of a kickstart of your own",
            cause=next((fault.cause for fault in faults if fault.cause), None),
            source=Source.KICKSTART,
        )


def require_packages(given: Kickstart, vendor: Path) -> None:
    """Refuse a medium without packages where the kickstart takes packages from it.

    Raises:
        MediumError: the installer would find no package source.
    """
    if given.wanted and given.complete and given.all("cdrom"):
        raise MediumError(
            f"{inspect.volume_id(vendor)} is {NO_PACKAGES}",
            f"there is no repodata on it, neither in its root nor where .treeinfo says; asked for: "
            f"{', '.join(wanted.name for wanted in given.wanted[:8])}",
            "take the vendor's DVD or minimal ISO",
            cause=Cause.WRONG_MEDIUM,
        )


def check(given: Kickstart, medium: Contents | None, room: Room) -> list[Mismatch]:
    """List everything that does not fit.

    Args:
        medium: what its repodata lists; None where it has none.
    """
    remote = [] if room.networked else sources(given)
    # What other repositories have is not known here.
    elsewhere = room.networked and not room.rehearsal and given.all("repo", "url", "nfs")
    listed = [] if elsewhere else packages(given, medium)
    return [*remote, *listed, *_memory(given, room), *_disk(given, room)]


def machine(given: Kickstart, room: Room) -> list[Mismatch]:
    """List what does not fit the machine, whatever the medium is."""
    return [*_memory(given, room), *_disk(given, room)]


def sources(given: Kickstart) -> Iterator[Mismatch]:
    """Yield what would be fetched over a network, which the install does not have."""
    chosen = given.all(*_SOURCES)
    if given.complete and not any(command.name == "cdrom" for command in chosen):
        others = ", ".join(f"`{command.name}` in line {command.line}" for command in chosen)
        instead = f" instead of {others}" if others else ": without it the installer looks for a mirror"
        yield Mismatch(f"the packages come from the medium: the kickstart has to say `cdrom`{instead}")
    for command in given.commands:
        remote = next((word for word in command.words if re.search(r"(^|=)(https?|ftp|nfs)://", word)), None)
        if command.name == "nfs" or (remote and command.name in (*_SOURCES, "repo", "updates", "%include")):
            text = f"`{command.name}` needs a network, and there is none while installing"
            yield Mismatch(text, line=command.line)


def packages(given: Kickstart, medium: Contents | None) -> Iterator[Mismatch]:
    """Yield the packages and groups that are asked for and not on the medium; none where it lists nothing."""
    if medium is None or given.ignore_missing:
        return
    for wanted in given.wanted:
        known = medium.packages if wanted.kind == "package" else medium.groups
        if _there(wanted, medium):
            continue
        near = difflib.get_close_matches(wanted.name, known, n=1)
        text = f"{wanted.kind} {wanted.name} is not on the medium"
        cause = Cause.MISSING_PACKAGE if wanted.kind == "package" else Cause.MISSING_GROUP
        yield Mismatch(f"{text}; did you mean {near[0]}?" if near else text, cause, wanted.line)


def _there(wanted: Wanted, medium: Contents) -> bool:
    names: Collection[str] = medium.answers_to if wanted.kind == "package" else medium.group_names
    if wanted.kind != "package" and wanted.name.casefold() in {name.casefold() for name in names}:
        # yum does not tell @Core from @core.
        return True
    return wanted.name in names or bool(re.search(r"[*?\[]", wanted.name) and fnmatch.filter(names, wanted.name))


def _memory(given: Kickstart, room: Room) -> Iterator[Mismatch]:
    swap = bool(given.all("autopart")) or any("swap" in part.words[:1] for part in given.all("part", "logvol"))
    least = room.release.memory
    if not swap and given.complete:
        least = max(least, LEAST_MEMORY_WITHOUT_SWAP)
    if room.memory < least * MIB:
        why = "" if least == room.release.memory else " where there is no swap"
        title = room.release.title
        text = f"machine.memory is {room.memory // MIB} MiB: the installer of {title} wants {least} MiB at least{why}"
        yield Mismatch(text, Cause.LOW_MEMORY)


def _disk(given: Kickstart, room: Room) -> Iterator[Mismatch]:
    parts = given.all("part")
    automatic = given.all("autopart", "reqpart")
    esp = any(part.words[:1] == ("/boot/efi",) for part in parts)
    if room.firmware == "uefi" and given.complete and not automatic and not esp:
        yield Mismatch("machine.firmware is uefi: the kickstart has to make /boot/efi (`reqpart` does it)")
    # Partitions on other disks (--ondisk) do not exist here: the machine has this one disk.
    sizes = [(part, _grown(part, given)) for part in parts]
    extra = room.release.efi_partition if room.firmware == "uefi" and automatic and not esp else 0
    total = sum(size for _, size in sizes) + extra + LABEL_ROOM
    if total > room.disk // MIB:
        named = [f"{part.words[0]} {size} MiB (line {part.line})" for part, size in sizes if part.words]
        named += [f"/boot/efi {extra} MiB"] if extra else []
        text = f"disk.size is {room.disk // MIB} MiB: the partitions take {total} MiB: {', '.join(named)}"
        yield Mismatch(text, Cause.DISK_TOO_SMALL)
    for group in given.all("volgroup"):
        members = _members(group)
        held = [size for part, size in sizes if part.words[:1] and part.words[0] in members]
        volumes = _volumes(group, given)
        if held and volumes > sum(held):
            text = f"the volumes of {group.words[0]} take {volumes} MiB, its partitions have {sum(held)} MiB"
            yield Mismatch(f"{text}: make {' or '.join(members)} larger, or let it --grow", line=group.line)


def least_disk(given: Kickstart, release: Release = RELEASES[DEFAULT]) -> int:
    """Return the MiB that the partitions take at the least, with what firmware and swap may add."""
    swaps = [part for part in given.all("part", "logvol") if part.has("recommended") or part.has("hibernation")]
    # Anaconda's recommended swap is at most 10 % of the disk.
    total = sum(_grown(part, given) for part in given.all("part")) + release.efi_partition + LABEL_ROOM
    return total + (total // 9 if swaps else 0)


def _grown(part: Command, given: Kickstart) -> int:
    """MiB that the partition takes at the least: one that may grow has to hold what its group's others do not."""
    size, name = _number(part), "".join(part.words[:1])
    for group in given.all("volgroup") if part.has("grow") else ():
        members = _members(group)
        if name in members:
            others = [
                other
                for other in given.all("part")
                if other is not part and other.words[:1] and other.words[0] in members
            ]
            size = max(size, _volumes(group, given) - sum(map(_number, others)))
    return size


def _members(group: Command) -> list[str]:
    """Physical volumes of a group; its options, which may have values of their own, stand before or behind them."""
    return [word for word in group.words[1:] if word.startswith("pv.")]


def _volumes(group: Command, given: Kickstart) -> int:
    """MiB of its volumes; thin ones lie in their pool, which counts."""
    name = group.words[0] if group.words else ""
    volumes = [volume for volume in given.all("logvol") if volume.option("vgname") == name]
    return sum(_number(volume) for volume in volumes if not volume.has("thin"))


def _number(part: Command) -> int:
    text = part.option("size") or "0"
    return int(text) if text.isdigit() else 0
