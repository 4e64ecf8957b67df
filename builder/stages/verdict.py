"""The one rule: a line that proves a failure is in this table, with where its words come from.

The texts are those of Anaconda 21.48.22.159 (RHEL 7.9: pyanaconda/errors.py, kickstart.py, ui/tui), of dracut 033 and
of the kernel; the console shows them through tmux, so they may be wrapped at 80 columns.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Sign:
    """Words that prove a failure.

    Args:
        pattern: searched in the text of the console and of the installer's log, with every run of white space
            folded to one blank.
        cause: what it means, for people.
        hint: what to do.
    """

    pattern: re.Pattern[str]
    cause: str
    hint: str


@dataclass(frozen=True)
class Verdict:
    """A named cause, the words that prove it, and what to do."""

    cause: str
    line: str
    hint: str


def _sign(pattern: str, cause: str, hint: str) -> Sign:
    return Sign(re.compile(pattern), cause, hint)


SIGNS = (
    _sign(
        r"The following problem occurred on line \d+ of the kickstart file: .{0,160}",
        "the installer refuses the kickstart",
        "mend the template at that line; `builder kickstart lint` finds most of these before a machine starts",
    ),
    _sign(
        r"You have specified that the package '[^']*' should be installed\. This package does not exist",
        "a package is not on the medium",
        "remove it from kickstart.vars.packages, or use a medium that has it",
    ),
    _sign(r"Missing package: \S+", "a package is not on the medium", "remove it, or use a medium that has it"),
    _sign(
        r"You have specified that the group '[^']*' should be installed\. This group does not exist",
        "a package group is not on the medium",
        "remove it, or use a medium that has it",
    ),
    _sign(
        r"The following errors? occurred with your partitioning: .{0,200}",
        "the disk cannot be partitioned as the kickstart says",
        "compare the part lines with disk.size of the recipe",
    ),
    _sign(
        r"Not enough space in file systems for the current software selection\. .{0,80}",
        "the disk is too small for the packages",
        "raise disk.size of the recipe",
    ),
    _sign(
        r"There was an error running the kickstart script at line \d+.{0,200}",
        "a script of the kickstart failed",
        "its output is in anaconda.log and on the console",
    ),
    _sign(
        r"The following mandatory spokes are not completed: .{0,100}",
        "the kickstart leaves a mandatory item open",
        "add the missing command (rootpw, a disk, a package source)",
    ),
    _sign(
        r"Please make your choice from above \['q' to quit \| 'b' to begin installation",
        "the installer waits at its menu: the kickstart leaves a mandatory item open",
        "the item marked [!] on the console is missing from the kickstart",
    ),
    _sign(
        r"The following error occurred while installing\. This is a fatal error.{0,160}",
        "the packages could not be installed",
        "see anaconda.log",
    ),
    _sign(r"requires \d+ MB of memory to install", "the machine has too little memory", "raise machine.memory"),
    _sign(
        r"An unknown error has occured, look at the /tmp/anaconda-tb",
        "the installer crashed",
        "see anaconda.log for its traceback",
    ),
    _sign(r"Traceback \(most recent call last\)", "the installer crashed", "see anaconda.log for its traceback"),
    _sign(r"Pane is dead", "the installer ended by itself", "see the console above that line"),
    _sign(
        r"Please insert CDROM containing '[^']*'",
        "the kickstart is not on the medium",
        "the medium and inst.ks= do not fit",
    ),
    _sign(r"Can't get kickstart from \S+", "the kickstart was not found", "the medium and inst.ks= do not fit"),
    _sign(r"CD check failed!", "the medium check failed", "the medium is damaged, or was changed without a new md5"),
    _sign(
        r"dracut-initqueue timeout - starting timeout scripts",
        "the installer does not find its medium",
        "LABEL= on its command line and the volume id of the medium must be the same",
    ),
    _sign(r"Entering emergency mode\.", "the installer fell into its emergency shell", "see the console above it"),
    _sign(r"Kernel panic - not syncing: .{0,100}", "the guest's kernel panicked", "see the console above it"),
    _sign(
        r"Installation complete\. Press return to quit",
        "the installer is done, but the kickstart does not end the machine",
        "end the kickstart with `poweroff`",
    ),
)


def judge(text: str) -> Verdict | None:
    """The first sign of the table that is in the text; None when there is none.

    Args:
        text: of the console (cleaned) or of the installer's log.
    """
    folded = " ".join(text.split())
    for sign in SIGNS:
        found = sign.pattern.search(folded)
        if found:
            return Verdict(sign.cause, found[0].strip(), sign.hint)
    return None
