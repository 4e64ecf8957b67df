"""The one rule: only what was verified and keeps its budget gets a place in the catalogue, with how it came to be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import builder
from builder import images
from builder.errors import PublishError
from builder.provenance import dsse, keys
from builder.recipe.build_spec import Order
from builder.settings import Settings
from builder.stage import Inputs, Job, Stage
from builder.stages import budget, provenance, seal, verify
from builder.stages.budget import BudgetInputs
from builder.store.objects import Record, recorded
from builder.store.store import Store
from builder.system import process
from builder.vm import networks

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


def inputs(order: Order) -> PublishInputs:
    """The name in the catalogue."""
    return PublishInputs(
        name=order.name,
        recipe=order.recipe.name,
        rehearsal=order.medium.rehearsal is not None,
        keep=order.recipe.publish.keep,
        secrets_of=order.secrets_of,
        budget=BudgetInputs(**order.recipe.budget.model_dump()),
    )


def stands(path: Path, settings: Settings) -> str | None:
    """Why the published image is not good enough any more: it is gone, or another version became the latest.

    A version that was rolled back from is as good as it was: it stands, and stays held.
    """
    facts = json.loads((path / FILE).read_text(encoding="utf-8"))
    spoken = f"{facts['name']}@{facts['version']}"
    if not (settings.images / facts["name"] / facts["version"] / images.MANIFEST).exists():
        return f"{spoken} is not in the catalogue any more"
    image = images.load_image(settings.images, spoken)
    return None if image.latest or image.held else f"{spoken} is not the latest any more"


def run(job: Job) -> None:
    """Put disk, proof, bill of materials and provenance into the catalogue, and let the oldest versions go.

    Raises:
        VerifyError: the image costs more than the recipe allows.
        PublishError: the sealed file has rotted, or the catalogue refused.
    """
    disk = job.needs["seal"] / seal.FILE
    facts = json.loads((job.needs["seal"] / seal.FACTS).read_text(encoding="utf-8"))
    proof = job.needs["verify"] / verify.FILE
    told = json.loads(proof.read_text(encoding="utf-8"))
    budget.require(job.inputs.budget, int(facts["size"]), told)
    name = job.inputs.name
    made = _records(job)
    tools = _tools(job.settings.uri)
    manifest = {
        "recipe": job.inputs.recipe,
        "rehearsal": job.inputs.rehearsal,
        # As OCI names it: the manifest is the configuration of the image's artifact in a registry.
        "architecture": "amd64",
        "os": "linux",
        "builder": builder.__version__,
        "run": job.run_id,
        "secrets_of": job.inputs.secrets_of,
        "booted_before_sealing": "provision" in made,
        "disk": facts,
        "stages": {name: _facts(record) for name, record in made.items()},
        "tools": tools,
        "verified": told,
    }
    bill = job.out / images.SBOM
    bill.write_bytes(_bill(name, facts["sha256"], made["seal"].created, told))
    key = keys.chosen()

    def attest(subjects: Mapping[str, str]) -> bytes:
        asked = {"recipe": job.inputs.recipe, "image": name, "rehearsal": job.inputs.rehearsal, "run": job.run_id}
        return dsse.close(provenance.statement(subjects, made, asked, tools, told, job.secrets), key)

    with job.ledger.spend("hash", disk.stat().st_size):
        image = images.publish(
            job.settings.images,
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


def _bill(name: str, sha256: str, sealed: str, verified: Mapping[str, Any]) -> bytes:
    """What is in the image, as its first booted copy told."""
    # Dear to load, and every plan loads this module.
    from builder.provenance import sbom

    twin: dict[str, Any] = next(iter(verified["twins"].values()), {})
    packages = twin.get("packages", ())
    return sbom.render(name, sha256[: images.VERSION_DIGITS], sha256, datetime.fromisoformat(sealed), packages)


def _retain(job: Job) -> None:
    """Keep as many versions as the recipe says; what cannot be pruned now does not spoil a good image."""
    try:
        pruned = images.prune(job.settings.images, [job.inputs.name], job.inputs.keep)
    except PublishError as fault:
        job.progress.note(f"old versions stay: {fault.brief}")
        return
    for gone in pruned.removed:
        job.progress.note(f"pruned: {gone.name}@{gone.version}")


def _records(job: Job) -> dict[str, Record]:
    """The records of every stage behind this image, the dropped ones too, by name."""
    store = Store(job.settings.store)
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


STAGE = Stage("publish", 5, ("seal", "verify"), inputs, run, "put the image into the catalogue", stands=stands)
