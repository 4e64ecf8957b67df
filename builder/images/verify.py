"""Verify published versions: read every file again and compare it with what was published.

Invariant: each verification is recorded beside its version, as one line appended to `.verified/<version>.jsonl`. A torn
last line, left by a process that was killed, is ignored.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from builder.errors import PublishError
from builder.images.catalogue import LATEST, MANIFEST, PROVENANCE, SBOM, SUMS, VERSION_DIGITS, folders, load_image
from builder.provenance import dsse, sbom_check
from builder.provenance import keys as signing
from builder.system import jsonlines
from builder.system.digests import sha256_file
from builder.vm import qcow2

FOLDER = ".verified"
# Of a key's id and of a SHA-256, shown to people.
KEY_DIGITS = 12
SHOWN = 16


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


class _Findings(list[Finding]):
    """Findings, as they are made."""

    def passed(self, file: str, text: str) -> None:
        self.append(Finding(file, Status.PASSED, text))

    def failed(self, file: str, text: str) -> None:
        self.append(Finding(file, Status.FAILED, text))

    def skipped(self, file: str, text: str) -> None:
        self.append(Finding(file, Status.SKIPPED, text))

    def doubts(self, file: str) -> bool:
        """Whether something about this file failed or could not be checked."""
        return any(finding.file == file and finding.status is not Status.PASSED for finding in self)

    def fails(self, file: str) -> bool:
        """Whether something about this file failed."""
        return any(finding.file == file and finding.status is Status.FAILED for finding in self)


def versions(catalogue: Path, specs: list[str]) -> list[Path]:
    """Folders of the versions meant: `name` is its latest, `name@version` that one; all of all without any.

    A version whose manifest cannot be read is found too.

    Raises:
        PublishError: there is no such image or version.
    """
    if not specs:
        return [catalogue / name / version for name in folders(catalogue) for version in folders(catalogue / name)]
    found = []
    for spec in specs:
        name, at, version = spec.partition("@")
        known = folders(catalogue / name) if name else []
        latest = _latest(catalogue / name)
        matches = [one for one in known if (version and one.startswith(version) if at else one == latest)]
        found.append(catalogue / name / matches[0] if len(matches) == 1 else load_image(catalogue, spec).path)
    return found


def _latest(folder: Path) -> str | None:
    with suppress(OSError):
        return str((folder / LATEST).readlink())
    return None


def verify_version(path: Path, tell: Callable[[str], None] = lambda _: None) -> VerificationResult:
    """Hash every file of a version again, compare everything that is written of them, and add a record.

    Args:
        tell: called with the name of each file before it is read.

    Raises:
        PublishError: the record cannot be written.
    """
    findings = _Findings()
    signers: tuple[str, ...] = ()
    manifest = _manifest(path, findings)
    if manifest is not None:
        _files(path, manifest, findings, tell)
        _disk(path, findings)
        _sums(path, manifest, findings)
        _record(path, manifest, findings)
        _bill(path, manifest, findings)
        signers, about_these = _provenance(path, manifest, findings)
        _add_passed(manifest, findings, signers, about_these=about_these)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    result = VerificationResult(path.parent.name, path.name, when, tuple(findings), signers)
    record(path, result)
    return result


def require_signature(result: VerificationResult) -> VerificationResult:
    """Return the same result, with a failure more if no trusted key signed."""
    if result.signers:
        return result
    lacking = Finding("signature", Status.FAILED, "no key that you trust vouches for it")
    return replace(result, findings=(*result.findings, lacking))


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


def _records(path: Path) -> jsonlines.LinesRead[VerificationResult]:
    try:
        return jsonlines.read(_journal(path), _result)
    except OSError as fault:
        return jsonlines.LinesRead((), (f"{_journal(path)} cannot be read: {fault.strerror}",))


def _result(document: dict[str, Any]) -> VerificationResult:
    findings = tuple(Finding(one["file"], Status(one["status"]), one["text"]) for one in document["findings"])
    head = (document["name"], document["version"], document["when"])
    result = VerificationResult(*head, findings, tuple(document["signers"]))
    texts = [*head, *result.signers, *(text for one in findings for text in (one.file, one.text))]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(document)
    datetime.fromisoformat(result.when)
    return result


def _manifest(path: Path, findings: _Findings) -> dict[str, Any] | None:
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        disk = manifest["files"][f"{path.parent.name}.qcow2"]["sha256"]
        if not all({"size", "sha256"} <= facts.keys() for facts in manifest["files"].values()):
            raise KeyError("size, sha256")
    except OSError as fault:
        findings.failed(MANIFEST, f"{fault.strerror}")
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        findings.failed(MANIFEST, "it is not what was published")
        return None
    if (manifest.get("name"), manifest.get("version")) != (path.parent.name, path.name):
        findings.failed(MANIFEST, f"it belongs to {manifest.get('name')}@{manifest.get('version')}")
    elif disk[:VERSION_DIGITS] != path.name:
        findings.failed(MANIFEST, f"the disk's sha256 {disk} does not begin with the version")
    whole: dict[str, Any] = manifest
    return whole


def _disk(path: Path, findings: _Findings) -> None:
    """The disk's own header: whoever published it, nothing that opens the disk may be led to other files."""
    name = f"{path.parent.name}.qcow2"
    if findings.fails(name):
        return
    try:
        fault = qcow2.fault_of_image(path / name)
    except OSError as error:
        fault = f"{error.strerror}"
    if fault is not None:
        findings.failed(name, fault)


