"""The results of verifications, and the record of them beside each version.

Invariant: one line of `.verified/<version>.jsonl` is one verification, the last one last. A torn last line is left from
a process that was killed; it counts as none.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel

from builder.errors import PublishError
from builder.system import jsonlines

FOLDER = ".verified"


class Status(StrEnum):
    """Outcome of checking a file."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """Finding of one check of one file; `text` is for people."""

    file: str
    status: Status
    text: str

    def __str__(self) -> str:
        return f"{self.file}: {self.text}"


@dataclass(frozen=True)
class VerificationResult:
    """Result of verifying a published version again.

    Args:
        when: UTC, ISO 8601.
        findings: of all checks, failed and skipped ones first.
        signers: names of the trusted keys that signed where it comes from.
    """

    name: str
    version: str
    when: str
    findings: tuple[Finding, ...]
    signers: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """True if no check failed."""
        return not self.faults

    @property
    def faults(self) -> tuple[str, ...]:
        """Failed checks, one line each."""
        return self._lines(Status.FAILED)

    @property
    def skipped(self) -> tuple[str, ...]:
        """Skipped checks, one line each."""
        return self._lines(Status.SKIPPED)

    @property
    def passed(self) -> tuple[str, ...]:
        """Passed checks, one line each."""
        return self._lines(Status.PASSED)

    def _lines(self, status: Status) -> tuple[str, ...]:
        return tuple(str(finding) for finding in self.findings if finding.status is status)


def record(path: Path, result: VerificationResult) -> None:
    """Write down, beside a version, that it was verified.

    Raises:
        PublishError: the record cannot be written.
    """
    try:
        _add(path, result)
    except OSError as fault:
        raise PublishError(f"the record of {path} cannot be written: {fault.strerror}", str(fault)) from fault


def verifications(path: Path) -> list[VerificationResult]:
    """Return all verifications of a version on record, the first one first."""
    return list(_records(path).entries)


def unreadable_verifications(path: Path) -> list[str]:
    """Return the records that cannot be read and are passed over, a text for people each."""
    return list(_records(path).unreadable)


class _KeptFinding(BaseModel):
    file: str
    status: Status
    text: str


class _KeptRecord(BaseModel):
    """A line of the record."""

    name: str
    version: str
    when: str
    findings: list[_KeptFinding]
    signers: list[str]

    def result(self) -> VerificationResult:
        datetime.fromisoformat(self.when)
        findings = tuple(Finding(one.file, one.status, one.text) for one in self.findings)
        return VerificationResult(self.name, self.version, self.when, findings, tuple(self.signers))


def _journal(path: Path) -> Path:
    return path.parent / FOLDER / f"{path.name}.jsonl"


def _records(path: Path) -> jsonlines.LinesRead[VerificationResult]:
    try:
        return jsonlines.read(_journal(path), lambda entry: _KeptRecord.model_validate(entry).result())
    except OSError as fault:
        return jsonlines.LinesRead((), (f"{_journal(path)} cannot be read: {fault.strerror}",))


def _add(path: Path, result: VerificationResult) -> None:
    journal = _journal(path)
    journal.parent.mkdir(exist_ok=True)
    jsonlines.append(journal, asdict(result), 0o644)
