"""The one rule: what is executed is what the plan says, and the plan is made again before every step.

In between another run may have finished, dropped or damaged something; so nothing is decided ahead.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from builder.console import JsonLines, Recorded
from builder.diagnosis.classify import diagnose
from builder.errors import BuilderError, Cause, PublishError, of_os_error
from builder.pipeline.plan import ASKED, closure, decide, fault, needs_of
from builder.settings import Settings
from builder.stage import Action, Job, Ledger, Observer, Plan, Reason, ReasonKind, Secrets, Step
from builder.store import gc, runs
from builder.store.durations import Durations
from builder.store.objects import Record, condemn
from builder.store.store import Build, Store

# When this stage stands, nobody will ask for the large and secret-bearing objects that came before it.
KEEPER = "seal"


@dataclass(frozen=True)
class Outcome:
    """A run that came to its end.

    Args:
        folder: of the run, with its record and evidence.
        plan: as it looked at the start.
        built: names of the stages that were run, in order.
        object: the finished directory of the wanted end.
    """

    run_id: str
    folder: Path
    plan: Plan
    built: tuple[str, ...]
    object: Path


def execute(
    given: Plan,
    store: Store,
    settings: Settings,
    secrets: Secrets,
    observer: Observer,
    *,
    argv: Sequence[str] = (),
    clean: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Run what has to be run, and keep a record of it in the run's folder.

    Call it inside `builder.system.signals.one_interrupt`.

    Args:
        argv: the command line, for the record; what looks like a secret is blotted out.
        clean: removes what a dead run left outside the store (its machines), by run id.

    Raises:
        BuilderError: of the stage that failed; evidence is in the run's folder, nothing half-made is in the store.
        Interrupted: the same holds.
    """
    run_id = runs.new_id()
    claims = {step.digest for step in given.steps}
    with (
        _named_faults(),
        _plain_os_errors(store),
        _open_umask(),
        runs.register(store, run_id, claims),
        runs.recording(store, settings.runs, run_id, given.name, argv) as record,
        runs.events(settings.runs, run_id) as kept,
        _named_faults(),
        _plain_os_errors(store),
    ):
        observer = Recorded(observer, JsonLines(kept))
        settings = replace(settings, learned=Durations(store.root, given.name).limits())
        swept = gc.sweep(store, settings.runs, clean)
        for dead, why in swept.stuck.items():
            observer.note(f"remains of run {dead} could not be removed: {why}")
        run = _Run(run_id, given, store, settings, secrets, observer, record)
        start = decide(given, store, settings, run.forced)
        observer.planned(start, run_id)
        for step in start.steps:
            if step.action == "run" and step.stage.ahead is not None:
                step.stage.ahead(step.inputs, settings)
        built = run.all_steps()
        end = next(step for step in given.steps if step.stage.name == given.end)
        return Outcome(run_id, settings.runs / run_id, start, built, store.path(end.digest))


