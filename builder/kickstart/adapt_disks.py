"""Finds out which disks a kickstart means: one, which becomes builder's, or more, which is refused."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from builder.kickstart.parse import Command, Kickstart

TAKEN = "what is on a disk already, and the machine's disk is new: write a `part` that makes it"


@dataclass(frozen=True)
class Meant:
    """The disks as the kickstart names them, and why it cannot be adapted: lines and reasons."""

    disks: tuple[str, ...]
    refused: tuple[tuple[int, str], ...]


def meant_disks(given: Kickstart, ours: str) -> Meant:
    """Return what the commands outside of scripts and included files say of disks.

    Args:
        ours: how builder names its own.
    """
    spared = {_bare(word) for command in given.all("ignoredisk") for word in _words(command, "drives")}
    groups: list[tuple[frozenset[str], int]] = []
    refused: list[tuple[int, str]] = []
    for line, word in _named(given):
        names = frozenset(_bare(one) for one in word.split("|"))
        if names <= spared or "$" in word or word == ours:
            continue
        if not any(_meet(names, other) for other, _ in groups):
            groups.append((names, line))
    if len(groups) > 1:
        said = " and ".join(f"{'|'.join(sorted(names))} (line {line})" for names, line in groups)
        refused.append(
            (groups[1][1], f"{len(groups)} disks are meant, {said}; the machine has one: leave the others out")
        )
    refused += existing(given)
    return Meant(tuple("|".join(sorted(names)) for names, _ in groups), tuple(refused))


def _named(given: Kickstart) -> Iterator[tuple[int, str]]:
    for command in given.commands:
        if command.name == "part":
            options = ["ondisk", "ondrive"]
        elif command.name == "clearpart":
            options = ["drives"]
        elif command.name == "ignoredisk":
            options = ["only-use"]
        elif command.name == "bootloader":
            options = ["boot-drive"]
        else:
            continue
        for option in options:
            for word in _words(command, option):
                yield command.line, word
        if command.name == "clearpart":
            for word in _words(command, "list"):
                yield command.line, _disk_of(word)
        # The order of drives is an order of what may be there; the first one is meant.
        for word in _words(command, "driveorder")[:1] if command.name == "bootloader" else ():
            yield command.line, word


def existing(given: Kickstart) -> Iterator[tuple[int, str]]:
    """Yield the lines that take up what is on the disk already, which is new."""
    for command in given.all("part", "logvol", "volgroup", "raid", "btrfs"):
        for option in ("onpart", "usepart", "useexisting", "noformat"):
            if command.has(option):
                yield command.line, f"--{option} takes up {TAKEN}"
                break
    for command in given.all("mount"):
        yield command.line, f"`mount` takes up {TAKEN}"


def _words(command: Command, option: str) -> list[str]:
    return [word.strip() for word in (command.option(option) or "").split(",") if word.strip()]


def _bare(name: str) -> str:
    return re.sub(r"^/?dev/", "", name)


def _disk_of(partition: str) -> str:
    """The disk of a partition: sda of sda1, nvme0n1 of nvme0n1p2."""
    return re.sub(r"(?<=\d)p\d+$|(?<=[a-z])\d+$", "", _bare(partition))


def _meet(one: Iterable[str], other: Iterable[str]) -> bool:
    return any(fnmatch.fnmatch(a, b) or fnmatch.fnmatch(b, a) for a in one for b in other)
