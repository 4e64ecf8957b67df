"""Add a kickstart entry to the boot menus of isolinux and GRUB, and keep all of the vendor's entries.

Invariant: only the entry that `menu` names starts by itself. The new entry is a copy of the vendor's own install entry
with the kernel arguments appended, so that everything the vendor says about finding the runtime
(`inst.stage2=hd:LABEL=CentOS\\x207\\x20x86_64`) stays as it is, letter by letter; all but a kickstart of its own, which
the installer would follow instead. Lines that would choose another default or a shorter timeout, the vendor's or those
of an earlier edit, are removed.

Sources of the facts: syslinux, doc/syslinux.txt and doc/menu.txt; GRUB manual, chapters "Simple configuration" and
"Shell-like scripting"; udev, libblkid's `blkid_encode_string` (names below /dev/disk/by-label).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from builder.errors import MediumError
from builder.iso.layout import RewriteError

Menu = Literal["unattended", "safe"]

TITLE = {"unattended": "Install unattended (ERASES DISKS)", "safe": "Install unattended - ERASES DISKS"}
LOCAL_TITLE = "Boot from local disk"
LABEL = "kickstart"
LOCAL_LABEL = "localdisk"
SECONDS = 60  # that a safe menu waits before it boots from the local disk, as the vendor's waits
# isolinux.cfg: whatever decides what is started, or when, without anybody's choice. `menu default` inside a submenu
# holds for that submenu only, and `menu start` opens the menu in it.
_ISOLINUX_CHOICE = r"\s*((default|timeout|totaltimeout|ontimeout|prompt)\b|menu\s+(default|start|immediate)\b)"
_ISOLINUX_PROGRAM = r"\s*(ui\s|default\s+\S+\.c32\b)"
# The x86 kernel takes no more than 2048 bytes, the closing zero included (COMMAND_LINE_SIZE).
_LINE_LIMIT = 2047
# What GRUB's shell reads as more than a letter (GRUB manual, "Shell-like scripting"); `#` in front begins a comment.
_SPECIAL = re.compile(r"[\s\0'\"{}|&$;<>]|^#")
# A word of a menu with the white space in front of it: quotes and, in GRUB, backslashes hold it together.
_WORD = re.compile(r"""\s*(?:\\.|'[^']*'|"(?:\\.|[^"\\])*"|[^\s'"])+""")
# What names a kickstart to Anaconda 21.48 (rhel7-branch, dracut/parse-anaconda-kickstart.sh: `getarg ks= inst.ks=`):
# with dracut 033 (dracut-lib.sh, getarg) any `ks`, with a value or without, comes before every `inst.ks`, in whatever
# order; without a value it means `nfs:auto`. The others are no part of that choice and stay: ksdevice= names a network
# interface, kssendmac, kssendsn, inst.ks.sendmac and inst.ks.sendsn what is sent to an HTTP server.
_NAMES_KICKSTART = re.compile(r"(?:inst\.)?ks(?:=|$)")
_MAY_NAME_KICKSTART = re.compile(r"""(?:^|[\s'"])(?:inst\.)?ks(?:=|[\s'"\\]|$)""")


def label_argument(volume_id: str) -> str:
    """A volume id as `hd:LABEL=` wants it: spelled like its name below /dev/disk/by-label.

    Raises:
        MediumError: there is none, or it holds a colon, which ends a device's name in `hd:DEVICE:PATH`.
    """
    if not volume_id or ":" in volume_id:
        raise MediumError(
            f"the medium's volume id {volume_id!r} cannot be named to the installer",
            hint="take the vendor's medium as it is; the installer finds it and its kickstart by this name",
        )
    return re.sub(
        r"[^A-Za-z0-9#+.=@_-]", lambda found: "".join(rf"\x{byte:02x}" for byte in found[0].encode()), volume_id
    )


# Where the installer's runtime and packages are, and where GRUB finds the kernel.
_LOOKED_FOR = re.compile(
    r"""\b(?:stage2|repo)=hd:LABEL=([^\s:'"]+)|^\s*search\b.*?\s(?:-l|--label)\s+('[^']*'|"[^"]*"|\S+)""", re.M
)


def require_label(text: str, volume_id: str, name: str) -> None:
    """See that a menu looks for its medium by the name that the medium has.

    Args:
        name: of the menu, for people.

    Raises:
        MediumError: it looks for another volume: the installer would not find its runtime.
    """
    for found in _LOOKED_FOR.finditer(text):
        raw = (found[1] or found[2]).strip("'\"")
        label = re.sub(r"\\+x([0-9a-fA-F]{2})", lambda code: chr(int(code[1], 16)), raw)
        if label != volume_id:
            raise RewriteError(
                f"the medium's boot menu looks for the label {label!r}, but its volume id is {volume_id!r}",
                f"somebody relabelled this medium; {name}: {found[0].strip()}",
            )


def check_arguments(arguments: Sequence[str]) -> None:
    """See that each kernel argument is one word to kernel and boot loaders.

    Raises:
        MediumError: one is empty or holds white space, a quote or what GRUB would act on; a space inside a label is
            spelled `\\x20`.
    """
    for argument in arguments:
        if not argument or not argument.isprintable() or _SPECIAL.search(argument):
            raise MediumError(
                f"kernel argument {argument!r} is not one plain word", hint=r"write a space inside a label as \x20"
            )


