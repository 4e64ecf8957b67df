"""The results of verifications, and the record of them beside each version.

Invariant: one line of `.verified/<version>.jsonl` is one verification, the last one last. A torn last line is left from
a process that was killed; it counts as none.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ValidationError

from builder.errors import PublishError
from builder.system.atomic_file import sync_folder

FOLDER = ".verified"


class Status(StrEnum):
    """What a check of a file has shown."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """What one check of one file has shown; `text` is for people."""

    file: str
    status: Status
    text: str

    def __str__(self) -> str:
        return f"{self.file}: {self.text}"


@dataclass(frozen=True)
class VerificationResult:
    """What reading a version again has shown.

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
        """Whether no check failed."""
        return not self.faults

    @property
    def faults(self) -> tuple[str, ...]:
        """What is not as it was published, one line each."""
        return self._lines(Status.FAILED)

    @property
    def skipped(self) -> tuple[str, ...]:
        """What could not be checked, one line each."""
        return self._lines(Status.SKIPPED)

    @property
    def passed(self) -> tuple[str, ...]:
        """What is as it was published, one line each."""
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
    """Return all verifications of a version on record, the first one first; lines that cannot be read are none."""
    results = []
    try:
        lines = _journal(path).read_bytes().splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            results.append(_Kept.model_validate_json(line).result())
        except ValidationError:
            continue
    return results


class _KeptFinding(BaseModel):
    file: str
    status: Status
    text: str


class _Kept(BaseModel):
    """A line of the record."""

    name: str
    version: str
    when: str
    findings: list[_KeptFinding]
    signers: list[str]

    def result(self) -> VerificationResult:
        findings = tuple(Finding(one.file, one.status, one.text) for one in self.findings)
        return VerificationResult(self.name, self.version, self.when, findings, tuple(self.signers))


def _journal(path: Path) -> Path:
    return path.parent / FOLDER / f"{path.name}.jsonl"


def _add(path: Path, result: VerificationResult) -> None:
    journal = _journal(path)
    journal.parent.mkdir(exist_ok=True)
    handle = os.open(journal, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        size = os.fstat(handle).st_size
        torn = size and os.pread(handle, 1, size - 1) != b"\n"
        os.write(handle, (b"\n" if torn else b"") + json.dumps(asdict(result)).encode() + b"\n")
        os.fsync(handle)
    finally:
        os.close(handle)
    sync_folder(journal.parent)
