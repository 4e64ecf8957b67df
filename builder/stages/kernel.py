"""A stage outside the pipelines: takes the installer's kernel out of a medium, once, as an object of its own.

No run asks for this object by itself: `remaster` wants it where the vendor's medium stays untouched.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from builder.errors import MediumError
from builder.iso import inspect
from builder.stage import Inputs, Job, Ledger, ReasonKind, Stage, Step, digest, with_inputs
from builder.stages import fetch
from builder.store.store import Store

KERNEL = "vmlinuz"
INITRD = "initrd.img"
# As `.treeinfo` of all media of CentOS 7 names them.
PLACES = {"/images/pxeboot/vmlinuz": KERNEL, "/images/pxeboot/initrd.img": INITRD}


class KernelInputs(Inputs):
    """Paths of kernel and initrd on the medium."""

    places: tuple[str, ...] = tuple(PLACES)


def run(job: Job[KernelInputs]) -> None:
    """Copy kernel and initrd out of the medium.

    Raises:
        MediumError: it has none.
    """
    vendor = job.needs["fetch"] / fetch.FILE
    try:
        inspect.extract(vendor, {place: job.out / PLACES[place] for place in job.inputs.places})
    except MediumError as fault:
        raise MediumError(
            "the medium has no kernel that could be started directly",
            f"{fault.brief}\n{fault.details}".strip(),
            "use delivery: remaster, which starts the medium's own boot loader",
        ) from fault


STAGE = Stage("kernel", 1, ("fetch",), lambda _: KernelInputs(), run, "take the kernel out of the medium")


@contextmanager
def finished(job: Job[Inputs]) -> Iterator[Path]:
    """Hold the finished object for the medium that `job` needs, made if there is none; it stays during the block.

    Raises:
        MediumError: there is no kernel on the medium.
    """
    store = Store(job.paths.store)
    needs = {"fetch": job.digests["fetch"]}
    inputs = KernelInputs()
    reason = "no kernel of this medium yet"
    step = Step(STAGE, inputs, digest(STAGE, inputs, needs), "run", reason, ReasonKind.FIRST_RUN)
    with store.building(step, job.run_id, needs, on_wait=job.progress.beat) as build:
        if build.found is None:
            ledger = Ledger()
            with job.ledger.spend("copy"):
                run(with_inputs(job, inputs, out=build.out, scratch=build.scratch, ledger=ledger))
                build.finish(ledger, 0.0)
        yield store.path(step.digest)
