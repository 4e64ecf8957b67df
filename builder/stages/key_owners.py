"""Find out whose private keys lie on a disk: which file of a booted copy holds each, and which package owns the file.

A key on the raw disk is no secret when a file holds it that is just what its package brought (libraries carry published
keys for their self-tests), or that the recipe names. In any other file, and in no file (deleted, free space), it is.

The way from a byte of the disk to a file: partitions and linear device-mapper targets (LVM) from sysfs and dmsetup give
the byte of a file system's device; FIEMAP, by filefrag of e2fsprogs, gives the file that has this byte, on ext4 and xfs
alike; then the file must show the key's beginning at that place. Where a file system compresses, encrypts or packs its
data, or maps bytes in another way, the last step fails and the key counts as one that no file holds.

Only tools of a minimal EL7 are used in the guest.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from builder.errors import VerifyError
from builder.guest.ssh import Reply
from builder.stages.secret_scan import FoundKey

SECTOR = 512
# Seconds that the guest may be silent while it asks for the extents of every file: an emulated one needs a few.
PATIENCE = 600.0


class Session(Protocol):
    """Runs commands in a guest; `builder.guest.ssh.GuestSession` is one."""

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 120.0) -> Reply:
        """Run a shell command to its end."""


# Block devices and mounts, one fact a line.
LAYOUT = r"""
PATH=/usr/sbin:/usr/bin:/sbin:/bin
sed 's/^/mount /' /proc/self/mountinfo
for place in /sys/class/block/*; do
    read -r device < "$place/dev"
    if [ -r "$place/partition" ]; then
        read -r disk < "$place/../dev"
        read -r start < "$place/start"
        read -r size < "$place/size"
        echo "partition $device $disk $start $size"
    elif [ -r "$place/dm/name" ]; then
        read -r name < "$place/dm/name"
        dmsetup table "$name" | sed "s/^/mapped $device /"
    else
        echo "disk $device"
    fi
done
"""
# `holders NUMBER POINT BYTE/LENGTH…` prints `at NUMBER BYTE SHA256 PATH`: the file of the file system at POINT that has
# this byte of its device, and what it holds there. `owners` prints `from PACKAGE PATH` of files that are what their
# package brought, `changed PACKAGE PATH` of others that a package owns. A digest is compared, since `rpm -V` looks
# neither at %ghost files nor at those that the package exempts.
FUNCTIONS = r"""
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL=C

holders() {
    find "$2" -xdev -type f -size +0 -print0 | xargs -0 filefrag -v 2> /dev/null | awk -v wanted="$3" '
        BEGIN {
            count = split(wanted, word, " ")
            for (i = 1; i <= count; i++) { split(word[i], pair, "/"); byte[i] = pair[1]; size[i] = pair[2] }
        }
        /^File size of / {
            path = ""
            if (match($0, / is [0-9]+ \([0-9]+ blocks? of [0-9]+ bytes\)$/)) {
                path = substr($0, 14, RSTART - 14)
                unit = $(NF - 1)
            }
            next
        }
        path != "" && /^ *[0-9]+: +[0-9]+\.\. *[0-9]+: +[0-9]+\.\. *[0-9]+: / {
            gsub(/[:.]+/, " ")
            for (i = 1; i <= count; i++)
                if (byte[i] >= $4 * unit && byte[i] < ($5 + 1) * unit)
                    printf "%.0f %d %.0f %s\n", byte[i], size[i], $2 * unit + byte[i] - $4 * unit, path
        }' | while read -r byte size place path; do
        sum=$(tail -c "+$((place + 1))" "$path" | head -c "$size" | sha256sum)
        printf '%s\n' "at $1 $byte ${sum%% *} $path"
    done
}

owner() {
    sha256=$(sha256sum < "$1")
    md5=$(md5sum < "$1")
    if package=$(rpm -qf --qf '%{NAME}-%{VERSION}-%{RELEASE}\n' "$1" 2> /dev/null); then
        brought=$(rpm -qf --qf '[%{FILEDIGESTS}\n]' "$1")
    elif package=$(dpkg-query -S "$1" 2> /dev/null || dpkg-query -S "${1#/usr}" 2> /dev/null); then
        package=${package%%: *}
        brought=$(
            dpkg-query --control-show "${package%%,*}" md5sums 2> /dev/null
            dpkg-query -W -f '${Conffiles}\n' "${package%%,*}"
        )
    else
        return
    fi
    state=changed
    printf '%s\n' "$brought" | grep -qwF -e "${sha256%% *}" -e "${md5%% *}" && state=from
    # The first, where several packages share the file.
    package=$(printf '%s\n' "$package" | sed 's/[, ].*//; q')
    printf '%s\n' "$state $package $1"
}

