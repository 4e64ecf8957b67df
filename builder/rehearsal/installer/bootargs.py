# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""Parse the kernel command line; the last of several values wins, as in dracut and Anaconda.

A kickstart's location is the exception: `ks=`, where it counts, comes before every `inst.ks=`.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection
from dataclasses import dataclass, field

# Carried over from the installer's command line to the installed system's (Anaconda's bootloader.py).
PRESERVED = (
    *("cio_ignore", "speakup_synth", "apic", "noapic", "apm", "ide", "noht", "acpi", "video", "pci", "nodmraid"),
    *("nompath", "nomodeset", "noiswmd", "fips", "selinux", "biosdevname", "ipv6.disable", "net.ifnames"),
    *("net.ifnames.prefix", "nosmt"),
)


@dataclass(frozen=True)
class BootArgs:
    """Options of the kernel command line.

    Args:
        words: in order, (name, value or None).
        bare: options of the installer count without inst., too.
    """

    words: tuple[tuple[str, str | None], ...] = field(default=())
    bare: bool = True

    def last(self, *names: str) -> str | None:
        """The value of the last word with one of these names."""
        values = [value for name, value in self.words if name in names and value is not None]
        return values[-1] if values else None

    def given(self, *names: str) -> bool:
        """Is one of these words there, with or without a value?"""
        return any(name in names for name, _ in self.words)

    def option(self, name: str) -> bool:
        """Is this option of the installer there?"""
        return self.given(f"inst.{name}", *([name] if self.bare else []))

    @property
    def kickstart(self) -> str | None:
        """The kickstart's location: that of the last `ks`, and only without one that of the last `inst.ks`.

        A last one without a value means nfs:auto, one with an empty value is as good as none. (Anaconda, rhel7-branch,
        dracut/parse-anaconda-kickstart.sh: `getarg ks= inst.ks=`; dracut 033, dracut-lib.sh: _dogetarg.)
        """
        for name in ("ks", "inst.ks") if self.bare else ("inst.ks",):
            values = [value for word, value in self.words if word == name]
            if values and values[-1] != "":
                return "nfs:auto" if values[-1] is None else values[-1]
        return None

    @property
    def console(self) -> str | None:
        """The last console=: where the installer talks, and what the installed system inherits."""
        return self.last("console")

    @property
    def serial(self) -> bool:
        """The console is a serial line."""
        return (self.console or "").startswith("ttyS")

    @property
    def nosave(self) -> frozenset[str]:
        """Files that inst.nosave forbids to copy: of `input_ks`, `output_ks`, `logs`."""
        words = set((self.last("inst.nosave") or "").split(","))
        if "all" in words:
            return frozenset({"input_ks", "output_ks", "logs"})
        if "all_ks" in words:
            words |= {"input_ks", "output_ks"}
        return frozenset(words & {"input_ks", "output_ks", "logs"})

    @property
    def patience(self) -> float:
        """Seconds of every wait that Anaconda and dracut limit to 180: `rehearsal.wait=SECONDS` is for tests only."""
        return float(self.last("rehearsal.wait") or 180)

    def preserved(self, more: Collection[str] = ()) -> list[str]:
        """The words that the installed system's kernel line gets from the installer's: of each the last.

        Args:
            more: names beside those that all releases take over.
        """
        kept = []
        for name, value in dict(self.words).items():
            if name in PRESERVED or name in more:
                kept.append(name if value is None else f"{name}={value}")
        return list(dict.fromkeys(kept))


def parse(text: str, *, bare: bool = True) -> BootArgs:
    """Read a kernel command line; quotes hold a word together as the kernel has it.

    Args:
        bare: options of the installer count without inst., too.
    """
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    lexer.escape = ""
    lexer.quotes = '"'
    words = []
    for word in lexer:
        name, sign, value = word.partition("=")
        words.append((name, value if sign else None))
    return BootArgs(tuple(words), bare)
