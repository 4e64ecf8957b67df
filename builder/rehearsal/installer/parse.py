# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""Read the kickstart with pykickstart's RHEL7 handler; a command that cannot be carried out stops the install.

The early pass runs %pre only, so that the second can %include what %pre wrote.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from pykickstart import constants
from pykickstart.commands.sshkey import F22_SshKey, F22_SshKeyData
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
from pykickstart.version import RHEL7, makeVersion, returnClassForVersion

from . import log

# Everything this installer carries out, or may honestly ignore as Anaconda does in this situation.
SUPPORTED = frozenset(
    {
        "auth", "authconfig", "autopart", "bootloader", "cdrom", "clearpart", "cmdline", "eula",
        "firewall", "firstboot", "graphical", "halt", "ignoredisk", "install", "keyboard", "lang",
        "logging", "network", "part", "partition", "poweroff", "reboot", "reqpart", "rootpw",
        "selinux", "services", "shutdown", "skipx", "sshkey", "text", "timezone", "user",
        "zerombr",
    }
)  # fmt: skip

__all__ = ["Addons", "KickstartError", "constants", "pre_scripts", "read"]


class Addons(Section):  # type: ignore[misc]
    """The one add-on that CentOS 7 minimal has: `%addon com_redhat_kdump`."""

    sectionOpen = "%addon"  # noqa: N815 - pykickstart's name

    def handleHeader(self, lineno: int, args: list[str]) -> None:  # noqa: N802
        """Note whether kdump is wanted."""
        if len(args) < 2 or args[1] != "com_redhat_kdump":
            raise KickstartParseError(f"the rehearsal has no add-on {' '.join(args[1:2])}", lineno=lineno)
        self.handler.kdump = "--disable" not in args

    def handleLine(self, line: str) -> None:  # noqa: N802
        """Its body is free text."""


class _Parser(KickstartParser):  # type: ignore[misc]
    """The full pass."""

    def handleCommand(self, lineno: int, args: list[str]) -> Any:  # noqa: N802
        if args[0] in self.handler.commands and args[0] not in SUPPORTED:
            raise KickstartParseError(f"the rehearsal cannot carry out this command: {args[0]}", lineno=lineno)
        self.handler.seen_commands.add(args[0])
        return super().handleCommand(lineno, args)

    def setupSections(self) -> None:  # noqa: N802
        self._sections: dict[str, Section] = {}
        for kind in (PreScriptSection, PreInstallScriptSection, PostScriptSection, TracebackScriptSection):
            self.registerSection(kind(self.handler, dataObj=Script))
        self.registerSection(OnErrorScriptSection(self.handler, dataObj=Script))
        self.registerSection(PackageSection(self.handler))
        self.registerSection(Addons(self.handler))


class _EarlyParser(KickstartParser):  # type: ignore[misc]
    """The pass that only collects %pre."""

    def handleCommand(self, lineno: int, args: list[str]) -> None:  # noqa: N802
        pass

    def setupSections(self) -> None:  # noqa: N802
        self._sections: dict[str, Section] = {}
        self.registerSection(PreScriptSection(self.handler, dataObj=Script))
        for name in ("%pre-install", "%post", "%traceback", "%onerror", "%packages", "%addon"):
            self.registerSection(NullSection(self.handler, sectionOpen=name))


def _logged(parser: KickstartParser, text: str) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        parser.readKickstartFromString(text)
    for warning in seen:
        log.write("WARNING", "anaconda", str(warning.message).strip())


def pre_scripts(text: str) -> list[Any]:
    """The %pre scripts, in order.

    Raises:
        KickstartError: a section is not closed.
    """
    handler = makeVersion(RHEL7)
    _logged(_EarlyParser(handler, missingIncludeIsFatal=False), text)
    return [script for script in handler.scripts if script.type == constants.KS_SCRIPT_PRE]


def read(text: str) -> Any:
    """The kickstart as pykickstart's handler, with `kdump` and `seen_commands` beside its own attributes.

    pykickstart dropped `sshkey` from RHEL7, which Anaconda 21.48.22.57 and later has: it is put back.

    Raises:
        KickstartError: with the message Anaconda prints.
    """
    handler = returnClassForVersion(RHEL7)(
        commandUpdates={"sshkey": F22_SshKey}, dataUpdates={"SshKeyData": F22_SshKeyData}
    )
    handler.kdump = None
    handler.seen_commands = set()
    _logged(_Parser(handler), text)
    return handler


def load(path: Path) -> str:
    """The kickstart's text; a carriage return at the end of a line is part of the line, as for Anaconda."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return file.read()