@dataclass(frozen=True)
class _Block:
    """Lines from `first` up to, not including, `end`."""

    first: int
    end: int


def edit_isolinux(text: str, arguments: Sequence[str], menu: Menu) -> str:
    """`isolinux.cfg` with the kickstart entry.

    Args:
        arguments: appended to the kernel's command line.
        menu: `unattended` boots the entry at once, `safe` boots from the local disk unless somebody chooses it.

    Raises:
        MediumError: there is no install entry to copy.
    """
    check_arguments(arguments)
    given = _without(text.splitlines(), _isolinux_labels, lambda name: name.lower() in (LABEL, LOCAL_LABEL))
    head, lines = [], []
    for line in given:
        # A serial line has to be opened first of all, or what comes before does not reach it.
        if re.match(rf"{_ISOLINUX_PROGRAM}|\s*serial\s", line, re.I):
            head.append(line)
        elif not re.match(_ISOLINUX_CHOICE, line, re.I):
            lines.append(line)
    model = _install_entry(lines, _isolinux_labels(lines))
    entry = _isolinux_entry(lines[model.first : model.end], arguments, TITLE[menu])
    if menu == "unattended":
        head = ["serial 0 115200", f"default {LABEL}", "prompt 0", "timeout 1"]
    else:
        if not any(re.match(_ISOLINUX_PROGRAM, line, re.I) for line in head):
            said = f"{LOCAL_TITLE} after {SECONDS} seconds. To install unattended (ERASES DISKS) type: {LABEL}"
            head += [f"default {LOCAL_LABEL}", "prompt 1", f"say {said}"]
        head.append(f"timeout {SECONDS * 10}")
        entry = [*_ISOLINUX_LOCAL, *entry]
    first = next(number for number, line in enumerate(lines) if re.match(r"\s*(label|menu\s+begin)\b", line, re.I))
    return "\n".join([*head, *lines[:first], *entry, "", *lines[first:]]) + "\n"


# It hands back to the BIOS. From a CD that leads to the first disk; a BIOS that was started from a stick may count all
# disks as one device and say that there is no other. Nothing is installed either way. It stands before the kickstart's
# entry and outside all submenus: the vendor's own, in a submenu, would be that submenu's default alone.
_ISOLINUX_LOCAL = [f"label {LOCAL_LABEL}", f"  menu label {LOCAL_TITLE}", "  menu default", "  localboot 0xffff", ""]


def _without(
    lines: list[str], entries: Callable[[list[str]], list[tuple[str, _Block]]], ours: Callable[[str], bool]
) -> list[str]:
    """The lines without the entries of an earlier edit."""
    mine = {number for name, block in entries(lines) if ours(name) for number in range(block.first, block.end)}
    return [line for number, line in enumerate(lines) if number not in mine]


def _isolinux_labels(lines: list[str]) -> list[tuple[str, _Block]]:
    """All entries; one ends where the next entry, or a sub-menu, begins or ends."""
    found: list[tuple[str, _Block]] = []
    start: int | None = None
    name = ""
    for number, line in enumerate([*lines, "menu end"]):
        opening = re.match(r"\s*label\s+(\S+)", line, re.I)
        closing = opening or re.match(r"\s*menu\s+(begin|end|separator)\b", line, re.I)
        if closing and start is not None:
            found.append((name, _Block(start, number)))
            start = None
        if opening:
            start, name = number, opening[1]
    return found


def _install_entry(lines: list[str], labels: list[tuple[str, _Block]]) -> _Block:
    """The entry that installs: called linux, else the first with a kernel and no media check."""
    not_install = r"rd\.live\.check|\brescue\b|xdriver="
    usable = []
    for name, block in labels:
        body = "\n".join(lines[block.first : block.end])
        if re.search(r"^\s*append\s", body, re.I | re.M) and not re.search(not_install, body):
            usable.append((name, block))
    named = [found for found in usable if found[0].lower() == "linux"]
    if not usable:
        raise MediumError("isolinux.cfg on the install medium has no entry that installs")
    return (named or usable)[0][1]


def _isolinux_entry(model: list[str], arguments: Sequence[str], title: str) -> list[str]:
    entry = [f"label {LABEL}", f"  menu label {title}"]
    for line in model[1:]:
        if re.match(r"\s*append\s", line, re.I):
            entry.append(_appended(_without_kickstart(line), arguments))
        elif re.match(r"\s*(kernel|linux|initrd)\s", line, re.I):
            # The kernel's line, too, may have arguments behind the file (syslinux, com32/menu/readconfig.c).
            entry.append(_without_kickstart(line))
    return entry


