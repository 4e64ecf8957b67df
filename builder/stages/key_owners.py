"""Find out whose private keys lie on a disk: which file of a booted copy holds each, and which package owns the file.

A key on the raw disk is harmless in a file that is just what its package brought (libraries carry published keys for
their self-tests) or that the recipe names. In any other file, and in no file (deleted, free space), it is a secret.

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


class RemoteShell(Protocol):
    """Runs commands in a guest; `builder.guest.ssh.RemoteShell` is one."""

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
# `FILES | holders NUMBER BYTE/LENGTH…` prints which files have these bytes of the device below their file system:
# `at NUMBER BYTE,… PATH` for each extent with some, then what the file has in the place of the first, in hexadecimal
# digits. One is enough: an extent lies on the disk as it is, or it does not, from its beginning to its end.
# `owner PATH` prints `from PACKAGE PATH` of a file that is what its package brought, `changed PACKAGE PATH` of another
# that a package owns. Digests are compared, since `rpm -V` looks neither at %ghost files nor at those that a package
# exempts. rpm keeps SHA-256 on EL7 and later, and MD5 of older packages; dpkg keeps MD5.
FUNCTIONS = r"""
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL=C

holders() {
    xargs -0 filefrag -v 2> /dev/null | awk -F '[:. ]+' -v wanted="$2" '
        BEGIN {
            count = split(wanted, word, " ")
            for (i = 1; i <= count; i++) { split(word[i], pair, "/"); byte[i] = pair[1]; size[i] = pair[2] }
        }
        /^File size of / { head = $0; unit = $(NF - 1); end = $(NF - 5) }
        /^ *[0-9]+: / {
            if ($1 != "") $0 = " " $0
            bytes = ""
            for (i = 1; i <= count; i++) {
                place = ($3 - $5) * unit + byte[i]
                if (byte[i] >= $5 * unit && byte[i] < ($6 + 1) * unit && place + size[i] <= end) {
                    if (bytes == "") first = sprintf("%.0f %d", place, size[i])
                    bytes = bytes sprintf("%.0f,", byte[i])
                }
            }
            path = head
            if (bytes != "" && sub(/ is [0-9]+ \([0-9]+ blocks? of [0-9]+ bytes\)$/, "", path))
                print bytes, first, substr(path, 14)
        }' | while read -r bytes place size path; do
        printf '%s\n' "at $1 $bytes $path"
        od -An -v -tx1 -w999 -j "$place" -N "$size" "$path"
    done
}

rpm_digests() {
    rpm -qf --qf '[%{FILEDIGESTS}\n]' "$1"
}

