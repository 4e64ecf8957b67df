"""Checks of a kickstart's text: what the installer of its release does not understand, refuses, or silently replaces.

CentOS 7.9 has the rehearsal installer's `el7_checker.py` for the syntax, a program of its own, and the rules in
`el7_rules` for the rest;
for other releases ksvalidator checks the syntax with the handler of pykickstart that the installer uses.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

from builder import rehearsal
from builder.errors import HostError
from builder.kickstart import el7_rules
from builder.kickstart.el7_rules import LintFinding
from builder.releases import DEFAULT, RELEASES, Release
from builder.system import process

_ERROR = re.compile(
    r"The following problem occurred on line (\d+) of the kickstart file:\s*\n\s*\n(.+?)\n\s*(?:\n|$)", re.S
)
_DEPRECATED = re.compile(r"^(?:.*Warning: )?(Ignoring deprecated .*? on line (\d+):.*|.*deprecated.*)$", re.M)
CHECKER = Path(rehearsal.__file__).with_name("installer") / "el7_checker.py"


def lint(text: str, release: Release = RELEASES[DEFAULT], *, beside: Collection[str] = ()) -> list[LintFinding]:
    """Return what is wrong with a kickstart, by line, errors and warnings told apart.

    Args:
        beside: names of files that lie beside it, for %ksappend.
    """
    # What is said of the bytes is said once: the parsers get the text without them.
    found = [*el7_rules.encoding(text)]
    plain = text.removeprefix("\ufeff").replace("\r\n", "\n")
    if release.own_checker:
        rules = [*el7_rules.check(plain, beside)]
        # A line of a template is told once, as that: to the parser it is some unknown command.
        unfilled = {finding.line for finding in rules if finding.message.endswith(el7_rules.UNFILLED)}
        found += [finding for finding in _syntax(plain) if finding.line not in unfilled]
        found += rules
    else:
        found += _by_handler(plain, release.handler)
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
        last = (done.error_text.splitlines() or ["it wrote nothing"])[-1]
        return [LintFinding(None, "error", f"the checker stopped, so nothing is known of the rest: {last}")]


def _by_handler(text: str, handler: str) -> list[LintFinding]:
    """Run ksvalidator, and sort what it says: it exits 1 on mere deprecations, too."""
    with tempfile.TemporaryDirectory(prefix="builder-lint-") as folder:
        file = Path(folder) / "ks.cfg"
        file.touch(mode=0o600)
        file.write_text(text, encoding="utf-8")
        beside = Path(sys.executable).with_name("ksvalidator")
        program = beside if beside.exists() else Path("ksvalidator")
        # It makes a copy of its own, with the hash of the password, and forgets it: it goes with our folder.
        done = process.run([program, "-v", handler, file], check=False, timeout=60, env={"TMPDIR": folder})
    said = f"{done.stdout}\n{done.stderr}\n\n"
    found = [LintFinding(int(hit[1]), "error", " ".join(hit[2].split())) for hit in _ERROR.finditer(said)]
    for hit in _DEPRECATED.finditer(said):
        found.append(LintFinding(int(hit[2]) if hit[2] else None, "warning", re.sub(r" on line \d+(?=:)", "", hit[1])))
    if done.status != 0 and not found:
        last = (done.error_text.splitlines() or ["it wrote nothing"])[-1]
        found.append(LintFinding(None, "error", f"the checker stopped, so nothing is known of the rest: {last}"))
    return found