def _without_kickstart(line: str, variables: frozenset[str] = frozenset()) -> str:
    """A line of the vendor's without the words that name a kickstart.

    Args:
        variables: of the menu, that hold one.

    Raises:
        MediumError: one is left that cannot be told from what is around it.
    """
    new = _WORD.sub(lambda word: "" if _NAMES_KICKSTART.match(_plain(word[0])) else word[0], line)
    if _MAY_NAME_KICKSTART.search(new) or any(re.search(rf"\${{?{name}\b", new) for name in variables):
        raise MediumError(
            "the boot menu's install entry names a kickstart of its own, in a way that cannot be taken out",
            details=new.strip(),
            hint="take the vendor's medium as it is, or use delivery: seed, which needs no menu",
        )
    return new


def _plain(word: str) -> str:
    return re.sub(r"""\\(.)|['"]""", r"\1", word.strip())


def _appended(line: str, arguments: Sequence[str]) -> str:
    new = " ".join([line.rstrip(), *arguments])
    # The vendor's line need not be UTF-8.
    if len(new.encode("utf-8", "surrogateescape")) > _LINE_LIMIT:
        raise MediumError(f"the kernel arguments are too long: the kernel takes {_LINE_LIMIT} bytes", details=new)
    return new


def edit_grub(text: str, arguments: Sequence[str], menu: Menu) -> str:
    """`grub.cfg` with the kickstart entry in front; arguments and menu as for `edit_isolinux`.

    Raises:
        MediumError: there is no install entry to copy.
    """
    check_arguments(arguments)
    lines = _without(text.splitlines(), _grub_entries, lambda name: name in {*TITLE.values(), LOCAL_TITLE})
    wait = "1" if menu == "unattended" else str(SECONDS)
    lines = _grub_set(_grub_set(lines, "default", '"0"'), "timeout", wait)
    entries = [block for _, block in _grub_entries(lines)]
    model = next((block for block in entries if _grub_installs(lines[block.first : block.end])), None)
    if model is None:
        raise MediumError("grub.cfg on the install medium has no entry that installs")
    entry = _grub_entry(lines[model.first : model.end], arguments, TITLE[menu], _kickstart_variables(lines))
    first = min(block.first for block in entries)
    # Hands back to the firmware. A GRUB that takes a status makes it try its next boot device; after one that does
    # not, the firmware shows its own menu (UEFI 2.10, 3.1.1: a boot option that succeeded ends the boot order).
    local = [f"menuentry '{LOCAL_TITLE}' {{", "\texit 1", "}"] if menu == "safe" else []
    return "\n".join([*lines[:first], *local, *entry, *lines[first:]]) + "\n"


def _grub_entries(lines: list[str]) -> list[tuple[str, _Block]]:
    """Menu entries on the top level by title, and sub-menus (they count as one entry each)."""
    found = []
    depth = 0
    start: int | None = None
    for number, line in enumerate(lines):
        bare = re.sub(r"'[^']*'|\"[^\"]*\"|(^|\s)#.*", "", line)
        if depth == 0 and re.match(r"\s*(menuentry|submenu)\b", line):
            start = number
        depth += len(re.findall(r"(?<!\$)\{", bare)) - len(re.findall(r"(?<![\w])\}", bare))
        depth = max(depth, 0)
        if depth == 0 and start is not None and "{" in "".join(lines[start : number + 1]):
            title = re.match(r"""\s*\w+\s+(?:'([^']*)'|"([^"]*)"|(\S+))""", lines[start])
            found.append((next(filter(None, title.groups()), "") if title else "", _Block(start, number + 1)))
            start = None
    return found


def _grub_installs(block: list[str]) -> bool:
    text = "\n".join(block)
    loads = re.search(r"^\s*linux(efi|16)?\s", text, re.M)
    return bool(loads) and not text.lstrip().startswith("submenu") and "rd.live.check" not in text


def _kickstart_variables(lines: list[str]) -> frozenset[str]:
    """Names of the variables that are given a kickstart anywhere in the menu."""
    assigned = (re.match(r"\s*set\s+(\w+)=(.*)", line) for line in lines)
    return frozenset(found[1] for found in assigned if found and _MAY_NAME_KICKSTART.search(_plain(found[2])))


def _grub_entry(model: list[str], arguments: Sequence[str], title: str, variables: frozenset[str]) -> list[str]:
    # A backslash at its end continues a line.
    model = re.sub(r"\\\n", "", "\n".join(model)).split("\n")
    head = re.sub(r"""^(\s*menuentry\s+)('[^']*'|"[^"]*"|\S+)""", lambda found: f"{found[1]}'{title}'", model[0])
    entry = [head]
    for line in model[1:]:
        if re.match(r"\s*linux(efi|16)?\s", line):
            line = _appended(_without_kickstart(line, variables), arguments)
        entry.append(line)
    return entry


def _grub_set(lines: list[str], name: str, value: str) -> list[str]:
    """The assignment replaced wherever it stands outside the entries, else put in front."""
    inside = {number for _, block in _grub_entries(lines) for number in range(block.first, block.end)}
    pattern = re.compile(rf"(\s*)set\s+{name}=")
    outside = ((number, pattern.match(line)) for number, line in enumerate(lines) if number not in inside)
    hits = {number: hit[1] for number, hit in outside if hit}
    if not hits:
        return [f"set {name}={value}", *lines]
    return [f"{hits[number]}set {name}={value}" if number in hits else line for number, line in enumerate(lines)]
