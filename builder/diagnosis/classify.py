"""Classification of failures: one named cause, with the line that names it and where that line was read.

What the words of other programs mean is in `builder.diagnosis.patterns`; here is only how they are looked for, and what
the end of a machine means without any words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from builder.diagnosis.causes import CAUSES
from builder.diagnosis.patterns import PATTERNS, Origin, Pattern
from builder.errors import BuilderError, Cause, Diagnosis, Source, cause_of
from builder.vm.machine import Ending

Error = TypeVar("Error", bound=BuilderError)
FOLDED = re.compile(r"\s+")
# What follows the words of a failure on an installer's screen, and does not belong to them.
PROMPT = re.compile(r"(?<=\S) (?:Press (?:enter to exit\.|ENTER to exit)|Please respond 'yes').*")
# What an ending means when no words explain it.
ENDINGS = {
    "reset": Cause.REBOOT,
    "crashed": Cause.KERNEL_PANIC,
    "time limit": Cause.TIME_LIMIT,
    "watch": Cause.STALLED,
}


@dataclass(frozen=True)
class Verdict:
    """A named cause, the words that name it, and where they were read.

    Args:
        shown: the same words in the lines in which they were written; empty when they are not a quotation.
    """

    cause: Cause
    line: str
    source: Source
    shown: str = ""

    @property
    def words(self) -> str:
        """The words for people."""
        return self.shown or self.line

    @property
    def brief(self) -> str:
        """Describe the failure for people."""
        return CAUSES[self.cause].brief

    def to_error(self, kind: type[Error], role: str, details: str = "") -> Error:
        """Return the error to raise.

        Args:
            role: the machine that failed: in front of the brief line, and of the names of its evidence.
            details: instead of the words alone.
        """
        text = CAUSES[self.cause]
        error = kind(f"{role}: {text.brief}", details or self.words, text.hint)
        error.diagnosis = Diagnosis(self.cause, self.line, self.source, role)
        return error


def classify(
    text: str, source: Source, origin: Origin = Origin.INSTALLER, *, conclusive: bool = True
) -> Verdict | None:
    """Return the verdict of the first pattern that matches; None when none does.

    Args:
        text: of a console (cleaned), a log, or an error message.
        source: where the text is from.
        origin: whose words they are.
        conclusive: look for what proves that it is over; False takes explanations, too.
    """
    match = _first_match(FOLDED.sub(" ", text), origin, conclusive)
    return Verdict(match[0].cause, match[1], source, _as_shown(match[1], text)) if match else None


def _as_shown(line: str, text: str) -> str:
    """Return the lines in which these words are written in the text, without empty ones."""
    match = re.search(r"\s+".join(map(re.escape, line.split())), text)
    return "\n".join(part.strip() for part in match[0].splitlines() if part.strip()) if match else line


def _first_match(folded: str, origin: Origin, conclusive: bool) -> tuple[Pattern, str] | None:
    for pattern in PATTERNS:
        if pattern.origin is origin and (pattern.conclusive or not conclusive):
            match = pattern.regex.search(folded)
            if match:
                return pattern, PROMPT.sub("", match[0]).strip()
    return None


def of_ending(
    ending: Ending,
    texts: Mapping[Source, str],
    qemu_log: str,
    *,
    oom: bool = False,
    origin: Origin = Origin.INSTALLER,
) -> Verdict:
    """Classify the end of a machine that should not have ended like this (or not at all).

    Args:
        texts: what the guest wrote, by source; the first that explains something counts.
        qemu_log: what QEMU and libvirt noted of this machine.
        oom: the host's kernel killed something for its memory while the machine ran.
    """
    if ending.how in ("failed", "destroyed"):
        return _of_qemu(ending, qemu_log, oom)
    if ending.how == "disk":
        return Verdict(ending.cause or Cause.DISK_ERROR, ending.reason, Source.LIBVIRT)
    for source, text in texts.items():
        explained = classify(text, source, origin, conclusive=False)
        if explained:
            return explained
    return Verdict(ENDINGS.get(ending.how, Cause.NO_MARKER), ending.reason, Source.LIBVIRT)


def _of_qemu(ending: Ending, log: str, oom: bool) -> Verdict:
    """Classify the end of a QEMU that is gone: no child of ours, so only its log and the kernel's count explain it."""
    if oom and ending.how == "failed":
        return Verdict(Cause.QEMU_OUT_OF_MEMORY, "oom_kill in /proc/vmstat went up while it ran", Source.KERNEL)
    logged = classify(log, Source.QEMU_LOG, Origin.HOST)
    if logged is not None and not (logged.cause is Cause.QEMU_KILLED and "libvirtd" in logged.line):
        return logged
    if ending.how == "destroyed":
        line, source = (logged.line, Source.QEMU_LOG) if logged else (ending.reason, Source.LIBVIRT)
        return Verdict(Cause.MACHINE_ENDED, line, source)
    return Verdict(Cause.QEMU_KILLED, "no last words in qemu.log: SIGKILL, or a crash", Source.QEMU_LOG)


def diagnose(error: BuilderError) -> BuilderError:
    """Give an error its cause, if it has none yet and one is known.

    It is the cause of the output that the error carries, or that of the error from which it was raised.
    """
    if error.diagnosis.cause is None:
        diagnosis = _of_output(error) or _of_origin(error)
        if diagnosis is not None:
            error.diagnosis = replace(diagnosis, role=error.diagnosis.role or diagnosis.role)
    return error


def _of_output(error: BuilderError) -> Diagnosis | None:
    verdict = classify(error.output, Source.PROGRAM, Origin.HOST) if error.output else None
    return Diagnosis(verdict.cause, verdict.line, verdict.source) if verdict else None


def _of_origin(error: BuilderError) -> Diagnosis | None:
    # `from None` hides an OSError from people, but its number still names the cause.
    origin = error.__cause__ or error.__context__
    if isinstance(origin, OSError):
        cause = cause_of(origin)
        return Diagnosis(cause, error.brief, Source.PROGRAM) if cause else None
    if isinstance(error.__cause__, BuilderError):
        inner = diagnose(error.__cause__).diagnosis
        return inner if inner.cause else None
    return None
