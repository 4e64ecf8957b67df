"""The stage that puts an image into the catalogue, with its bill of materials and its provenance.

Invariant: only what was verified and keeps its budget is published.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import builder
from builder import images
from builder.errors import PublishError, VerifyError
from builder.recipe.build_spec import BuildSpec
from builder.settings import Paths
from builder.stage import Inputs, Job, Stage
from builder.stages import budget, provenance, seal, verify
from builder.stages.budget import BudgetInputs
from builder.store.objects import Record, recorded
from builder.store.store import Store
from builder.system import process
from builder.vm import networks, qcow2

FILE = "published.json"
LIBRARIES = ("libvirt-python", "pycdlib", "paramiko", "jinja2", "pykickstart", "cyclonedx-python-lib")


class PublishInputs(Inputs):
    """Under which name, the recipe's, how many versions stay, whose root password it has, what it may cost."""

    name: str
    recipe: str
    rehearsal: bool
    keep: int
    secrets_of: str
    budget: BudgetInputs = BudgetInputs()


def inputs(spec: BuildSpec) -> PublishInputs:
    """The name in the catalogue."""
    return PublishInputs(
        name=spec.name,
        recipe=spec.recipe.name,
        rehearsal=spec.medium.rehearsal is not None,
        keep=spec.recipe.publish.keep,
        secrets_of=spec.secrets_of,
        budget=BudgetInputs(**spec.recipe.budget.model_dump()),
    )


def why_stale(path: Path, paths: Paths) -> str | None:
    """Return why the published image has to be published again: it is gone, or another version became the latest.

    A version that was rolled back from is as good as it was, and stays held.
    """
    facts = json.loads((path / FILE).read_text(encoding="utf-8"))
    spoken = f"{facts['name']}@{facts['version']}"
    if not (paths.images / facts["name"] / facts["version"] / images.MANIFEST).exists():
        return f"{spoken} is not in the catalogue any more"
    try:
        image = images.load_image(paths.images, spoken)
    except VerifyError as fault:
        return fault.brief
    return None if image.latest or image.held else f"{spoken} is not the latest any more"


