"""The one rule: a version is proved by reading its bytes again, and each proof is written down beside it.

`.verified/<version>.jsonl`: one line a proof, the last one last. A torn last line is left from a process that was
killed; it counts as none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from builder.errors import PublishError
from builder.images.catalogue import LATEST, MANIFEST, PROVENANCE, SBOM, SUMS, VERSION_DIGITS, folders, load_image
from builder.provenance import dsse, sbom_check
from builder.provenance import keys as signing
from builder.system.atomic_file import sync_folder
from builder.system.digests import sha256_file

FOLDER = ".verified"
# Of a key's id and of a SHA-256, shown to people.
KEY_DIGITS = 12
SHOWN = 16


@dataclass(frozen=True)
class Proof:
    """What reading a version again has shown.

    Args:
        when: UTC, ISO 8601.
        faults: one line each; none when all is as it was published.
        unproven: what could not be told, one line each.
        signers: names of the trusted keys that signed where it comes from.
        proved: what reading has shown to be right, one line each.
    """

    name: str
    version: str
    when: str
    faults: tuple[str, ...]
    unproven: tuple[str, ...] = ()
    signers: tuple[str, ...] = ()
    proved: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Nothing was found."""
        return not self.faults


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


def prove(path: Path, tell: Callable[[str], None] = lambda _: None) -> Proof:
    """Hash every file of a version again, compare all that is said of them, and add a record.

    Args:
        tell: called with the name of each file before it is read.

    Raises:
        PublishError: the record cannot be written.
    """
    faults: list[str] = []
    unproven: list[str] = []
    signers: tuple[str, ...] = ()
    proved: tuple[str, ...] = ()
    manifest = _manifest(path, faults)
    if manifest is not None:
        _files(path, manifest, faults, tell)
        _sums(path, manifest, faults, unproven)
        _record(path, manifest, faults)
        _bill(path, manifest, faults, unproven)
        signers = _provenance(path, manifest, faults, unproven)
        proved = _proved(path, manifest, [*faults, *unproven], signers)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    proof = Proof(path.parent.name, path.name, when, tuple(faults), tuple(unproven), signers, proved)
    record(path, proof)
    return proof


def require_signature(proof: Proof) -> Proof:
    """Add a fault to a proof that no trusted key has signed."""
    if proof.signers:
        return proof
    return replace(proof, faults=(*proof.faults, "signature: no key that you trust vouches for it"))


def record(path: Path, proof: Proof) -> None:
    """Write down, beside a version, that it was proved.

    Raises:
        PublishError: the record cannot be written.
    """
    try:
        _add(path, proof)
    except OSError as fault:
        raise PublishError(f"the record of {path} cannot be written: {fault.strerror}", str(fault)) from fault


def proofs(path: Path) -> list[Proof]:
    """All proofs of a version on record, the first one first."""
    found = []
    try:
        lines = _journal(path).read_bytes().splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            told = json.loads(line)
            lists = [tuple(told.get(one, ())) for one in ("faults", "unproven", "signers", "proved")]
            found.append(Proof(told["name"], told["version"], told["when"], *lists))
        except (ValueError, TypeError, KeyError):
            continue
    return found


def _manifest(path: Path, faults: list[str]) -> dict[str, Any] | None:
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        disk = manifest["files"][f"{path.parent.name}.qcow2"]["sha256"]
        if not all({"size", "sha256"} <= facts.keys() for facts in manifest["files"].values()):
            raise KeyError("size, sha256")
    except OSError as fault:
        faults.append(f"{MANIFEST}: {fault.strerror}")
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        faults.append(f"{MANIFEST}: it is not what was published")
        return None
    if (manifest.get("name"), manifest.get("version")) != (path.parent.name, path.name):
        faults.append(f"{MANIFEST}: it belongs to {manifest.get('name')}@{manifest.get('version')}")
    elif disk[:VERSION_DIGITS] != path.name:
        faults.append(f"{MANIFEST}: the disk's sha256 {disk} does not begin with the version")
    whole: dict[str, Any] = manifest
    return whole


def _files(path: Path, manifest: dict[str, Any], faults: list[str], tell: Callable[[str], None]) -> None:
    for name, facts in sorted(manifest["files"].items()):
        tell(name)
        try:
            size = (path / name).stat().st_size
            found = sha256_file(path / name) if size == facts["size"] else None
        except OSError as fault:
            faults.append(f"{name}: {fault.strerror}")
            continue
        if found is None:
            faults.append(f"{name}: {size} bytes, {facts['size']} published")
        elif found != facts["sha256"]:
            was = str(facts["sha256"])
            faults.append(f"{name}: sha256 {found[:SHOWN]}…, {was[:SHOWN]}… published")
    known = {*manifest["files"], MANIFEST, PROVENANCE, SUMS}
    faults += [f"{name}: it was added" for name in sorted({one.name for one in path.iterdir()} - known)]


