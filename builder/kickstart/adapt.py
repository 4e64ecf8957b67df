"""Adapts somebody's own kickstart to builder: what must be changed, line by line, each change with its reason.

Invariant: nothing else is changed. A line keeps its number; what is added comes after the last line.

Sources: anaconda 21.48.22.159 (kickstart.py: ClearPart, IgnoreDisk, Bootloader, PartitionData; network.py:
dumpMissingDefaultIfcfgs writes ONBOOT=no for a device that no `network` names; ui/tui/hubs/summary.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from builder.kickstart import parse
from builder.kickstart.adapt_disks import Meant, meant_disks
from builder.kickstart.lines import with_option, without_option
from builder.kickstart.parse import Command, Kickstart, Script

SOURCES = ("url", "nfs", "harddrive")
ENDS = ("reboot", "halt", "shutdown")
NIC = "eth0"
# The word of the last act, as `builder.guest.report` reads it on ttyS1.
MARKER = "BUILDER INSTALLED"
# Where the installer keeps the kickstart; a relative %include is looked for beside it.
BESIDE = "/run/install"


@dataclass(frozen=True)
class KickstartChange:
    """One change to the text.

    Args:
        line: in the kickstart as it was given; where something was added, in the adapted one.
        was: the line, a password masked; empty where a line was added.
        now: the line in its place, or the first of what was added.
    """

    line: int
    was: str
    now: str
    reason: str


@dataclass(frozen=True)
class Refusal:
    """Reason why a kickstart cannot be adapted; `line` is its place."""

    line: int
    reason: str


@dataclass(frozen=True)
class Adapted:
    """The adapted text, the changes in it, and what could not be adapted."""

    text: str
    changes: tuple[KickstartChange, ...]
    refused: tuple[Refusal, ...] = ()


@dataclass(frozen=True)
class Terms:
    """Requirements of builder on a kickstart.

    Args:
        root_crypt: crypt string of the root password.
        disk_serial: of the machine's one disk.
        token: what the last act reports; a report of another one, from an earlier build, does not count.
        last_act: makes the closing script, a whole section, of the names of its parts.
        files: names of what comes along on the medium.
        appended: texts by name, for %ksappend.
        networked: the install may use a network.
    """

    root_crypt: str
    disk_serial: str
    token: str
    last_act: Callable[[Sequence[str]], str]
    files: tuple[str, ...] = ()
    appended: Mapping[str, str] = field(default_factory=dict)
    networked: bool = False

    @property
    def disk(self) -> str:
        """The disk as Anaconda finds it on any bus."""
        return f"disk/by-id/*{self.disk_serial}"


@dataclass
class Book:
    """The lines while they are adapted, and what was done to them."""

    lines: list[str]
    changes: list[KickstartChange] = field(default_factory=list)
    added: list[tuple[str, str]] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)

    def replace(self, number: int, now: str, reason: str, shown: str | None = None) -> None:
        """Put another line in the place of one; `shown` stands for a line that is not to be shown."""
        was = self.lines[number - 1]
        if now != was:
            self.changes.append(KickstartChange(number, was if shown is None else shown, now, reason))
            self.lines[number - 1] = now

    def add(self, text: str, reason: str) -> None:
        """Add lines at the end."""
        self.added.append((text, reason))

    def refuse(self, line: int, reason: str) -> None:
        """Note what cannot be adapted."""
        self.refused.append(Refusal(line, reason))

    def finished(self) -> Adapted:
        """Return the result."""
        lines = list(self.lines)
        changes = sorted(self.changes, key=lambda change: change.line)
        for text, reason in self.added:
            first, *rest = text.splitlines()
            changes.append(KickstartChange(len(lines) + 1, "", first, reason))
            lines += [first, *rest]
        text = "\n".join(lines) + "\n" if lines else ""
        return Adapted(text, tuple(changes), tuple(self.refused))


def adapt(text: str, terms: Terms) -> Adapted:
    """Adapt a kickstart; one that needs nothing is returned as it is."""
    book = Book([])
    book.lines = _plain_lines(text, book)
    _append(book, terms)
    plain = "\n".join(book.lines)
    given, scripts = parse.read(plain), parse.scripts(plain)
    for script in scripts:
        if not script.closed:
            book.refuse(script.line, f"{script.kind} does not end with %end, which the installer of 7 wants: add it")
    _source(book, given, terms)
    _end(book, given)
    _root(book, given, terms)
    _disk(book, given, plain, terms)
    _network(book, given, plain)
    _files(book, terms)
    _last_act(book, given, scripts, terms)
    return book.finished()


def _plain_lines(text: str, book: Book) -> list[str]:
    """The lines without what an editor of another system left in them."""
    if text.startswith("\ufeff"):
        text = text.removeprefix("\ufeff")
        book.changes.append(KickstartChange(1, "a byte order mark", "", "the installer would take it for a command"))
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    ends = [number for number, line in enumerate(lines, start=1) if line.endswith("\r")]
    if ends:
        reason = f"{len(ends)} lines end as DOS ends them: the shell of the scripts stumbles over that"
        book.changes.append(KickstartChange(ends[0], "CR LF", "LF", reason))
    return [line.removesuffix("\r") for line in lines]


def _append(book: Book, terms: Terms) -> None:
    """Put files in the place of %ksappend, which the initramfs would fetch over a network."""
    lines: list[str] = []
    for number, line in enumerate(book.lines, start=1):
        words = line.split()
        name = words[1].rpartition("/")[2] if words[:1] == ["%ksappend"] and len(words) > 1 else ""
        if name in terms.appended:
            book.changes.append(KickstartChange(number, line, f"what {name} says", "%ksappend reaches no file there"))
            lines += terms.appended[name].splitlines()
        else:
            lines.append(line)
    book.lines = lines


def _source(book: Book, given: Kickstart, terms: Terms) -> None:
    named = given.all(*SOURCES)
    for command in given.all("liveimg", "ostreesetup"):
        text = f"`{command.name}` installs an image of its own, not the packages of the medium: write `cdrom`"
        book.refuse(command.line, text)
    if terms.networked and given.all("url", "nfs"):
        return
    for command in named:
        book.replace(command.line, "cdrom", "the packages come from the medium: there is no network while installing")
    if not named and not given.all("cdrom", "liveimg", "ostreesetup"):
        book.add("cdrom", "no source is named: the installer would look for a mirror")


def _end(book: Book, given: Kickstart) -> None:
    """`parse` calls shutdown by its other name, so the line itself is looked at."""
    found = given.all("poweroff", "reboot", "halt")
    for command in found:
        first = book.lines[command.line - 1].split()[0]
        if first in ENDS:
            book.replace(
                command.line, "poweroff", f"builder takes the power-off for the end of the install, not {first}"
            )
    if not found:
        book.add("poweroff", "nothing ends the install: it would wait for somebody to press return")


def _root(book: Book, given: Kickstart, terms: Terms) -> None:
    line = f"rootpw --iscrypted {terms.root_crypt}"
    reason = "root logs in with builder's password when the image is proved; --root-password-file sets a known one"
    for command in given.all("rootpw"):
        book.replace(command.line, line, reason, shown="rootpw ********")
    if not given.all("rootpw"):
        book.add(line, reason)


def _disk(book: Book, given: Kickstart, plain: str, terms: Terms) -> None:
    meant: Meant = meant_disks(given, terms.disk)
    for line, reason in meant.refused:
        book.refuse(line, reason)
    one = "the machine has one disk, found by its serial number; it has other names on other machines"
    for command in given.all("part", "raid", "bootloader"):
        now = book.lines[command.line - 1]
        for option in ("ondisk", "ondrive", "onbiosdisk", "boot-drive", "driveorder"):
            now = without_option(now, option)
        book.replace(command.line, now, one)
    for command in given.all("clearpart"):
        now = book.lines[command.line - 1]
        if command.has("drives"):
            now = with_option(now, "drives", terms.disk)
        if command.has("list"):
            now = with_option(now, "list", None, instead="--all")
        book.replace(command.line, now, one)
    only = f"ignoredisk --only-use={terms.disk}"
    for command in given.all("ignoredisk"):
        book.replace(command.line, only, one)
    if not given.all("ignoredisk"):
        book.add(only, "builder's own disk, and no other, may be cleared")
    if not _labels(given) and (given.complete or not re.search(r"zerombr|initlabel|clearpart", plain)):
        book.add("zerombr", "the disk is new: without a label on it the installer finds no space")


def _labels(given: Kickstart) -> bool:
    """Return whether an empty disk gets a partition table (blivet: Blivet.shouldClear, clearPartitions)."""
    clearing = given.last("clearpart")
    return bool(given.all("zerombr")) or bool(
        clearing and (clearing.has("all") or clearing.has("list") or clearing.has("initlabel"))
    )


_GROUPED = ("bondslaves", "teamslaves", "bridgeslaves", "vlanid", "essid")


def _network(book: Book, given: Kickstart, plain: str) -> None:
    """The test VMs reach the image by DHCP on the machine's one interface."""
    commands = given.all("network")
    if any(command.has(option) for command in commands for option in _GROUPED):
        return
    # A line that sets the host's name alone concerns no interface (kickstart.py: Network).
    commands = [command for command in commands if not (command.has("hostname") and len(command.words) <= 2)]
    used = [command for command in commands if _reaches(command.option("device"))]
    if not commands and not given.complete and re.search(r"\bnetwork\s+--", plain):
        return  # a script writes the line that is included
    if not commands:
        line = f"network --bootproto=dhcp --device={NIC} --onboot=yes"
        book.add(line, "an interface that no `network` names is not started at boot, and the proof logs in over SSH")
        return
    for command in used or commands[:1]:
        _one_network(book, command)