def run(job: Job[PublishInputs]) -> None:
    """Put disk, proof, bill of materials and provenance into the catalogue, and let the oldest versions go.

    Raises:
        VerifyError: the image costs more than the recipe allows, or its disk names another file.
        PublishError: the sealed file is corrupt, or the catalogue refused.
    """
    disk = job.needs["seal"] / seal.FILE
    facts = json.loads((job.needs["seal"] / seal.FACTS).read_text(encoding="utf-8"))
    proof = job.needs["verify"] / verify.FILE
    verified = json.loads(proof.read_text(encoding="utf-8"))
    budget.require(job.inputs.budget, int(facts["size"]), verified)
    name = job.inputs.name
    qcow2.require_image(disk, name)
    records, tools = _records(job), _tools(job.host.uri)
    manifest = build_manifest(job, facts, records, tools, verified)
    bill = job.out / images.SBOM
    bill.write_bytes(_bill(name, facts["sha256"], records["seal"].created, verified))

    def attest(subjects: Mapping[str, str]) -> bytes:
        asked = {"recipe": job.inputs.recipe, "image": name, "rehearsal": job.inputs.rehearsal, "run": job.run_id}
        statement = provenance.statement(subjects, records, asked, tools, verified, job.secrets)
        from builder.provenance import dsse

        return dsse.close(statement, job.signing_key)

    with job.ledger.spend("hash", disk.stat().st_size):
        image = images.publish(
            job.paths.images,
            name,
            {f"{name}.qcow2": disk, verify.FILE: proof, images.SBOM: bill},
            manifest,
            expected={f"{name}.qcow2": facts["sha256"]},
            attest=attest,
        )
    record = {"name": image.name, "version": image.version, "path": str(image.disk), "sha256": image.sha256}
    (job.out / FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    job.progress.note(f"published: {image.name}@{image.version}")
    if image.held:
        job.progress.note(f"{image.name}@{image.version} is held: builder images release {image.name}")
    _retain(job)


def build_manifest(
    job: Job[PublishInputs],
    disk: Mapping[str, Any],
    records: Mapping[str, Record],
    tools: Mapping[str, str],
    verified: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what the catalogue keeps of an image, beside its files.

    Args:
        disk: facts of the sealed disk.
        records: of each stage behind the image, by name.
        tools: versions, by name.
        verified: what the two booted copies showed.
    """
    return {
        "recipe": job.inputs.recipe,
        "rehearsal": job.inputs.rehearsal,
        # As OCI names it: the manifest is the configuration of the image's artifact in a registry.
        "architecture": "amd64",
        "os": "linux",
        "builder": builder.__version__,
        "run": job.run_id,
        "secrets_of": job.inputs.secrets_of,
        "booted_before_sealing": "provision" in records,
        # Whether nothing came from a network, so that the digests below name all that is in the image.
        "hermetic": hermetic(records),
        "disk": dict(disk),
        "stages": {name: _facts(record) for name, record in records.items()},
        "tools": dict(tools),
        "verified": dict(verified),
    }


def hermetic(records: Mapping[str, Record]) -> bool:
    """Return whether no stage had a network: the installer has none by itself, provisioning always has one."""
    installed = records["install"].inputs.get("network", "none") if "install" in records else "none"
    return installed == "none" and "provision" not in records


def _bill(name: str, sha256: str, sealed: str, verified: Mapping[str, Any]) -> bytes:
    """Render the bill of materials from what the first booted copy showed."""
    # Not at the head, as below: dear to load, and every plan loads this module.
    from builder.provenance import sbom

    twin: dict[str, Any] = next(iter(verified["twins"].values()), {})
    packages, os = twin.get("packages", ()), twin.get("os", "")
    return sbom.render(name, sha256[: images.VERSION_DIGITS], sha256, datetime.fromisoformat(sealed), packages, os)


def _retain(job: Job[PublishInputs]) -> None:
    """Keep as many versions as the recipe says; what cannot be pruned now does not spoil a good image."""
    try:
        pruned = images.prune(job.paths.images, [job.inputs.name], job.inputs.keep)
    except PublishError as fault:
        job.progress.note(f"old versions stay: {fault.brief}")
        return
    for gone in pruned.removed:
        job.progress.note(f"pruned: {gone.name}@{gone.version}")


def _records(job: Job[PublishInputs]) -> dict[str, Record]:
    """The records of every stage behind this image, the dropped ones too, by name."""
    store = Store(job.paths.store)
    found: dict[str, Record] = {}
    waiting = [recorded(path) for path in job.needs.values()]
    while waiting:
        record = waiting.pop()
        if record.stage in found:
            continue
        found[record.stage] = record
        for need, digest in record.needs.items():
            known = store.load(digest) or store.recall(job.inputs.name, need)
            if known is not None and known.digest == digest:
                waiting.append(known)
    return found


def _facts(record: Record) -> dict[str, object]:
    """Digest, inputs and durations of a stage, for the manifest."""
    return {
        "digest": record.digest,
        "version": record.version,
        "inputs": provenance.brief(record.inputs),
        "seconds": record.seconds,
        "ledger": record.ledger,
        "run": record.run_id,
    }


def _tools(uri: str) -> dict[str, str]:
    """Name the version of each program and library that had a part in the image."""
    programs = {
        "qemu-img": ["qemu-img", "--version"],
        "qemu": [networks.emulator(uri), "--version"],
    }
    tools = {name: process.run(argv).stdout.splitlines()[0] for name, argv in programs.items()}
    tools["libvirt"] = networks.version()
    return tools | {name: version(name) for name in LIBRARIES}


STAGE = Stage("publish", 7, ("seal", "verify"), inputs, run, "put the image into the catalogue", why_stale=why_stale)
