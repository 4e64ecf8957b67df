"""Checks of a kickstart's text: what the installer of CentOS 7.9 does not understand, refuses, or silently replaces.

The syntax is checked by `el7_checker.py`, a program of its own; the rest are the rules in `el7_rules`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

from builder.errors import HostError
from builder.kickstart import el7_rules
from builder.kickstart.el7_rules import LintFinding
from builder.system import process

CHECKER = Path(__file__).with_name("el7_checker.py")


def lint(text: str, *, beside: Collection[str] = ()) -> list[LintFinding]:
    """Return what is wrong with a kickstart, by line, errors and warnings told apart.

    Args:
        beside: names of files that lie beside it, for %ksappend.
    """
    # What is said of the bytes is said once: the parsers get the text without them.
    found = [*el7_rules.encoding(text)]
    plain = text.removeprefix("\ufeff").replace("\r\n", "\n")
    found += _syntax(plain)
    found += el7_rules.check(plain, beside)
    return sorted(dict.fromkeys(found), key=lambda finding: (finding.line or 0, finding.severity))


def errors(findings: Collection[LintFinding]) -> list[LintFinding]:
    """Return those that the installer would stop at, or that would spoil the result."""
    return [finding for finding in findings if finding.severity == "error"]


def _syntax(text: str) -> list[LintFinding]:
    """Run the checker. pykickstart is GPL, so it is run as a program and never imported here."""
    with tempfile.TemporaryDirectory(prefix="builder-lint-") as folder:
        file = Path(folder) / "ks.cfg"
        file.touch(mode=0o600)
        file.write_text(text, encoding="utf-8")
        argv: list[str | Path] = [sys.executable, "-I", CHECKER, file]
        done = process.run(argv, check=False, timeout=60, error=HostError, env={"TMPDIR": folder})
    try:
        if done.status != 0:
            raise ValueError(f"exit status {done.status}")
        return [LintFinding(one["line"], one["severity"], one["message"]) for one in json.loads(done.stdout)]
    except (ValueError, KeyError, TypeError):
        # It has not said that the kickstart is right: what it did say may be a traceback.
        last = (done.said.splitlines() or ["it wrote nothing"])[-1]
        return [LintFinding(None, "error", f"the checker stopped, so nothing is known of the rest: {last}")]