def _sums(path: Path, manifest: dict[str, Any], faults: list[str], unproven: list[str]) -> None:
    try:
        lines = (path / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        faults.append(f"{SUMS}: it cannot be read")
        return
    said = {name: sha for sha, _, name in (line.partition("  ") for line in lines)}
    if MANIFEST not in said:
        unproven.append(f"{MANIFEST}: published before its own sum was written down")
    elif sha256_file(path / MANIFEST) != said.pop(MANIFEST):
        faults.append(f"{MANIFEST}: it is not what was published")
    statement = said.pop(PROVENANCE, None)
    if statement is not None:
        try:
            if sha256_file(path / PROVENANCE) != statement:
                faults.append(f"{PROVENANCE}: it is not what was published")
        except OSError as fault:
            faults.append(f"{PROVENANCE}: {fault.strerror}")
    if said != {name: facts["sha256"] for name, facts in manifest["files"].items()}:
        faults.append(f"{SUMS}: it does not say what {MANIFEST} says")


def _record(path: Path, manifest: dict[str, Any], faults: list[str]) -> None:
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
        faults.append(f"{name}: it is not the proof of this disk")


def _bill(path: Path, manifest: dict[str, Any], faults: list[str], unproven: list[str]) -> None:
    """The bill of materials: readable, and of this very disk."""
    if SBOM not in manifest["files"]:
        unproven.append(f"{SBOM}: published before there was one")
        return
    # Dear to load, and needed here only.
    with suppress(OSError):
        wrong = sbom_check.fault((path / SBOM).read_bytes(), manifest["files"][f"{path.parent.name}.qcow2"]["sha256"])
        if wrong is not None:
            faults.append(f"{SBOM}: {wrong}")


def _provenance(path: Path, manifest: dict[str, Any], faults: list[str], unproven: list[str]) -> tuple[str, ...]:
    """The statement of provenance: of these very files, and signed by whom; the trusted ones of those."""
    keys = {dsse.key_id(public, name): (name, public) for name, public in signing.trusted().items()}
    try:
        opened = dsse.open_((path / PROVENANCE).read_bytes(), [public for _, public in keys.values()])
        subjects = {one["name"]: one["digest"]["sha256"] for one in json.loads(opened.payload)["subject"]}
    except FileNotFoundError:
        # Where it once was, SHA256SUMS names it.
        if not any(line.startswith(PROVENANCE) for line in faults):
            unproven.append(f"{PROVENANCE}: published before there was one")
        return ()
    except OSError as fault:
        faults.append(f"{PROVENANCE}: {fault.strerror}")
        return ()
    except (ValueError, KeyError, TypeError):
        faults.append(f"{PROVENANCE}: it is no signed statement")
        return ()
    faults += [f"{PROVENANCE}: the signature of {keys[key][0]} is wrong" for key in opened.wrong]
    if not opened.signers:
        unproven.append(f"{PROVENANCE}: nobody signed it (builder keys create, before the next build)")
    elif not opened.proved and not opened.wrong:
        who = ", ".join(key[:KEY_DIGITS] for key in opened.signers)
        unproven.append(f"{PROVENANCE}: signed by {who}, whom you do not trust (builder keys trust FILE)")
    there = {name: facts["sha256"] for name, facts in manifest["files"].items()}
    with suppress(OSError):
        there[MANIFEST] = sha256_file(path / MANIFEST)
    faults += [
        f"{PROVENANCE}: it is not about this {name}" for name in sorted(there) if subjects.get(name) != there[name]
    ]
    return tuple(keys[key][0] for key in opened.proved)


def _proved(path: Path, manifest: dict[str, Any], told: list[str], signers: tuple[str, ...]) -> tuple[str, ...]:
    """What nothing was said against; `told` are all faults and what could not be proved."""
    doubted = {line.partition(":")[0] for line in told}
    lines = [f"{name}: sha256 as published" for name in [*sorted(manifest["files"]), MANIFEST] if name not in doubted]
    if SBOM in manifest["files"] and SBOM not in doubted:
        lines.append(f"{SBOM}: CycloneDX, of this disk")
    about = f"{PROVENANCE}: it is "
    if (path / PROVENANCE).exists() and not any(line.startswith(about) for line in told):
        lines.append(f"{PROVENANCE}: of these very files")
    return (*lines, *(f"{PROVENANCE}: signed by {name}" for name in signers))


def _journal(path: Path) -> Path:
    return path.parent / FOLDER / f"{path.name}.jsonl"


def _add(path: Path, proof: Proof) -> None:
    journal = _journal(path)
    journal.parent.mkdir(exist_ok=True)
    handle = os.open(journal, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        size = os.fstat(handle).st_size
        torn = size and os.pread(handle, 1, size - 1) != b"\n"
        os.write(handle, (b"\n" if torn else b"") + json.dumps(asdict(proof)).encode() + b"\n")
        os.fsync(handle)
    finally:
        os.close(handle)
    sync_folder(journal.parent)
