"""The one rule: every failure gets one named cause, with the line that told it and where that line was.

What the words mean is in `builder.diagnosis.causes`; here is only how they are looked for, and what an ending without
any words means.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from builder.diagnosis.causes import CAUSES, SIGNS, Cause, Sign, Speaker
from builder.errors import BuilderError, Proof
from builder.vm.machine import Ending

Fault = TypeVar("Fault", bound=BuilderError)
FOLDED = re.compile(r"\s+")
# What follows the words of a fault on an installer's screen, and is none of them.
PROMPT = re.compile(r"(?<=\S) (?:Press enter to exit\.|Please respond 'yes').*")
# What an ending means when no word explains it.
ENDINGS = {
    "reset": "reboot",
    "crashed": "kernel panic",
    "time limit": "time limit",
    "watch": "stalled",
}


@dataclass(frozen=True)
class Verdict:
    """A named cause, the words that tell it, and where they were found.

    Args:
        shown: the same words in the lines in which they stood; empty when they are no quotation.
    """

    cause: Cause
    line: str
    source: str
    shown: str = ""

    @property
    def words(self) -> str:
        """The words for people."""
        return self.shown or self.line

    @property
    def proof(self) -> Proof:
        """For the fault that is raised."""
        return Proof(self.cause.name, self.line, self.source, self.cause.transient)

    def told(self, kind: type[Fault], who: str, details: str = "") -> Fault:
        """The fault to raise.

        Args:
            who: whose fault it is, in front of the brief line.
            details: instead of the words alone.
        """
        fault = kind(f"{who}: {self.cause.brief}", details or self.words, self.cause.hint)
        fault.proof = self.proof
        return fault


def judge(text: str, source: str, speaker: Speaker = "installer", *, proof: bool = True) -> Verdict | None:
    """The first sign of the table that is in the text; None when there is none.

    Args:
        text: of a console (cleaned), a log, or an error message.
        source: where the text is from, for people.
        speaker: whose words they are.
        proof: look for what proves that it is over; False takes explanations, too.
    """
    found = _first(FOLDED.sub(" ", text), speaker, proof)
    return Verdict(CAUSES[found[0].cause], found[1], source, _as_shown(found[1], text)) if found else None


def _as_shown(line: str, text: str) -> str:
    """The lines in which these words stand in the text, without empty ones."""
    found = re.search(r"\s+".join(map(re.escape, line.split())), text)
    return "\n".join(part.strip() for part in found[0].splitlines() if part.strip()) if found else line


def _first(folded: str, speaker: Speaker, proof: bool) -> tuple[Sign, str] | None:
    for sign in SIGNS:
        if sign.speaker == speaker and (sign.proof or not proof):
            match = sign.pattern.search(folded)
            if match:
                return sign, PROMPT.sub("", match[0]).strip()
    return None


def of_ending(
    ending: Ending, texts: Mapping[str, str], qemu_log: str, *, oom: bool = False, speaker: Speaker = "installer"
) -> Verdict:
    """What the end of a machine means that should not have ended like this (or not at all).

    Args:
        texts: what the guest said, by source; the first that explains something counts.
        qemu_log: what QEMU and libvirt noted of this machine.
        oom: the host's kernel killed something for its memory while the machine ran.
    """
    if ending.how in ("failed", "destroyed"):
        return _of_qemu(ending, qemu_log, oom)
    if ending.how == "disk":
        return judge(ending.reason, "libvirt", "host") or Verdict(CAUSES["disk error"], ending.reason, "libvirt")
    for source, text in texts.items():
        explained = judge(text, source, speaker, proof=False)
        if explained:
            return explained
    return Verdict(CAUSES[ENDINGS.get(ending.how, "no marker")], ending.reason, "libvirt")


def _of_qemu(ending: Ending, log: str, oom: bool) -> Verdict:
    """QEMU is gone. It is no child of ours, so its exit status is hidden; its log and the kernel's count tell."""
    if oom and ending.how == "failed":
        return Verdict(CAUSES["QEMU out of memory"], "oom_kill in /proc/vmstat went up while it ran", "kernel")
    said = judge(log, "qemu.log", "host")
    if said is not None and not (said.cause.name == "QEMU killed" and "libvirtd" in said.line):
        return said
    if ending.how == "destroyed":
        return Verdict(CAUSES["machine ended"], said.line if said else ending.reason, "qemu.log" if said else "libvirt")
    return Verdict(CAUSES["QEMU killed"], "no last words in qemu.log: SIGKILL, or a crash", "qemu.log")


def name(fault: BuilderError) -> BuilderError:
    """Give a fault of this host its cause, if it has none yet and its words are known."""
    if not fault.proof.cause:
        found = judge(f"{fault.brief}\n{fault.details}", fault.kind, "host")
        if found is not None:
            fault.proof = found.proof
    return fault
