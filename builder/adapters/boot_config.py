"""The one rule: boot menus gain one entry and lose none, and what stands in them is passed on letter by letter.

The new entry is a copy of the vendor's own install entry with the kernel arguments appended, so that everything the
vendor says about finding the runtime (`inst.stage2=hd:LABEL=CentOS\\x207\\x20x86_64`) stays as it is.

Sources of the facts: syslinux, doc/syslinux.txt and doc/menu.txt; GRUB manual, chapters "Simple configuration" and
"Shell-like scripting".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from builder.errors import MediumError

Menu = Literal["unattended", "safe"]

TITLE = {"unattended": "Install unattended (ERASES DISKS)", "safe": "Install unattended - ERASES DISKS"}
LOCAL_TITLE = "Boot from local disk"
LABEL = "kickstart"
# The x86 kernel takes no more than 2048 bytes, the closing zero included (COMMAND_LINE_SIZE).
_LINE_LIMIT = 2047


def check_arguments(arguments: Sequence[str]) -> None:
    """See that each kernel argument is one word.

    Raises:
        MediumError: one is empty or holds white space; a space inside a label is spelled `\\x20`.
    """
    for argument in arguments:
        if not argument or re.search(r"[\s\0'\"]", argument):
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
    lines = text.splitlines()
    labels = _isolinux_labels(lines)
    model = _install_entry(lines, labels)
    entry = _isolinux_entry(lines[model.first : model.end], arguments, TITLE[menu])
    first = min(block.first for _, block in labels)
    head, body = lines[:first], [line for line in lines[first:] if not re.match(r"\s*menu\s+default\b", line, re.I)]
    if menu == "unattended":
        dropped = r"\s*(default|ui|timeout|totaltimeout|ontimeout|prompt|serial)\b"
        head = [line for line in head if not re.match(dropped, line, re.I)]
        # The serial line has to be opened first of all, or the loader's own messages do not reach it.
        head = ["serial 0 115200", f"default {LABEL}", "prompt 0", "timeout 1", *head]
    else:
        body = _isolinux_local_default(body)
    return "\n".join([*head, *entry, "", *body]) + "\n"


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
            entry.append(_appended(line, arguments))
        elif re.match(r"\s*(kernel|linux|initrd)\s", line, re.I):
            entry.append(line)
    return entry


def _appended(line: str, arguments: Sequence[str]) -> str:
    new = " ".join([line.rstrip(), *arguments])
    if len(new.encode()) > _LINE_LIMIT:
        raise MediumError(f"the kernel arguments are too long: the kernel takes {_LINE_LIMIT} bytes", details=new)
    return new


def _isolinux_local_default(body: list[str]) -> list[str]:
    """The entry that boots from disk becomes the menu's default; it is made where there is none.

    It hands back to the BIOS. From a CD that leads to the first disk; a BIOS that was started from a stick may count
    all disks as one device and say that there is no other. Nothing is installed either way.
    """
    for _, block in _isolinux_labels(body):
        for number in range(block.first, block.end):
            if re.match(r"\s*localboot\b", body[number], re.I):
                return [*body[: block.first + 1], "  menu default", *body[block.first + 1 :]]
    local = ["label local", f"  menu label {LOCAL_TITLE}", "  menu default", "  localboot 0xffff", ""]
    return [*local, *body]


def edit_grub(text: str, arguments: Sequence[str], menu: Menu) -> str:
    """`grub.cfg` with the kickstart entry in front; arguments and menu as for `edit_isolinux`.

    Raises:
        MediumError: there is no install entry to copy.
    """
    check_arguments(arguments)
    lines = text.splitlines()
    entries = _grub_entries(lines)
    model = next((block for block in entries if _grub_installs(lines[block.first : block.end])), None)
    if model is None:
        raise MediumError("grub.cfg on the install medium has no entry that installs")
    entry = _grub_entry(lines[model.first : model.end], arguments, TITLE[menu])
    first = min(block.first for block in entries)
    head = lines[:first]
    if menu == "unattended":
        head = _grub_set(_grub_set(head, "default", '"0"'), "timeout", "1")
        front = entry
    else:
        head = _grub_set(head, "default", '"0"')
        # Hands back to the firmware. A GRUB that takes a status makes it try its next boot device; after one that does
        # not, the firmware shows its own menu (UEFI 2.10, 3.1.1: a boot option that succeeded ends the boot order).
        front = [f"menuentry '{LOCAL_TITLE}' {{", "\texit 1", "}", *entry]
    return "\n".join([*head, *front, *lines[first:]]) + "\n"


def _grub_entries(lines: list[str]) -> list[_Block]:
    """Menu entries on the top level, and sub-menus (they count as one entry each)."""
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
            found.append(_Block(start, number + 1))
            start = None
    return found


def _grub_installs(block: list[str]) -> bool:
    text = "\n".join(block)
    loads = re.search(r"^\s*linux(efi|16)?\s", text, re.M)
    return bool(loads) and not text.lstrip().startswith("submenu") and "rd.live.check" not in text


def _grub_entry(model: list[str], arguments: Sequence[str], title: str) -> list[str]:
    head = re.sub(r"""^(\s*menuentry\s+)('[^']*'|"[^"]*"|\S+)""", lambda found: f"{found[1]}'{title}'", model[0])
    entry = [head]
    for line in model[1:]:
        entry.append(_appended(line, arguments) if re.match(r"\s*linux(efi|16)?\s", line) else line)
    return entry


def _grub_set(head: list[str], name: str, value: str) -> list[str]:
    """The assignment replaced where it stands, else put in front."""
    pattern = re.compile(rf"\s*set\s+{name}=")
    if any(pattern.match(line) for line in head):
        return [f"set {name}={value}" if pattern.match(line) else line for line in head]
    return [f"set {name}={value}", *head]