def _one_network(book: Book, command: Command) -> None:
    line, reasons = book.lines[command.line - 1], []
    if not _reaches(command.option("device")):
        line = with_option(line, "device", NIC)
        reasons.append(f"the machine's one interface is {NIC}")
    if command.option("bootproto") not in (None, "dhcp", "bootp") or command.has("ip"):
        for option in ("ip", "netmask", "gateway"):
            line = without_option(line, option)
        line = with_option(line, "bootproto", "dhcp")
        reasons.append("each copy of the image would have this address; a clone gets one with --address")
    if (command.option("onboot") or "yes").lower() in ("no", "off", "false", "0"):
        line = with_option(line, "onboot", "yes")
        reasons.append("the proof logs in over SSH")
    book.replace(command.line, line, "; ".join(reasons))


def _reaches(device: str | None) -> bool:
    return device in (None, "", NIC, "link", "bootif")


def included(book_line: str, files: Iterable[str]) -> str | None:
    """Return the name of the file that an %include line means, if it is one of these."""
    found = re.match(r"\s*%include\s+[\"']?(\S+?)[\"']?\s*$", book_line)
    name = found[1].rpartition("/")[2] if found else ""
    return name if found and name in files and not found[1].startswith("/tmp/") else None


def _files(book: Book, terms: Terms) -> None:
    """Make the files that come along readable for %include; for scripts of the kickstart, too."""
    if not terms.files:
        return
    for number, line in enumerate(book.lines, start=1):
        if name := included(line, terms.files):
            book.replace(
                number, f"%include {BESIDE}/{name}", "the files of the recipe are copied there from the medium"
            )
    book.add(_copying(terms.files), "brings the files of the recipe from the medium to where %include finds them")


