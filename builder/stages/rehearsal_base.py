"""A stage outside the pipelines: builds what rehearsal media of all releases share, once, as an object of its own.

No run asks for this object by itself: `fetch` wants it where a rehearsal medium is to be pressed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from builder.rehearsal import medium
from builder.stage import Inputs, Job, Ledger, Progress, ReasonKind, Stage, Step, digest
from builder.store.store import Store


class BaseInputs(Inputs):
    """The digest of what goes into it."""

    content: str


def run(job: Job[BaseInputs]) -> None:
    """Build it.

    Raises:
        HostError: this is neither Debian nor Ubuntu, or a program, room or the network is missing.
    """
    medium.build_base(job.out, work=job.scratch, progress=job.progress)


def _inputs(_: object) -> BaseInputs:
    return BaseInputs(content=medium.inputs_digest())


STAGE = Stage("rehearsal-base", 1, (), _inputs, run, "build what rehearsal media share")


@contextmanager
def finished(content: str, store: Store, run_id: str, ledger: Ledger, progress: Progress) -> Iterator[Path]:
    """Hold the finished object, made if there is none; it stays during the block.

    Raises:
        HostError: as `run`.
    """
    inputs = BaseInputs(content=content)
    reason = "no rehearsal medium of this host yet"
    step = Step(STAGE, inputs, digest(STAGE, inputs, {}), "run", reason, ReasonKind.FIRST_RUN)
    with store.building(step, run_id, {}, on_wait=progress.beat) as build:
        if build.found is None:
            start = time.monotonic()
            with ledger.spend("build medium"):
                medium.build_base(build.out, work=build.scratch, progress=progress)
            build.finish(Ledger(), time.monotonic() - start)
        yield store.path(step.digest)
