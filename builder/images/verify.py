"""Verify published versions: read every file again and compare it with what was published.

Invariant: each verification is recorded beside its version (`builder.images.verification_record`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic_core import from_json

from builder.errors import VerifyError
from builder.images import manifest as manifests
from builder.images.catalogue import PROVENANCE, SBOM, SUMS, folders, latest_of, load_image
from builder.images.manifest import LARGEST, MANIFEST, Manifest, ManifestError, Read
from builder.images.verification_record import Finding, Status, VerificationResult, record
from builder.provenance import keys as signing
from builder.provenance import sbom_check, statement
from builder.system.digests import sha256_file
from builder.vm import qcow2

# Of a key's id and of a SHA-256, shown to people.
KEY_DIGITS = 12
SHOWN = 16


class _Findings(list[Finding]):
    """Findings, as they are made."""

    def passed(self, file: str, text: str) -> None:
        self.append(Finding(file, Status.PASSED, text))

    def failed(self, file: str, text: str) -> None:
        self.append(Finding(file, Status.FAILED, text))

    def skipped(self, file: str, text: str) -> None:
        self.append(Finding(file, Status.SKIPPED, text))

    def doubts(self, file: str) -> bool:
        """Return whether something about this file failed or could not be checked."""
        return any(finding.file == file and finding.status is not Status.PASSED for finding in self)

    def fails(self, file: str) -> bool:
        """Return whether something about this file failed."""
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
        latest = latest_of(catalogue / name)
        matches = [one for one in known if (version and one.startswith(version) if at else one == latest)]
        found.append(catalogue / name / matches[0] if len(matches) == 1 else load_image(catalogue, spec).path)
    return found


def verify_version(path: Path, on_progress: Callable[[str], None] = lambda _: None) -> VerificationResult:
    """Hash every file of a version again, compare everything that is written of them, and add a record.

    Args:
        on_progress: called with the name of each file before it is read.

    Raises:
        PublishError: the record cannot be written.
    """
    result = _look(path, on_progress, every_byte=True)
    record(path, result)
    return result


def check_signature(path: Path) -> VerificationResult:
    """Look at all of a version but the bytes of its disk, which would take as long as reading it; adds no record.

    That is enough for an image that was verified when it entered the catalogue: the signature covers the sum of the
    disk, and the disk is named by that sum.
    """
    return _look(path, lambda _: None, every_byte=False)


def _look(path: Path, on_progress: Callable[[str], None], *, every_byte: bool) -> VerificationResult:
    findings = _Findings()
    signers: tuple[str, ...] = ()
    manifest = _manifest(path, findings)
    if manifest is not None:
        facts = manifest.facts
        unread = () if every_byte else (f"{facts.name}.qcow2",)
        _files(path, facts, findings, on_progress, unread)
        _disk(path, findings)
        _sums(path, facts, findings)
        _record(path, manifest, findings)
        _bill(path, facts, findings)
        signers, about_these = _provenance(path, facts, findings)
        _add_passed(facts, findings, signers, about_these=about_these, unread=unread)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    return VerificationResult(path.parent.name, path.name, when, tuple(findings), signers)


def require_signature(result: VerificationResult) -> VerificationResult:
    """Return the same result, with a failure more if no trusted key signed."""
    if result.signers:
        return result
    lacking = Finding("signature", Status.FAILED, "no key that you trust vouches for it")
    return replace(result, findings=(*result.findings, lacking))


def require_signed(path: Path) -> VerificationResult:
    """Look at a version of the catalogue as `check_signature` does, and refuse it unless a trusted key signed it.

    Raises:
        VerifyError: it is not signed, or it is not what was signed.
    """
    result = require_signature(check_signature(path))
    if not result.good:
        spoken = f"{result.name}@{result.version}"
        raise VerifyError(
            f"{spoken} is not signed by a key that you trust",
            "\n".join(result.faults),
            f"builder images verify {spoken} --signed says more; builder keys trust FILE, if you know whose key it is",
        )
    return result


def _manifest(path: Path, findings: _Findings) -> Read | None:
    try:
        return manifests.read(path)
    except FileNotFoundError as fault:
        findings.failed(MANIFEST, f"{fault.strerror}")
    except ManifestError as fault:
        findings.failed(MANIFEST, f"it {fault.why}")
    return None


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


def _files(
    path: Path, facts: Manifest, findings: _Findings, on_progress: Callable[[str], None], unread: Collection[str]
) -> None:
    for name, file in sorted(facts.files.items()):
        on_progress(name)
        try:
            size = (path / name).stat().st_size
            whole = size == file.size
            found = file.sha256 if whole and name in unread else sha256_file(path / name) if whole else None
        except OSError as fault:
            findings.failed(name, f"{fault.strerror}")
            continue
        if found is None:
            findings.failed(name, f"{size} bytes, {file.size} published")
        elif found != file.sha256:
            findings.failed(name, f"sha256 {found[:SHOWN]}…, {file.sha256[:SHOWN]}… published")
    known = {*facts.files, MANIFEST, PROVENANCE, SUMS}
    for name in sorted({one.name for one in path.iterdir()} - known):
        findings.failed(name, "it was added")


def _content(path: Path) -> bytes:
    """Read a file that belongs to a disk.

    Raises:
        ValueError: it is too large to be one.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"it has more than {LARGEST >> 20} MiB")
    return content