def _copying(names: Sequence[str]) -> str:
    """The script that copies files from whichever CD has them: the medium, or the one beside it."""
    return f"""\
%pre --erroronfail
mkdir -p {BESIDE} /run/builder-medium
for drive in /dev/sr*; do
    mount -o ro "$drive" /run/builder-medium || continue
    for file in {" ".join(names)}; do
        [ ! -f "/run/builder-medium/$file" ] || cp "/run/builder-medium/$file" {BESIDE}/
    done
    umount /run/builder-medium
done
for file in {" ".join(names)}; do
    [ -f "{BESIDE}/$file" ] || exit 1
done
%end"""


def _last_act(book: Book, given: Kickstart, scripts: Sequence[Script], terms: Terms) -> None:
    parts = missing_parts(given, scripts, terms.token)
    if parts:
        reason = f"the last act, which proves that the install came to its end: {', '.join(parts)}"
        book.add(terms.last_act(parts).rstrip("\n"), reason)


def missing_parts(given: Kickstart, scripts: Sequence[Script], token: str) -> list[str]:
    """Return the parts of builder's last act that the kickstart does not bring itself."""
    post = "\n".join(script.body for script in scripts if script.kind == "%post")
    packages = {wanted.name for wanted in given.wanted}
    # An image has one owner of its identity.
    identity = "cloud-init" if "cloud-init" in packages else "first-boot"
    brought = {
        identity: "builder-first-boot.service" in post,
        # Only if it lets root in with a key.
        "sshd": bool(re.search(r"PermitRootLogin[\s=]+(yes|without-password|prohibit-password)\b", post)),
        "initramfs": "dracut-config-generic" in packages or bool(re.search(r"--no-hostonly|hostonly=\W*no", post)),
        "seal": False,
        "marker": f"{MARKER} {token}" in post,
    }
    if brought["marker"] and brought[identity]:
        # A kickstart that was written for builder.
        return []
    return [name for name, there in brought.items() if not there]