owners() {
    cut -d ' ' -f 5- | sort -u | while read -r path; do
        owner "$path"
    done
}

command -v filefrag > /dev/null || echo "no filefrag"
"""
# The last line of both answers: what breaks off is no answer.
_END = "end of the answer"


@dataclass(frozen=True)
class KeyOwner:
    """Where a private key of the disk is.

    Args:
        offset: bytes from the start of the disk.
        path: of the file that holds it; "" when none does.
        package: that owns the file; "" when none does.
        intact: the file is what the package brought.
        allowed: the recipe names it, or a folder above it.
    """

    offset: int
    path: str = ""
    package: str = ""
    intact: bool = False
    allowed: bool = False

    @property
    def harmless(self) -> bool:
        """The key is no secret."""
        return bool(self.path) and (self.intact or self.allowed)

    def __str__(self) -> str:
        where = f"at byte {self.offset} of the disk"
        if not self.path:
            return f"a private key {where}: in no file (deleted, or in free space)"
        if not self.package:
            return f"{self.path}: no package owns it (private key {where})"
        state = "is what its package brought" if self.intact else "is not what its package brought"
        return f"{self.path}: {state}: {self.package} (private key {where})"


@dataclass(frozen=True)
class _Extent:
    """`size` bytes of a device from `start` on are those of the device `below` it from `at` on."""

    device: str
    start: int
    size: int
    below: str
    at: int


@dataclass
class Layout:
    """How the file systems of a machine lie on the disk that has its root; devices are named MAJOR:MINOR."""

    extents: list[_Extent] = field(default_factory=list)
    disks: set[str] = field(default_factory=set)
    points: dict[str, str] = field(default_factory=dict)
    system_disk: str | None = None

    def places(self, byte: int) -> Iterable[tuple[str, int]]:
        """Say which byte of which mounted file system (by mount point) a byte of the disk is."""
        for device, point in self.points.items():
            inside = self._inside(device, byte) if self._disk(device) == self.system_disk else None
            if inside is not None:
                yield point, inside

    def _disk(self, device: str) -> str | None:
        if device in self.disks:
            return device
        return next((self._disk(one.below) for one in self.extents if one.device == device), None)

    def _inside(self, device: str, byte: int) -> int | None:
        """The byte of a device that is this byte of the disk."""
        if device in self.disks:
            return byte
        for one in self.extents:
            if one.device == device:
                below = self._inside(one.below, byte)
                if below is not None and one.at <= below < one.at + one.size:
                    return below - one.at + one.start
        return None

    @classmethod
    def parse(cls, facts: str, root: str = "/") -> Layout:
        """Read what the guest says of itself.

        Args:
            root: the mount point whose disk is meant.
        """
        layout = cls()
        for line in facts.splitlines():
            match line.split(" "):
                case ["mount", _, _, device, "/", point, *_]:
                    layout.points.setdefault(device, re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), point))
                case ["disk", device]:
                    layout.disks.add(device)
                case ["partition", device, disk, start, size]:
                    layout._add(device, 0, size, disk, start)
                case ["mapped", device, start, size, "linear", below, at]:
                    layout._add(device, start, size, below, at)
        layout.system_disk = next((layout._disk(one) for one, point in layout.points.items() if point == root), None)
        return layout

    def _add(self, device: str, start: int | str, size: str, below: str, at: str) -> None:
        self.extents.append(_Extent(device, int(start) * SECTOR, int(size) * SECTOR, below, int(at) * SECTOR))


def trace(session: Session, keys: Sequence[FoundKey], allowed: Sequence[str]) -> tuple[KeyOwner, ...]:
    """Find the owner of each key that was found on the disk, in a booted copy of it.

    Args:
        allowed: paths of the recipe that may hold keys: files, or folders with all that is in them.

    Raises:
        VerifyError: the image lacks the program for it.
        UnreachableError: the guest does not answer.
    """
    if not keys:
        return ()
    layout = Layout.parse(_ask(session, LAYOUT))
    output = _ask(session, script(layout, keys))
    if output.startswith("no filefrag"):
        raise VerifyError(
            f"cannot tell which files hold {len(keys)} private keys on the disk: the image has no filefrag",
            "filefrag says which file a byte of the disk belongs to",
            "add the package e2fsprogs to kickstart.vars.packages",
        )
    return owners(layout, keys, output, allowed)


def _ask(session: Session, script: str) -> str:
    """Run a script in the guest, to its last line.

    Raises:
        VerifyError: it broke off.
    """
    reply = session.run("sh -s", stdin=f"{script}\necho {_END}\n".encode(), timeout=PATIENCE)
    if reply.status != 0 or not reply.out.endswith(f"{_END}\n"):
        raise VerifyError(
            f"the copy did not say which files hold the private keys on its disk (exit status {reply.status})",
            (reply.out + reply.err).strip(),
        )
    return reply.out


def script(layout: Layout, keys: Sequence[FoundKey]) -> str:
    """Write the shell script that asks the guest which files hold these keys, and which packages own the files."""
    wanted: dict[str, list[str]] = {point: [] for point in layout.points.values()}
    for key in keys:
        for point, byte in layout.places(key.offset):
            wanted[point].append(f"{byte}/{key.head.length}")
    calls = "".join(
        f"holders {number} {shlex.quote(point)} '{' '.join(places)}'\n"
        for number, (point, places) in enumerate(wanted.items())
        if places
    )
    return f"{FUNCTIONS}\nheld=$({{ :\n{calls}}})\nprintf '%s\\n' \"$held\"\nprintf '%s\\n' \"$held\" | owners\n"


def owners(layout: Layout, keys: Sequence[FoundKey], output: str, allowed: Sequence[str]) -> tuple[KeyOwner, ...]:
    """Read the answer to `script`: one owner for each key, the most harmless where several files share its bytes."""
    numbers = {point: str(number) for number, point in enumerate(dict.fromkeys(layout.points.values()))}
    holders: dict[tuple[str, ...], list[str]] = {}
    packages: dict[str, tuple[str, bool]] = {}
    for line in output.splitlines():
        match line.split(" ", 4):
            case ["at", *place, path]:
                holders.setdefault(tuple(place), []).append(path)
            case ["from" | "changed" as state, package, *_]:
                packages[line.split(" ", 2)[2]] = (package, state == "from")

    def owner(key: FoundKey, path: str) -> KeyOwner:
        package, intact = packages.get(path, ("", False))
        named = any(path == one or path.startswith(f"{one}/") for one in allowed)
        return KeyOwner(key.offset, path, package, intact, named)

    result = []
    for key in keys:
        places = [(numbers[point], str(byte), key.head.sha256) for point, byte in layout.places(key.offset)]
        choices = [owner(key, path) for place in places for path in holders.get(place, ())]
        result.append(max(choices, key=lambda one: one.harmless, default=KeyOwner(key.offset)))
    return tuple(result)