def _sums(path: Path, facts: Manifest, findings: _Findings) -> None:
    try:
        lines = _content(path / SUMS).decode().splitlines()
    except (OSError, ValueError):
        findings.failed(SUMS, "it cannot be read")
        return
    sums = {name: sha for sha, _, name in (line.partition("  ") for line in lines)}
    for name in (MANIFEST, PROVENANCE):
        written = sums.pop(name, None)
        if written is None:
            if name == MANIFEST or (path / name).exists():
                findings.failed(SUMS, f"it does not name {name}")
            continue
        try:
            if sha256_file(path / name) != written:
                findings.failed(name, "it is not what was published")
        except OSError as fault:
            findings.failed(name, f"{fault.strerror}")
    if sums != {name: file.sha256 for name, file in facts.files.items()}:
        findings.failed(SUMS, f"it does not say what {MANIFEST} says")


def _record(path: Path, manifest: Read, findings: _Findings) -> None:
    """The proof of the twins: for this very disk, and the same in both places."""
    name, facts = "verify.json", manifest.facts
    if name not in facts.files:
        return
    try:
        proof = from_json(_content(path / name), allow_inf_nan=False)
    except OSError:
        return
    except ValueError:
        proof = None
    disk = facts.files[f"{facts.name}.qcow2"].sha256
    if not isinstance(proof, dict) or proof != manifest.raw.get("verified") or proof.get("sealed") != disk:
        findings.failed(name, "it is not the proof of this disk")


def _bill(path: Path, facts: Manifest, findings: _Findings) -> None:
    """The bill of materials: readable, and of this very disk."""
    if SBOM not in facts.files:
        findings.skipped(SBOM, "published before there was one")
        return
    try:
        wrong = sbom_check.fault(_content(path / SBOM), facts.files[f"{facts.name}.qcow2"].sha256)
    except OSError:
        return
    except ValueError as fault:
        wrong = str(fault)
    if wrong is not None:
        findings.failed(SBOM, wrong)


def _provenance(path: Path, facts: Manifest, findings: _Findings) -> tuple[tuple[str, ...], bool]:
    """Check the statement of provenance.

    Returns:
        Names of the trusted keys that signed it, and whether it is about these very files.
    """
    # Not at the head: every plan loads this module.
    from builder.provenance import dsse

    altered = findings.fails(PROVENANCE)
    keys = {dsse.key_id(public, name): (name, public) for name, public in signing.trusted().items()}
    try:
        opened = dsse.open_(_content(path / PROVENANCE), [public for _, public in keys.values()])
        subjects = statement.subjects(opened.payload)
    except FileNotFoundError:
        _no_provenance(facts, findings)
        return (), False
    except OSError as fault:
        findings.failed(PROVENANCE, f"{fault.strerror}")
        return (), False
    except ValueError:
        findings.failed(PROVENANCE, "it is not a signed statement of provenance")
        return (), False
    for key in opened.wrong:
        findings.failed(PROVENANCE, f"the signature of {keys[key][0]} is wrong")
    if not opened.signers:
        findings.skipped(PROVENANCE, "nobody signed it (builder keys create, before the next build)")
    elif not opened.proved and not opened.wrong:
        who = ", ".join(key[:KEY_DIGITS] for key in opened.signers)
        findings.skipped(PROVENANCE, f"signed by {who}, whom you do not trust (builder keys trust FILE)")
    there = {name: file.sha256 for name, file in facts.files.items()}
    with suppress(OSError):
        there[MANIFEST] = sha256_file(path / MANIFEST)
    others = [name for name in sorted(there) if subjects.get(name) != there[name]]
    for name in others:
        findings.failed(PROVENANCE, f"it is not about this {name}")
    return tuple(keys[key][0] for key in opened.proved), not (others or altered)


def _no_provenance(facts: Manifest, findings: _Findings) -> None:
    """Judge a version without a statement: where it once was, SHA256SUMS or the manifest gives that away."""
    if findings.fails(PROVENANCE):
        return
    if facts.builder is not None or SBOM in facts.files:
        findings.failed(PROVENANCE, "it is missing: the builder that made this image always writes one")
    else:
        findings.skipped(PROVENANCE, "published before there was one")


def _add_passed(
    facts: Manifest,
    findings: _Findings,
    signers: tuple[str, ...],
    *,
    about_these: bool,
    unread: Collection[str],
) -> None:
    """Add what nothing was found against."""
    for name in [*sorted(facts.files), MANIFEST]:
        if not findings.doubts(name) and name not in unread:
            findings.passed(name, "sha256 as published")
    if SBOM in facts.files and not findings.doubts(SBOM):
        findings.passed(SBOM, "CycloneDX, of this disk")
    if about_these:
        findings.passed(PROVENANCE, "of these very files")
    for name in signers:
        findings.passed(PROVENANCE, f"signed by {name}")