dpkg_digests() {
    dpkg-query --control-show "$2" md5sums 2> /dev/null
    case $1 in /etc/*) dpkg-query -W -f '${Conffiles}\n' "$2" ;; esac
}

owner() {
    if package=$(rpm -qf --qf '%{NAME}-%{VERSION}-%{RELEASE}.%{ARCH},' "$1" 2> /dev/null); then
        digests=rpm_digests
    # One path of the two that a merged /usr gives a file.
    elif package=$(dpkg-query -S "$1" 2> /dev/null || dpkg-query -S "${1#/usr}" 2> /dev/null); then
        digests=dpkg_digests
        package=${package%%: *}
    else
        return
    fi
    # The first, where several share the file.
    package=${package%%,*}
    for sum in md5sum sha256sum; do
        digest=$($sum < "$1")
        $digests "$1" "$package" | grep -qwF "${digest%% *}" && printf '%s\n' "from $package $1" && return
    done
    printf '%s\n' "changed $package $1"
}

command -v filefrag > /dev/null || echo "no filefrag"
"""
# Where programs and libraries are, which have such constants; so that a good image need not ask for each of its files.
PROGRAMS = "find {0}/usr/bin {0}/usr/sbin {0}/usr/lib {0}/usr/lib64 {0}/usr/lib/*-linux-gnu -maxdepth 1 -type f -print0"
EVERYTHING = "find {0}/ -xdev -type f -print0"
# The last line of both answers: without it the script broke off.
_END = "end of the answer"


@dataclass(frozen=True)
class KeyOwner:
    """Location of a private key on the disk.

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
        """The key is not a secret."""
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
    """File systems of a machine and their place on the disk that has its root; devices are named MAJOR:MINOR."""

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
        """Read the output of LAYOUT.

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


def trace(session: RemoteShell, keys: Sequence[FoundKey], allowed: Sequence[str]) -> tuple[KeyOwner, ...]:
    """Find the owner of each key that was found on the disk, in a booted copy of it.

    Args:
        allowed: paths of the recipe that may hold keys: files, or folders with all that is in them.

    Raises:
        VerifyError: the image lacks the program for it, or the answers of the guest cannot be read.
        UnreachableError: the guest does not answer.
    """
    if not keys:
        return ()
    try:
        return _trace(session, keys, allowed)
    except (ValueError, RecursionError) as error:
        # The words of a guest: sizes that are not numbers, block devices that lie below each other.
        raise VerifyError("the copy's list of block devices cannot be read", str(error)) from None


def _trace(session: RemoteShell, keys: Sequence[FoundKey], allowed: Sequence[str]) -> tuple[KeyOwner, ...]:
    layout = Layout.parse(_ask(session, LAYOUT))
    result: tuple[KeyOwner, ...] = ()
    for files in (PROGRAMS, EVERYTHING):
        output = _ask(session, script(layout, keys, files))
        if output.startswith("no filefrag"):
            raise VerifyError(
                f"cannot find the files that hold {len(keys)} private keys on the disk: the image has no filefrag",
                "filefrag shows which file a byte of the disk belongs to",
                "add the package e2fsprogs to kickstart.vars.packages",
            )
        result = owners(layout, keys, output, allowed)
        if all(one.harmless for one in result):
            break
    return result


def _ask(session: RemoteShell, script: str) -> str:
    """Run a script in the guest, to its last line.

    Raises:
        VerifyError: it broke off.
    """
    reply = session.run("sh -s", stdin=f"{script}\necho {_END}\n".encode(), timeout=PATIENCE)
    if reply.status != 0 or not reply.out.endswith(f"{_END}\n"):
        raise VerifyError(
            f"the search for the files that hold private keys broke off in the copy (exit status {reply.status})",
            reply.err.strip(),
        )
    return reply.out


def script(layout: Layout, keys: Sequence[FoundKey], files: str) -> str:
    """Write the shell script that asks the guest which files hold these keys, and which packages own the files.

    Args:
        files: the command that lists the files to look at; `{0}` is the mount point of a file system.
    """
    wanted: dict[str, list[str]] = {point: [] for point in layout.points.values()}
    for key in keys:
        for point, byte in layout.places(key.offset):
            wanted[point].append(f"{byte}/{len(key.header)}")
    calls = "".join(
        f"{files.format(shlex.quote(point.rstrip('/')))} 2> /dev/null | holders {number} '{' '.join(places)}'\n"
        for number, (point, places) in enumerate(wanted.items())
        if places
    )
    each = "sed -n 's/^at [0-9]* [0-9,]* //p' | sort -u | while read -r path; do owner \"$path\"; done"
    return f"{FUNCTIONS}\nheld=$({{ :\n{calls}}})\nprintf '%s\\n' \"$held\"\nprintf '%s\\n' \"$held\" | {each}\n"


def owners(layout: Layout, keys: Sequence[FoundKey], output: str, allowed: Sequence[str]) -> tuple[KeyOwner, ...]:
    """Read the answer to `script`: one owner for each key, the most harmless where several files share its bytes."""
    numbers = {point: str(number) for number, point in enumerate(dict.fromkeys(layout.points.values()))}
    holders: dict[tuple[str, str], list[str]] = {}
    packages: dict[str, tuple[str, bool]] = {}
    headers = {(numbers[point], str(byte)): key.header for key in keys for point, byte in layout.places(key.offset)}
    lines = iter(output.splitlines())
    for line in lines:
        match line.split(" ", 3):
            case ["at", number, bytes_, path]:
                first, *more = ((number, byte) for byte in bytes_.rstrip(",").split(","))
                if headers.get(first) == _text(next(lines, "")):
                    for place in (first, *more):
                        holders.setdefault(place, []).append(path)
            case ["from" | "changed" as state, package, *_]:
                packages[line.split(" ", 2)[2]] = (package, state == "from")

    def owner(key: FoundKey, path: str) -> KeyOwner:
        package, intact = packages.get(path, ("", False))
        named = any(path == one or path.startswith(f"{one}/") for one in allowed)
        return KeyOwner(key.offset, path, package, intact, named)

    result = []
    for key in keys:
        places = [(numbers[point], str(byte)) for point, byte in layout.places(key.offset)]
        choices = [owner(key, path) for place in places for path in holders.get(place, ())]
        result.append(max(choices, key=lambda one: one.harmless, default=KeyOwner(key.offset)))
    return tuple(result)


def _text(digits: str) -> str:
    """The text that od wrote in hexadecimal digits; "" when it wrote something else."""
    try:
        return bytes.fromhex(digits).decode("ascii", "replace")
    except ValueError:
        return ""
