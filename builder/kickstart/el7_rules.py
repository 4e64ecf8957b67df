"""Rules of the installer of CentOS 7.9 that are not a matter of syntax, and the names it knows.

Sources: anaconda 21.48.22.159 (pyanaconda/kickstart.py: Bootloader, MultiPath, DmRaid, Upgrade, PartitionData,
Firewall, Authconfig; storage_utils.py: must_be_on_root, must_be_on_linuxfs; timezone.py: is_valid_timezone;
keyboard.py). The lists in `known` say in their first lines where they are from.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from builder.kickstart import parse
from builder.kickstart.parse import Command, Kickstart, Script

KNOWN = Path(__file__).with_name("known")
ON_ROOT = frozenset({"/bin", "/dev", "/sbin", "/etc", "/lib", "/root", "/mnt", "lost+found", "/proc"})
ON_LINUX = frozenset({"/", "/var", "/tmp", "/usr", "/home", "/usr/share", "/usr/lib"})
FOREIGN = frozenset({"vfat", "efi", "ntfs", "hfs", "hfs+", "msdos", "fat32"})
# What a disk may be called, with or without /dev/ in front: names of the kernel and links of udev.
DISK = re.compile(
    r"(/?dev/)?([shv]d[a-z*?\[]\S*|xvd[a-z*?\[]\S*|nvme\S+|mmcblk\S+|cciss\S+|dasd\S+|dm-\S+|md\S+|mpath\S+|mapper/\S+"
    r"|disk/by-\S+|(0x)?[0-9A-Fa-f]{2}|LABEL=\S+|UUID=\S+)"
)
UNFILLED = "a template that was not filled in; render it first"
DOS = "`dos2unix` takes it out"
# Commands whose words may hold a dollar sign.
_FREE = frozenset({"rootpw", "user", "%include", "bootloader", "sshpw"})
# What to do where no known name is near.
_LISTED = {
    "timezone": "`timedatectl list-timezones` lists them",
    "lang": "write one such as en_US.UTF-8",
    "keyboard": "`localectl list-keymaps` lists them",
}
# Templates of cobbler, and of others that were not filled in.
_TEMPLATE = re.compile(r"\$\{?[A-Za-z_]|\{[{%]|<%|@@|\b__[A-Z][A-Z0-9_]*__\b")


@dataclass(frozen=True)
class LintFinding:
    """One remark on a kickstart; `line` is None where it is on no single line."""

    line: int | None
    severity: Literal["error", "warning"]
    message: str

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return f"{where}{self.message}"


def encoding(text: str) -> Iterator[LintFinding]:
    """Yield what the bytes of a file do to the installer although no editor shows them."""
    if text.startswith("\ufeff"):
        yield LintFinding(
            1, "error", f"a byte order mark before the first line: the installer takes it for a command; {DOS}"
        )
    ends = [number for number, line in enumerate(text.split("\n"), start=1) if line.endswith("\r")]
    if ends:
        more = f" (and {len(ends) - 1} more)" if len(ends) > 1 else ""
        yield LintFinding(
            ends[0], "error", f"DOS line endings{more}: the shell of the scripts stumbles over them; {DOS}"
        )


def check(text: str, beside: Collection[str]) -> Iterator[LintFinding]:
    """Yield what the installer refuses, or replaces by something of its own and goes on.

    Args:
        beside: names of files for %ksappend.
    """
    given = parse.read(text)
    for command in given.commands:
        yield from _template(command)
    yield from _appended(given, beside)
    yield from included(given, parse.scripts(text), beside)
    yield from _loader(given)
    yield from _unsupported(given)
    yield from _users(given)
    yield from _tools(given)
    yield from _mount_points(given)
    yield from _disks(given)
    yield from _names(given)


def _template(command: Command) -> Iterator[LintFinding]:
    line = " ".join((command.name, *command.words))
    if command.name.startswith(("$", "{{", "{%", "<%", "@@")):
        yield LintFinding(command.line, "error", f"{command.name}: {UNFILLED}")
    elif command.name not in _FREE and _TEMPLATE.search(re.sub(r"\$(basearch|releasever|arch)\b", "", line)):
        yield LintFinding(command.line, "warning", "looks like a template that was not filled in")


def _appended(given: Kickstart, beside: Collection[str]) -> Iterator[LintFinding]:
    for command in given.all("%ksappend"):
        name = command.words[0] if command.words else ""
        if Path(name).name not in beside:
            yield LintFinding(
                command.line, "error", f"%ksappend: there is no file {name}; write %include, or give it along"
            )


def included(given: Kickstart, scripts: Sequence[Script], beside: Collection[str]) -> Iterator[LintFinding]:
    """Yield what is included although no script can have made it before.

    Args:
        beside: names of the files that come along.
    """
    before = "\n".join(script.body for script in scripts if script.kind == "%pre")
    for command in given.all("%include"):
        path = command.words[0] if command.words else ""
        name = path.rpartition("/")[2]
        if "://" in path or name in beside or (name and name in before):
            continue
        if before and path.startswith(("/tmp/", "/run/", "/root/")):
            continue  # a script may have made it under a name that it put together
        text = f"%include {path}: no %pre makes this file; put it beside the kickstart and into kickstart.files"
        yield LintFinding(command.line, "error", text)


def _loader(given: Kickstart) -> Iterator[LintFinding]:
    for loader in given.all("bootloader"):
        if loader.option("location") == "partition":
            yield LintFinding(
                loader.line, "error", "bootloader: GRUB 2 is not installed to a partition; use --location=mbr"
            )
        if loader.has("iscrypted") and not (loader.option("password") or "").startswith("grub.pbkdf2."):
            yield LintFinding(
                loader.line,
                "error",
                "bootloader: --iscrypted wants a grub.pbkdf2 hash; grub2-mkpasswd-pbkdf2 makes one",
            )


def _unsupported(given: Kickstart) -> Iterator[LintFinding]:
    for command in given.all("multipath", "dmraid", "upgrade"):
        yield LintFinding(
            command.line,
            "error",
            f"{command.name}: the installer of CentOS 7 does not support it and ends; leave it out",
        )
    for command in given.all("vnc"):
        if (word := command.option("password")) is not None and not 6 <= len(word) <= 8:
            yield LintFinding(command.line, "error", "vnc: the password must have six to eight characters")


def _users(given: Kickstart) -> Iterator[LintFinding]:
    """Users that the installer does not make, or not wholly, and goes on (users.py: createUser)."""
    groups = {command.option("name"): command.line for command in given.all("group")}
    for user in given.all("user"):
        name = user.option("name")
        if name == "root":
            yield LintFinding(user.line, "warning", "user: root is there already; the installer leaves it as it is")
        if name and name in groups:
            why = "makes the same group, so the user stays without its password; leave out one of them"
            yield LintFinding(user.line, "warning", f"user: `group --name={name}` in line {groups[name]} {why}")


def _tools(given: Kickstart) -> Iterator[LintFinding]:
    """Commands that run a program which the kickstart excludes (Firewall.execute, Authconfig.execute)."""
    excluded = {one.name for one in given.excluded}
    needed = {"firewall": ("firewalld", "firewall-offline-cmd"), "auth": ("authconfig", "authconfig")}
    for command in given.all(*needed):
        package, program = needed[command.name]
        idle = command.name == "firewall" and any(
            command.has(option) for option in ("disabled", "disable", "use-system-defaults")
        )
        if package in excluded and not idle:
            text = f"{command.name}: %packages excludes {package}, and without {program} the installer ends"
            yield LintFinding(command.line, "error", text)


def _mount_points(given: Kickstart) -> Iterator[LintFinding]:
    seen: dict[str, int] = {}
    for part in given.all("part", "logvol", "raid", "btrfs"):
        point = part.words[0] if part.words else ""
        kind = part.option("fstype") or ""
        if point in ON_ROOT:
            yield LintFinding(part.line, "error", f"{point} must be on the / file system; leave this line out")
        if point in ON_LINUX and kind in FOREIGN:
            yield LintFinding(
                part.line, "error", f"{point} must be on a Linux file system, not on {kind}; write --fstype=xfs"
            )
        if point.startswith("/") and point in seen:
            yield LintFinding(
                part.line, "warning", f"{point} was named in line {seen[point]} already: only the last one is made"
            )
        if point.startswith("/"):
            seen[point] = part.line


def disk_words(command: Command) -> list[str]:
    """Return the disks and partitions that a command names, as written, without those of --driveorder."""
    found = []
    for option in ("ondisk", "ondrive", "boot-drive", "drives", "only-use", "list"):
        found += [word for word in (command.option(option) or "").split(",") if word]
    return found


def _disks(given: Kickstart) -> Iterator[LintFinding]:
    for command in given.all("part", "raid", "clearpart", "ignoredisk", "bootloader"):
        for word in disk_words(command):
            wrong = [one for one in word.split("|") if not DISK.fullmatch(one) and "$" not in one and one != "*"]
            if wrong:
                yield LintFinding(
                    command.line,
                    "error",
                    f"{command.name}: {wrong[0]} is no name of a disk; write sda, or disk/by-id/…",
                )


def _names(given: Kickstart) -> Iterator[LintFinding]:
    for command in given.all("timezone", "lang", "keyboard"):
        for word in _named(command):
            if _TEMPLATE.search(word):
                continue
            known, wanted, instead = {
                "timezone": (known_names("timezones"), word, "America/New_York instead"),
                "lang": (known_names("languages"), re.split(r"[.@]", word)[0], "another one instead"),
                "keyboard": (known_names("keyboards"), word, "none instead"),
            }[command.name]
            if command.name == "keyboard":
                # As X writes a variant, "de (nodeadkeys)", and as the console does, "de-nodeadkeys".
                wanted = word if word in known else re.split(r"[ (-]", word)[0]
            languages = {one.split("_")[0] for one in known} if command.name == "lang" else ()
            if wanted not in known and wanted not in languages:
                # Abbreviations are like others that mean something else: SGT, MST.
                near = difflib.get_close_matches(word.split(".")[0], known, n=1, cutoff=0.6 if len(word) > 4 else 0.9)
                meant = f"; did you mean {near[0]}?" if near else f"; {_LISTED[command.name]}"
                text = f"{command.name}: {word} is not known, and the installer goes on with {instead}{meant}"
                yield LintFinding(command.line, "error", text)


def _named(command: Command) -> list[str]:
    """The names that a command sets, without its options."""
    plain = [word for word in command.words if not word.startswith("-")][:1]
    if command.name == "keyboard":
        layouts = (command.option("xlayouts") or "").split(",")
        chosen = [command.option("vckeymap") or "", *(layout.strip() for layout in layouts)]
        return [word for word in chosen if word] or plain
    return plain


@functools.cache
def known_names(kind: str) -> frozenset[str]:
    """Return the `timezones`, `keyboards` or `languages` that the installer knows."""
    lines = (KNOWN / f"{kind}.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(word for line in lines if not line.startswith("#") for word in line.split())
