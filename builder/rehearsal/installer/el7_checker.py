# SPDX-License-Identifier: GPL-2.0-only
# A program of its own: builder starts it and imports nothing of it, for it imports pykickstart (hence its licence).
# The rehearsal installer takes from it what commands 7.9 knows.
"""Checks a kickstart with pykickstart as the installer of CentOS 7.9 reads it, and prints its findings as JSON.

`el7_checker.py FILE` writes a list of `{"line", "severity", "message"}`. The RHEL7 handler of a newer pykickstart has
lost some of what 1.99.66.22, the one on the 7.9 medium, accepts; it is put back here. Source: that version's
pykickstart/handlers/rhel7.py and pykickstart/commands/ (branch rhel7-branch).
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

if __name__ == "__main__":
    # What %include and %ksappend name is fetched by this module, which takes requests to start: half of the time that a
    # check needs. The checker reads one file and nothing else, so to this program it is a module that fetches nothing.
    _nothing = ModuleType("pykickstart.load")
    vars(_nothing)["load_to_str"] = None
    sys.modules[_nothing.__name__] = _nothing

from pykickstart.commands.firewall import F20_Firewall
from pykickstart.commands.ignoredisk import F14_IgnoreDisk
from pykickstart.commands.logvol import F23_LogVol, F23_LogVolData
from pykickstart.commands.mount import F27_Mount, F27_MountData
from pykickstart.commands.reboot import F18_Reboot
from pykickstart.commands.repo import RHEL7_Repo
from pykickstart.commands.sshkey import F22_SshKey, F22_SshKeyData
from pykickstart.commands.sshpw import F13_SshPw
from pykickstart.commands.url import F18_Url
from pykickstart.commands.xconfig import F14_XConfig
from pykickstart.errors import KickstartError
from pykickstart.parser import KickstartParser, PutBackIterator
from pykickstart.version import RHEL7, returnClassForVersion

CERTIFICATES = ("--sslcacert", "--sslclientcert", "--sslclientkey")


def _with(base: type, *values: str, flags: tuple[str, ...] = ()) -> type:
    """Return the command with more options: `values` take one, `flags` do not."""

    def parser(self: Any) -> Any:
        op = base._getParser(self)  # type: ignore[attr-defined]
        for option in values:
            op.add_argument(option, version=RHEL7, help="")
        for option in flags:
            op.add_argument(option, action="store_true", default=False, version=RHEL7, help="")
        return op

    # A handler calls the command by what comes behind the first underscore.
    return type(f"EL7_{base.__name__.rpartition('_')[2]}", (base,), {"_getParser": parser})


_REBOOT = _with(F18_Reboot, flags=("--kexec",))
COMMANDS: dict[str, type] = {
    **dict.fromkeys(("reboot", "halt", "poweroff", "shutdown"), _REBOOT),
    "firewall": _with(F20_Firewall, flags=("--use-system-defaults",)),
    "ignoredisk": _with(F14_IgnoreDisk, flags=("--nonfatal",)),
    "logvol": F23_LogVol,
    "mount": F27_Mount,
    "repo": _with(RHEL7_Repo, *CERTIFICATES),
    "sshkey": F22_SshKey,
    "sshpw": _with(F13_SshPw, flags=("--sshkey",)),
    "url": _with(F18_Url, *CERTIFICATES),
    "xconfig": _with(F14_XConfig, "--server"),
}
DATA: dict[str, type] = {"LogVolData": F23_LogVolData, "MountData": F27_MountData, "SshKeyData": F22_SshKeyData}
# Commands of 1.99.66.22 that do not look at words behind their options, which newer versions refuse.
LENIENT = frozenset(
    {
        "autostep", "bootloader", "clearpart", "firstboot", "group", "harddrive", "ignoredisk", "liveimg", "logging",
        "network", "nfs", "ostreesetup", "reboot", "halt", "poweroff", "shutdown", "reqpart", "rescue", "selinux",
        "services", "url", "user", "vnc", "zfcp", "%packages", "%pre", "%post",
    }
)  # fmt: skip
SUPERFLUOUS = re.compile(r"unrecognized arguments: ((?!-)\S+(?: (?!-)\S+)*)")


class NumberedLines(PutBackIterator):  # type: ignore[misc]
    """The lines, and the number of the one that was read last."""

    number = 0

    def next(self) -> Any:
        """Return the next line."""
        self.number += 1
        return super().next()

    def put(self, s: str) -> None:
        """Take a line back."""
        self.number -= 1
        super().put(s)


class Checker(KickstartParser):  # type: ignore[misc]
    """A parser that notes what is wrong and goes on."""

    def __init__(self, handler: Any) -> None:
        self.findings: list[dict[str, Any]] = []
        self.line: int | None = None
        self.command = ""
        super().__init__(handler, followIncludes=False)

    def note(self, severity: str, said: Any, line: int | None) -> None:
        """Keep one finding; the message may name its line itself."""
        text = getattr(said, "message", "") or str(said)
        named = getattr(said, "lineno", None)
        if found := re.search(r" on line (\d+)(?=:)", text):
            named = int(found[1])
            text = text.replace(found[0], "")
        message = " ".join(str(text).split()) or type(said).__name__
        if self.command in ("", *LENIENT) and (extra := SUPERFLUOUS.fullmatch(message)):
            severity, message = "warning", f"{self.command}: the installer does not look at: {extra[1]}"
        self.findings.append({"line": named or line, "severity": severity, "message": message})

    def handleCommand(self, lineno: int, args: list[str]) -> Any:  # noqa: N802 - pykickstart's name
        """Remember which line is at work."""
        self.line, self.command = lineno, args[0]
        return super().handleCommand(lineno, args)

    def _tryFunc(self, fn: Callable[[], Any]) -> None:  # noqa: N802 - pykickstart's name
        """Do one command or the head of one section."""
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            try:
                fn()
            except (KickstartError, ValueError, TypeError, AssertionError) as fault:
                self.note("error", fault, self.line)
        for warning in seen:
            self.note("warning", warning.message, self.line)
        self.line, self.command = None, ""

    def setupSections(self) -> None:  # noqa: N802 - pykickstart's name
        """Know the sections of 7.9, which has no %certificate."""
        super().setupSections()
        self._sections.pop("%certificate", None)


def check(text: str) -> list[dict[str, Any]]:
    """Return everything that pykickstart has to say."""
    handler = returnClassForVersion(RHEL7)(commandUpdates=COMMANDS, dataUpdates=DATA)
    parser = Checker(handler)
    # As Python 2 did it: a form feed ends no line.
    lines = NumberedLines([*re.findall(r"[^\n]*\n|[^\n]+", text), ""])
    try:
        parser._stateMachine(lines)
    except (KickstartError, ValueError) as fault:
        # It cannot go on behind this line.
        parser.note("error", fault, lines.number)
    return parser.findings


if __name__ == "__main__":
    print(json.dumps(check(Path(sys.argv[1]).read_text(encoding="utf-8", errors="replace"))))  # noqa: T201 - its answer