def _files(path: Path, manifest: dict[str, Any], findings: _Findings, tell: Callable[[str], None]) -> None:
    for name, facts in sorted(manifest["files"].items()):
        tell(name)
        try:
            size = (path / name).stat().st_size
            found = sha256_file(path / name) if size == facts["size"] else None
        except OSError as fault:
            findings.failed(name, f"{fault.strerror}")
            continue
        if found is None:
            findings.failed(name, f"{size} bytes, {facts['size']} published")
        elif found != facts["sha256"]:
            was = str(facts["sha256"])
            findings.failed(name, f"sha256 {found[:SHOWN]}…, {was[:SHOWN]}… published")
    known = {*manifest["files"], MANIFEST, PROVENANCE, SUMS}
    for name in sorted({one.name for one in path.iterdir()} - known):
        findings.failed(name, "it was added")


def _sums(path: Path, manifest: dict[str, Any], findings: _Findings) -> None:
    try:
        lines = (path / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        findings.failed(SUMS, "it cannot be read")
        return
    said = {name: sha for sha, _, name in (line.partition("  ") for line in lines)}
    if MANIFEST not in said:
        findings.skipped(MANIFEST, "published before its own sum was written down")
    elif sha256_file(path / MANIFEST) != said.pop(MANIFEST):
        findings.failed(MANIFEST, "it is not what was published")
    statement = said.pop(PROVENANCE, None)
    if statement is not None:
        try:
            if sha256_file(path / PROVENANCE) != statement:
                findings.failed(PROVENANCE, "it is not what was published")
        except OSError as fault:
            findings.failed(PROVENANCE, f"{fault.strerror}")
    if said != {name: facts["sha256"] for name, facts in manifest["files"].items()}:
        findings.failed(SUMS, f"it does not say what {MANIFEST} says")


def _record(path: Path, manifest: dict[str, Any], findings: _Findings) -> None:
    """The proof of the twins: for this very disk, and the same in both places."""
    name = "verify.json"
    if name not in manifest["files"]:
        return
    try:
        told = json.loads((path / name).read_bytes())
    except (OSError, ValueError):
        return
    if (
        told != manifest.get("verified")
        or told.get("sealed") != manifest["files"][f"{path.parent.name}.qcow2"]["sha256"]
    ):
        findings.failed(name, "it is not the proof of this disk")


def _bill(path: Path, manifest: dict[str, Any], findings: _Findings) -> None:
    """The bill of materials: readable, and of this very disk."""
    if SBOM not in manifest["files"]:
        findings.skipped(SBOM, "published before there was one")
        return
    # Dear to load, and needed here only.
    with suppress(OSError):
        wrong = sbom_check.fault((path / SBOM).read_bytes(), manifest["files"][f"{path.parent.name}.qcow2"]["sha256"])
        if wrong is not None:
            findings.failed(SBOM, f"{wrong}")


def _provenance(path: Path, manifest: dict[str, Any], findings: _Findings) -> tuple[tuple[str, ...], bool]:
    """Check the statement of provenance.

    Returns:
        Names of the trusted keys that signed it, and whether it is about these very files.
    """
    altered = findings.fails(PROVENANCE)
    keys = {dsse.key_id(public, name): (name, public) for name, public in signing.trusted().items()}
    try:
        opened = dsse.open_((path / PROVENANCE).read_bytes(), [public for _, public in keys.values()])
        subjects = {one["name"]: one["digest"]["sha256"] for one in json.loads(opened.payload)["subject"]}
    except FileNotFoundError:
        # Where it once was, SHA256SUMS names it.
        if not findings.fails(PROVENANCE):
            findings.skipped(PROVENANCE, "published before there was one")
        return (), False
    except OSError as fault:
        findings.failed(PROVENANCE, f"{fault.strerror}")
        return (), False
    except (ValueError, KeyError, TypeError):
        findings.failed(PROVENANCE, "it is no signed statement")
        return (), False
    for key in opened.wrong:
        findings.failed(PROVENANCE, f"the signature of {keys[key][0]} is wrong")
    if not opened.signers:
        findings.skipped(PROVENANCE, "nobody signed it (builder keys create, before the next build)")
    elif not opened.proved and not opened.wrong:
        who = ", ".join(key[:KEY_DIGITS] for key in opened.signers)
        findings.skipped(PROVENANCE, f"signed by {who}, whom you do not trust (builder keys trust FILE)")
    there = {name: facts["sha256"] for name, facts in manifest["files"].items()}
    with suppress(OSError):
        there[MANIFEST] = sha256_file(path / MANIFEST)
    others = [name for name in sorted(there) if subjects.get(name) != there[name]]
    for name in others:
        findings.failed(PROVENANCE, f"it is not about this {name}")
    return tuple(keys[key][0] for key in opened.proved), not (others or altered)


def _add_passed(manifest: dict[str, Any], findings: _Findings, signers: tuple[str, ...], *, about_these: bool) -> None:
    """Add what nothing was found against."""
    for name in [*sorted(manifest["files"]), MANIFEST]:
        if not findings.doubts(name):
            findings.passed(name, "sha256 as published")
    if SBOM in manifest["files"] and not findings.doubts(SBOM):
        findings.passed(SBOM, "CycloneDX, of this disk")
    if about_these:
        findings.passed(PROVENANCE, "of these very files")
    for name in signers:
        findings.passed(PROVENANCE, f"signed by {name}")


def _journal(path: Path) -> Path:
    return path.parent / FOLDER / f"{path.name}.jsonl"


def _add(path: Path, result: VerificationResult) -> None:
    journal = _journal(path)
    journal.parent.mkdir(exist_ok=True)
    jsonlines.append(journal, asdict(result), 0o644)
