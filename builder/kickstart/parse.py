"""Read what a rendered kickstart asks of medium and machine.

This reads lines and judges nothing: a command that it does not know is passed on. `builder.kickstart.render.lint` has a
real parser check the text.
Source of the facts: the kickstart documentation of pykickstart, chapters "clearpart", "ignoredisk" and "%packages".
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from builder.errors import RecipeError

# Sections whose lines are commands of somebody else; each ends with %end.
_SECTIONS = ("%packages", "%pre", "%pre-install", "%post", "%onerror", "%traceback", "%addon", "%anaconda")
_ALIASES = {"partition": "part", "authconfig": "auth", "shutdown": "poweroff"}


@dataclass(frozen=True)
class Command:
    """A command outside all sections; `name` in its usual spelling, `words` behind it without their quotes."""

    line: int
    name: str
    words: tuple[str, ...]

    def option(self, name: str) -> str | None:
        """The value of `--name=value` or `--name value`; the last one counts."""
        found = None
        for index, word in enumerate(self.words):
            if word.startswith(f"--{name}="):
                found = word.partition("=")[2]
            elif word == f"--{name}" and index + 1 < len(self.words):
                found = self.words[index + 1]
        return found

    def has(self, name: str) -> bool:
        """Return whether the option is there, with or without a value."""
        return any(word.partition("=")[0] == f"--{name}" for word in self.words)


@dataclass(frozen=True)
class Wanted:
    """A line of %packages: `kind` tells a package from a group (`@core`) and an environment (`@^minimal`)."""

    line: int
    name: str
    kind: str


@dataclass(frozen=True)
class Kickstart:
    """Parsed kickstart, in its order.

    Args:
        wanted: what %packages selects.
        excluded: what it excludes, without the minus.
        ignore_missing: a package that is not there is no reason to stop.
    """

    commands: tuple[Command, ...]
    wanted: tuple[Wanted, ...]
    ignore_missing: bool
    excluded: tuple[Wanted, ...] = ()

    def all(self, *names: str) -> list[Command]:
        """The commands of these names."""
        return [command for command in self.commands if command.name in names]

    def last(self, name: str) -> Command | None:
        """The command of this name that counts."""
        found = self.all(name)
        return found[-1] if found else None

    @property
    def complete(self) -> bool:
        """Return whether nothing is included that only the installer will see."""
        return not self.all("%include", "%ksappend")

    @property
    def erases(self) -> str:
        """Which disks are cleared or written to without a question, for people."""
        clearing, ignoring = self.last("clearpart"), self.last("ignoredisk")
        included = ", ".join(" ".join(command.words[:1]) for command in self.all("%include", "%ksappend"))
        only = ignoring.option("only-use") if ignoring else None
        spared = ignoring.option("drives") if ignoring else None
        where = f"the disks {only}" if only else "every disk of the machine"
        if clearing and (named := clearing.option("drives")):
            where = f"the disks {named}"
        elif spared and not only:
            where += f" except {spared}"
        if clearing and (partitions := clearing.option("list")):
            said = f"the partitions {partitions}"
        elif clearing and clearing.has("linux"):
            said = f"Linux partitions of {where}"
        elif clearing and clearing.has("all"):
            said = f"everything on {where}"
        else:
            # Also what `clearpart --initlabel` alone means: labels for disks that have none.
            said = f"no partition; free space of {where} is used"
        return f"{said}; and what {included} says, which only the installer sees" if included else said


@dataclass(frozen=True)
class Script:
    """A section of a kickstart with its body as it stands, such as `%post`.

    Args:
        line: of its head.
        words: of its head, the name of the section first.
        closed: it ends with %end, and no other section begins before.
    """

    line: int
    words: tuple[str, ...]
    body: str
    closed: bool = True

    @property
    def kind(self) -> str:
        """Name of the section: `%pre`."""
        return self.words[0]


def scripts(text: str) -> list[Script]:
    """Return all sections, in their order; one without %end goes on to the next one or to the end of the file."""
    found: list[Script] = []
    head: tuple[int, tuple[str, ...]] | None = None
    body: list[str] = []
    for number, line in enumerate(text.split("\n"), start=1):
        first = line.split()[0] if line.strip() else ""
        begins = first in _SECTIONS
        if head is not None and (begins or first == "%end"):
            found.append(Script(*head, "\n".join(body), closed=not begins))
            head = None
        if begins:
            head, body = (number, tuple(_split(line))), []
        elif head is not None:
            body.append(line)
    return [*found, Script(*head, "\n".join(body), closed=False)] if head is not None else found


def load(path: Path) -> str:
    """Read a kickstart as it is.

    Raises:
        RecipeError: it cannot be read, or is not UTF-8 text.
    """
    try:
        # In binary, so that DOS line endings are not hidden.
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise RecipeError(f"cannot read {path}", str(reason)) from None


def read(text: str) -> Kickstart:
    """The commands and the package selection of a rendered kickstart."""
    commands: list[Command] = []
    wanted: list[Wanted] = []
    excluded: list[Wanted] = []
    ignore_missing = False
    for line, section, words in _lines(text):
        if section == "%packages" and words[0] == "%packages":
            ignore_missing = ignore_missing or "--ignoremissing" in words
        elif section == "%packages" and words[0] == "%include":
            commands.append(Command(line, words[0], tuple(words[1:])))
        elif section == "%packages" and words[0].startswith("-"):
            excluded += _wanted(line, " ".join(words)[1:])
        elif section == "%packages":
            wanted += _wanted(line, " ".join(words))
        elif not section:
            commands.append(Command(line, _ALIASES.get(words[0], words[0]), tuple(words[1:])))
    return Kickstart(tuple(commands), tuple(wanted), ignore_missing, tuple(excluded))


def _lines(text: str) -> Iterator[tuple[int, str, list[str]]]:
    """Every line that says something: its number, the section it stands in (empty outside all), its words."""
    section = ""
    for number, line in enumerate(text.split("\n"), start=1):
        first = line.split()[0] if line.strip() else ""
        if first == "%end":
            section = ""
            continue
        if not section and first in _SECTIONS:
            section = first
        if words := _split(line):
            yield number, section, words


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return line.split()


def _wanted(line: int, entry: str) -> list[Wanted]:
    if entry.startswith("@^"):
        return [Wanted(line, entry[2:].strip(), "environment")]
    if entry.startswith("@"):
        return [Wanted(line, entry[1:].partition(" --")[0].strip(), "group")]
    return [Wanted(line, entry, "package")]
