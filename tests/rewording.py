"""Rewrite every text that builder itself writes for people: errors, reasons, findings, and the table of causes.

What other programs write (`BuilderError.output`, consoles, logs) stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from builder.diagnosis import classify
from builder.diagnosis.causes import CAUSES, CauseText
from builder.errors import BuilderError
from builder.images.verification_record import Finding
from builder.kickstart.preflight import Mismatch
from builder.stage import Reason
from builder.vm.machine import Ending

# Other vowels, other punctuation, other capitals.
_OTHER = str.maketrans("aeiou:,.;()'", "uoaei;!?:[]`")
MARK = "¶ "


def reword(text: str) -> str:
    """Return another text in its place; reworded once, a text stays as it is."""
    return text if text.startswith(MARK) or not text else MARK + text.translate(_OTHER).swapcase()


def rewrite_all(replace: Callable[[Any, str, Any], None] = setattr) -> None:
    """Rewrite all texts from now on.

    Args:
        replace: sets an attribute of a class; `monkeypatch.setattr` takes it back after a test.
    """
    error, finding, ending = BuilderError.__init__, Finding.__init__, Ending.__init__
    mismatch = Mismatch.__init__
    causes = {cause: CauseText(reword(text.brief), reword(text.hint)) for cause, text in CAUSES.items()}

    def new_error(self: BuilderError, brief: str, details: str = "", hint: str = "", **facts: Any) -> None:
        error(self, reword(brief), reword(details), reword(hint), **facts)

    def new_finding(self: Finding, file: str, status: Any, text: str) -> None:
        finding(self, file, status, reword(text))

    def new_ending(self: Ending, how: Any, seconds: float, reason: str, cause: Any = None) -> None:
        ending(self, how, seconds, reword(reason), cause)

    def new_mismatch(self: Mismatch, message: str, cause: Any = None, line: int | None = None) -> None:
        mismatch(self, reword(message), cause, line)

    replace(BuilderError, "__init__", new_error)
    replace(Finding, "__init__", new_finding)
    replace(Ending, "__init__", new_ending)
    replace(Reason, "__new__", lambda cls, kind, text: tuple.__new__(cls, (kind, reword(text))))
    replace(Mismatch, "__init__", new_mismatch)
    replace(classify, "CAUSES", causes)
