# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""Read the kickstart with pykickstart's handler of the release; a command that cannot be carried out stops the install.

The early pass runs %pre only, so that the second can %include what %pre wrote.
"""

from __future__ import annotations

import shlex
import warnings
from pathlib import Path
from typing import Any

from pykickstart import constants
from pykickstart.errors import KickstartError, KickstartParseError
from pykickstart.parser import KickstartParser, Script
from pykickstart.sections import (
    NullSection,
    OnErrorScriptSection,
    PackageSection,
    PostScriptSection,
    PreInstallScriptSection,
    PreScriptSection,
    Section,
    TracebackScriptSection,
)
from pykickstart.version import makeVersion, returnClassForVersion

from . import log, rehearsed
from .el7_checker import COMMANDS, DATA, LENIENT, SUPERFLUOUS
from .release.facts import EL7, Release

# Those that the media have; a medium of Fedora has no kdump, and passes it over.
KNOWN_ADDONS = ("com_redhat_kdump", "org_fedora_oscap")

__all__ = ["Addons", "KickstartError", "constants", "pre_scripts", "read"]


class Addons(Section):  # type: ignore[misc]
    """`%addon`: of those on the medium com_redhat_kdump is carried out; an unknown name is kept and ignored.

    (Anaconda, rhel7-branch, addons.py: AddonSection makes a placeholder that does nothing.)
    """

    sectionOpen = "%addon"  # noqa: N815 - pykickstart's name

    def handleHeader(self, lineno: int, args: list[str]) -> None:  # noqa: N802
        """Note whether kdump is wanted."""
        if len(args) < 2:
            raise KickstartParseError("%addon has no name", lineno=lineno)
        _leave_out(self.handler, args)
        if args[1] == "com_redhat_kdump":
            self.handler.kdump = "--disable" not in args
        elif args[1] not in KNOWN_ADDONS:
            log.info("anaconda", f"{args[1]} is no add-on of this installer: ignored")

    def handleLine(self, line: str) -> None:  # noqa: N802
        """Its body is free text."""


class AnacondaSection(Section):  # type: ignore[misc]
    """`%anaconda`: rules for passwords that somebody types, and a class of installation, which change nothing here.

    (Anaconda, rhel7-branch, kickstart.py: AnacondaSectionHandler.)
    """

    sectionOpen = "%anaconda"  # noqa: N815 - pykickstart's name

    def handleLine(self, line: str) -> None:  # noqa: N802
        """Refuse what Anaconda does not know there."""
        words = shlex.split(line, comments=True)
        if words and words[0] not in ("pwpolicy", "installclass"):
            raise KickstartParseError(f"Unknown command: {words[0]}", lineno=self.lineno)

    def handleHeader(self, lineno: int, args: list[str]) -> None:  # noqa: N802, ARG002
        """Remember where it begins."""
        self.lineno = lineno


class Packages(PackageSection):  # type: ignore[misc]
    """`%packages`."""

    def handleHeader(self, lineno: int, args: list[str]) -> None:  # noqa: N802
        """Say what of it is not done."""
        _leave_out(self.handler, args)
        super().handleHeader(lineno, args)


def _leave_out(handler: Any, args: list[str]) -> None:
    handler.left_out += [said for said in rehearsed.left_out(args[0], args[1:]) if said not in handler.left_out]


class _Parser(KickstartParser):  # type: ignore[misc]
    """The full pass."""

    def handleCommand(self, lineno: int, args: list[str]) -> Any:  # noqa: N802
        why = rehearsed.refused(args[0], args[1:]) if args[0] in self.handler.commands else None
        if why:
            text = f"the rehearsal cannot carry out this command: {args[0]}: {why}"
            raise KickstartParseError(text, lineno=lineno)
        self.handler.seen_commands.add(args[0])
        _leave_out(self.handler, args)
        try:
            done = super().handleCommand(lineno, args)
        except KickstartError as error:
            # As 1.99.66, which does not look at words behind the options of some commands.
            extra = SUPERFLUOUS.search(str(error))
            if not self.handler.release.patched or args[0] not in LENIENT or not extra:
                raise
            done = super().handleCommand(lineno, [word for word in args if word not in extra[1].split()])
        _loader(self.handler.bootloader, args[0], lineno)
        return done

    def setupSections(self) -> None:  # noqa: N802
        self._sections: dict[str, Section] = {}
        for kind in (PreScriptSection, PreInstallScriptSection, PostScriptSection, TracebackScriptSection):
            self.registerSection(kind(self.handler, dataObj=Script))
        self.registerSection(OnErrorScriptSection(self.handler, dataObj=Script))
        for section in (Packages, Addons, *([AnacondaSection] if self.handler.release.anaconda_section else [])):
            self.registerSection(section(self.handler))


def _loader(bootloader: Any, name: str, lineno: int) -> None:
    """Refuse what Anaconda's GRUB 2 does (kickstart.py: Bootloader.parse)."""
    if name != "bootloader":
        return
    if bootloader.location == "partition":
        raise KickstartParseError("GRUB2 does not support installation to a partition.", lineno=lineno)
    if bootloader.isCrypted and not bootloader.password.startswith("grub.pbkdf2."):
        raise KickstartParseError("GRUB2 encrypted password must be in grub.pbkdf2 format.", lineno=lineno)


class _EarlyParser(KickstartParser):  # type: ignore[misc]
    """The pass that only collects %pre."""

    def handleCommand(self, lineno: int, args: list[str]) -> None:  # noqa: N802
        pass

    def setupSections(self) -> None:  # noqa: N802
        self._sections: dict[str, Section] = {}
        self.registerSection(PreScriptSection(self.handler, dataObj=Script))
        for name in ("%pre-install", "%post", "%traceback", "%onerror", "%packages", "%addon", "%anaconda"):
            self.registerSection(NullSection(self.handler, sectionOpen=name))


def _logged(parser: KickstartParser, text: str) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        parser.readKickstartFromString(text)
    for warning in seen:
        log.write("WARNING", "anaconda", str(warning.message).strip())


def pre_scripts(text: str, release: Release = EL7) -> list[Any]:
    """The %pre scripts, in order.

    Raises:
        KickstartError: a section is not closed.
    """
    handler = makeVersion(release.handler)
    _logged(_EarlyParser(handler, missingIncludeIsFatal=False), text)
    return [script for script in handler.scripts if script.type == constants.KS_SCRIPT_PRE]


def read(text: str, release: Release = EL7) -> Any:
    """The kickstart as pykickstart's handler, with facts of ours beside its own attributes.

    `release`, `kdump`, `seen_commands`, and `left_out`: what is asked for and not done, for the log.

    Raises:
        KickstartError: with the message Anaconda prints.
    """
    made = returnClassForVersion(release.handler)
    handler = made(commandUpdates=COMMANDS, dataUpdates=DATA) if release.patched else made()
    handler.release = release
    handler.kdump = None
    handler.seen_commands = set()
    handler.left_out = []
    _logged(_Parser(handler), text)
    return handler


def load(path: Path) -> str:
    """The kickstart's text; a carriage return at the end of a line is part of the line, as for Anaconda."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return file.read()
