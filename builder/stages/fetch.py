"""The one rule: only the medium whose digest was asked for gets out of here, and nothing of another is kept."""

from __future__ import annotations

import json

from builder.adapters import download, iso_inspect
from builder.errors import MediumError
from builder.order import Order
from builder.rehearsal import medium as rehearsal
from builder.stage import Inputs, Job, Stage

FILE = "medium.iso"
FACTS = "medium.json"


class FetchInputs(Inputs):
    """The chosen medium's sha256 and nothing else; for a rehearsal medium, what goes into it."""

    sha256: str | None
    rehearsal: str | None


def inputs(order: Order) -> FetchInputs:
    """The chosen medium."""
    return FetchInputs(sha256=order.medium.sha256, rehearsal=order.medium.rehearsal)


def run(job: Job) -> None:
    """Build, copy or download the medium and write down what it is.

    Raises:
        MediumError: it cannot be had, has another digest, or is no whole ISO.
    """
    target = job.out / FILE
    if job.inputs.sha256 is None:
        with job.ledger.spend("build medium"):
            rehearsal.build(target, work=job.scratch, progress=job.progress)
    elif job.settings.medium_file is not None:
        with job.ledger.spend("copy", job.settings.medium_file.stat().st_size):
            got = download.take(job.settings.medium_file, target)
        if got != job.inputs.sha256:
            raise MediumError(
                f"{job.settings.medium_file} changed while it was read",
                f"sha256 expected {job.inputs.sha256}\nsha256 found    {got}",
            )
    else:
        # Not in the working directory: what a killed download has got is resumed by the next run.
        downloads = job.settings.store / "downloads"
        downloads.mkdir(mode=0o700, exist_ok=True)
        arrived = downloads / f"{job.inputs.sha256}.iso"
        with job.ledger.spend("download"):
            download.fetch(job.settings.medium_urls, job.inputs.sha256, arrived, progress=job.progress)
        arrived.rename(target)
    facts = iso_inspect.inspect(target)
    (job.out / FACTS).write_text(json.dumps(facts.as_dict(), indent=2) + "\n", encoding="utf-8")
    job.progress.note(f"medium: {facts.volume_id}, {facts.file_size >> 20} MiB")


STAGE = Stage("fetch", 1, (), inputs, run, "get the install medium")