class _Run:
    """One run at work: what all its steps share."""

    def __init__(
        self,
        run_id: str,
        given: Plan,
        store: Store,
        settings: Settings,
        secrets: Secrets,
        observer: Observer,
        record: runs.RunRecord,
    ) -> None:
        self.run_id, self.given, self.store, self.settings = run_id, given, store, settings
        self.secrets, self.observer, self.record = secrets, observer, record
        self.folder = settings.runs / run_id
        self.durations = Durations(store.root, given.name)
        self.by_name = {step.stage.name: step for step in given.steps}
        self.inside = closure(given)
        # Stages to run whatever stands; those that were passed or run; those that were run; those still claimed.
        self.forced = dict.fromkeys(given.fresh, ASKED)
        self.seen: set[str] = set()
        self.built: list[str] = []
        self.claimed = set(self.by_name)

    def all_steps(self) -> tuple[str, ...]:
        """Do the first step that has to be done, look again, until none is left; names of those that were run."""
        while True:
            now = decide(self.given, self.store, self.settings, self.forced)
            step = next((step for step in now.steps if step.action == "run"), None)
            for passed in now.steps:
                if step is not None and passed.stage.name == step.stage.name:
                    break
                if passed.stage.name not in self.seen:
                    self._pass(passed)
            if step is None:
                return tuple(self.built)
            self._build(step)

    def _pass(self, step: Step) -> None:
        """A step that needs no work is noted; its object is marked as used."""
        found = self.store.load(step.digest) if step.action == "reuse" else None
        if found is not None:
            self.store.touch(step.digest)
        self._done(step, step.action, step.reason, found)

    def _build(self, step: Step) -> None:
        """Run one stage, unless another run did it while we waited for it."""
        name = step.stage.name
        needs = needs_of(step, self.by_name)
        before = self.store.load(step.digest) or self.store.recall(self.given.name, name)

        def look_again() -> Reason | None:
            return self.forced.get(name) or fault(step, self.by_name, self.store, self.settings)

        def waiting(holder: str) -> None:
            self.observer.note(f"{name}: waiting for {holder or 'another run'}")

        building = self.store.building(
            step, self.run_id, needs, fault=look_again, keep=self.settings.keep_failed, on_wait=waiting
        )
        # What follows an object is done when its locks are given back: `_done` may want to drop what we read.
        with building as build:
            found = build.found
            if found is None:
                if not all(self.store.path(one).exists() for one in needs.values()):
                    # Somebody took a needed object away by hand; the next look at the plan brings it back.
                    return
                record = self._run_stage(step, build, needs)
                left = fault(step, self.by_name, self.store, self.settings)
                if left is not None:
                    raise PublishError(f"{name} was built, but does not stand: {left.text}")
        if found is not None:
            self._done(step, "reuse", f"built meanwhile by run {found.run_id}", found)
            return
        same = before is not None and before.digest == step.digest and before.content == record.content
        if self.forced.pop(name, None) is not None and not same:
            for reader in self.given.steps:
                if name in reader.stage.needs and reader.stage.name in self.inside:
                    follows = Reason(ReasonKind.CONSEQUENCE, f"{name} was built anew")
                    self.forced.setdefault(reader.stage.name, follows)
        self.built.append(name)
        self._done(step, "run", step.reason, record)

    def _run_stage(self, step: Step, build: Build, needs: Mapping[str, str]) -> Record:
        start = time.monotonic()
        ledger = Ledger()
        self.observer.started(step)
        try:
            with _named_faults(), _plain_os_errors(self.store):
                step.stage.run(self._job(step, build, needs, ledger))
                record = build.finish(ledger, time.monotonic() - start)
        except BaseException as error:
            seconds = time.monotonic() - start
            self.record.steps.append(_step_record(step, "failed", step.reason, seconds, ledger.as_dict()))
            if isinstance(error, Exception):
                self.durations.failed(step.stage.name, ledger)
            self.observer.failed(step, seconds, error)
            if isinstance(error, BuilderError) and error.diagnosis.cause is Cause.CORRUPT:
                self._condemn(needs)
            if self.settings.keep_failed:
                self.observer.note(f"kept for inspection: {build.out} and {build.scratch}")
            raise
        seconds = time.monotonic() - start
        self.durations.succeeded(step.stage.name, seconds, ledger)
        self.observer.ended(step, seconds, ledger)
        return record

    def _condemn(self, needs: Mapping[str, str]) -> None:
        """A rotten file looks sound to a cheap look; marked, it is built anew by the next run instead of used again."""
        for name, digest in needs.items():
            found = self.store.load(digest)
            for file in condemn(self.store.path(digest), found) if found else []:
                self.observer.note(f"{name}: {file} is rotten; the next run builds it anew")

    def _job(self, step: Step, build: Build, needs: Mapping[str, str], ledger: Ledger) -> Job:
        return Job(
            run_id=self.run_id,
            digest=step.digest,
            inputs=step.inputs,
            needs={name: self.store.path(one) for name, one in needs.items()},
            digests=needs,
            out=build.out,
            scratch=build.scratch,
            evidence=self.folder,
            settings=self.settings,
            secrets=self.secrets,
            progress=self.observer,
            ledger=ledger,
        )

    def _done(self, step: Step, action: Action, reason: str, found: Record | None) -> None:
        """Into the run's record, and into the memory of what was built last for this name."""
        self.seen.add(step.stage.name)
        if found is not None:
            self.store.remember(self.given.name, found)
        seconds, ledger = (found.seconds, found.ledger) if found else (0.0, {})
        self.record.steps.append(_step_record(step, action, reason, seconds, ledger))
        runs.save(self.settings.runs, self.record)
        # Also when it is passed over: then something later stands that was made from it.
        if KEEPER in self.seen & self.inside and not self.settings.keep_intermediates:
            self._drop_intermediates()

    def _drop_intermediates(self) -> None:
        """What no stage will read any more goes, unless another live run needs it: then that one does it."""
        for step in self.given.steps:
            name = step.stage.name
            readers = {one.stage.name for one in self.given.steps if name in one.stage.needs}
            if step.stage.drop and name in self.claimed and readers & self.inside <= self.seen:
                self.claimed.discard(name)
                runs.release(self.store, self.run_id, step.digest)
                gc.drop(self.store, step.digest)


def _step_record(
    step: Step, action: Action | Literal["failed"], reason: str, seconds: float, ledger: dict[str, dict[str, float]]
) -> runs.StepRecord:
    return runs.StepRecord(
        stage=step.stage.name,
        digest=step.digest,
        action=action,
        reason=reason,
        seconds=round(seconds, 3),
        ledger=ledger,
    )


@contextmanager
def _named_faults() -> Iterator[None]:
    """A fault leaves with its cause, if that is known."""
    try:
        yield
    except BuilderError as fault:
        diagnose(fault)
        raise


@contextmanager
def _plain_os_errors(store: Store) -> Iterator[None]:
    """A full or read-only disk is no bug of ours."""
    try:
        yield
    except OSError as fault:
        plain = of_os_error(fault, store.root)
        if plain is None:
            raise
        raise plain from fault


@contextmanager
def _open_umask() -> Iterator[None]:
    """Finished files are for all to read unless their stage made them stricter, whatever the caller's umask is."""
    before = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(before)
