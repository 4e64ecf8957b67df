"""Execute a plan: its steps in order, with a record of the run.

Invariant: each step is decided with its locks held, in `Store.building`. Another run may have finished, dropped or
damaged something since; where the store no longer fits the plan, the plan is made again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from builder.console import JsonLines, Recorded
from builder.diagnosis.classify import diagnose
from builder.errors import BuilderError, Cause, PublishError, of_os_error
from builder.pipeline.plan import ASKED, decide, needs_of, why_stale
from builder.settings import BuildOptions, Settings
from builder.stage import Action, Job, Ledger, Observer, Plan, Reason, ReasonKind, Secrets, Step
from builder.store import gc, runs
from builder.store.durations import Durations
from builder.store.objects import Record, mark_corrupt
from builder.store.store import ObjectBuild, Store
from builder.system.umask import readable_by_all


@dataclass(frozen=True)
class Outcome:
    """A run that came to its end.

    Args:
        folder: of the run, with its record and evidence.
        plan: as it looked at the start.
        built: names of the stages that were run, in order.
        object: the finished directory of the last stage.
    """

    run_id: str
    folder: Path
    plan: Plan
    built: tuple[str, ...]
    object: Path


@dataclass(frozen=True)
class Context:
    """Context that all steps of a run share."""

    store: Store
    settings: Settings
    build: BuildOptions
    secrets: Secrets


def execute(
    given: Plan,
    context: Context,
    observer: Observer,
    *,
    argv: Sequence[str] = (),
    clean: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Run what has to be run, and keep a record of it in the run's folder.

    Call it inside `builder.system.signals.one_interrupt`.

    Args:
        argv: the command line, for the record; what looks like a secret is masked.
        clean: removes what a dead run left outside the store (its machines), by run id.

    Raises:
        BuilderError: of the stage that failed; evidence is in the run's folder, nothing half-made is in the store.
        Interrupted: the same holds.
    """
    run_id = runs.new_id()
    store, settings = context.store, context.settings
    with (
        # Twice: the record of the run names the cause of a fault, and writing the record may fail itself.
        _explained(store),
        readable_by_all(),
        runs.register(store, run_id, {step.digest for step in given.steps}),
        runs.recording(store, settings.runs, run_id, given.name, argv) as record,
        runs.events(settings.runs, run_id) as events,
        _explained(store),
    ):
        observer = Recorded(observer, JsonLines(events))
        swept = gc.sweep(store, settings.runs, clean)
        for dead, why in swept.stuck.items():
            observer.note(f"remains of run {dead} could not be removed: {why}")
        run = _Run(run_id, given, context, observer, record)
        start = run.plan()
        observer.planned(start, run_id)
        for step in start.steps:
            if step.action == "run" and step.stage.preflight is not None:
                step.stage.preflight(step.inputs, settings)
        built = run.all_steps(start)
        return Outcome(run_id, settings.runs / run_id, start, built, store.path(given.steps[-1].digest))


class _Run:
    """One run at work: what all its steps share."""

    def __init__(self, run_id: str, given: Plan, context: Context, observer: Observer, record: runs.RunRecord) -> None:
        self.run_id, self.given, self.context, self.observer, self.record = run_id, given, context, observer, record
        self.store, self.settings = context.store, context.settings
        self.durations = Durations(self.store.root, given.name)
        self.by_name = {step.stage.name: step for step in given.steps}
        # Stages to run in any case; those that are done with; those that were run; those still claimed.
        self.forced = dict.fromkeys(given.fresh, ASKED)
        self.seen: set[str] = set()
        self.built: list[str] = []
        self.claimed = set(self.by_name)

    def plan(self) -> Plan:
        """Look at the store as it is now."""
        return decide(self.given, self.store, self.settings, self.forced)

    def all_steps(self, plan: Plan) -> tuple[str, ...]:
        """Do all steps, with a new plan after each that found something else than planned; names of those run."""
        while not all(self._do(step) for step in plan.steps):
            plan = self.plan()
        return tuple(self.built)

    def _do(self, step: Step) -> bool:
        """Do one step; false when the plan is out of date."""
        if step.action == "run":
            return self._build(step)
        if step.stage.name not in self.seen:
            found = self.store.load(step.digest) if step.action == "reuse" else None
            if found is not None:
                self.store.touch(step.digest)
            self._done(step, step.action, step.reason, found)
        return True

    def _build(self, step: Step) -> bool:
        """Run one stage, unless its object turns out to be up to date; false when the plan is out of date."""
        name = step.stage.name
        needs = needs_of(step, self.by_name)
        before = self.store.load(step.digest) or self.store.recall(self.given.name, name)

        def look() -> Reason | None:
            return self.forced.get(name) or self._why_stale(step)

        def waiting(holder: str) -> None:
            self.observer.note(f"{name}: waiting for {holder or 'another run'}")

        building = self.store.building(
            step, self.run_id, needs, why_stale=look, keep=self.settings.keep_failed, on_wait=waiting
        )
        # What follows an object is done when its locks are given back: `_done` may want to drop what we read.
        with building as build:
            found = build.found
            if found is None:
                if any(self._why_stale(self.by_name[need]) for need in needs):
                    # Dropped or damaged since the plan was made: it has to be built first.
                    return False
                record = self._run_stage(step, build, needs)
                left = self._why_stale(step)
                if left is not None:
                    raise PublishError(f"{name} was built, but cannot be used: {left.text}")
        if found is not None:
            if name not in self.seen:
                reason = "finished object found" if before == found else f"built meanwhile by run {found.run_id}"
                self._done(step, "reuse", reason, found)
            # What was planned because this one would be rebuilt may not be needed.
            return False
        same = before is not None and before.digest == step.digest and before.content == record.content
        if self.forced.pop(name, None) is not None and not same:
            for reader in self.given.steps:
                if name in reader.stage.needs:
                    follows = Reason(ReasonKind.CONSEQUENCE, f"{name} was built anew")
                    self.forced.setdefault(reader.stage.name, follows)
        self.built.append(name)
        self._done(step, "run", step.reason, record)
        return not same

    def _why_stale(self, step: Step) -> Reason | None:
        return why_stale(step, self.by_name, self.store, self.settings)

    def _run_stage(self, step: Step, build: ObjectBuild, needs: Mapping[str, str]) -> Record:
        start = time.monotonic()
        ledger = Ledger()
        self.observer.started(step)
        try:
            # Here too, since the observer and the next lines want to know the cause.
            with _explained(self.store):
                step.stage.run(self._job(step, build, needs, ledger))
                record = build.finish(ledger, time.monotonic() - start)
        except BaseException as error:
            seconds = time.monotonic() - start
            self.record.steps.append(_step_record(step, "failed", step.reason, seconds, ledger.as_dict()))
            self.observer.failed(step, seconds, error)
            if isinstance(error, BuilderError) and error.diagnosis.cause is Cause.CORRUPT:
                self._mark_corrupt(needs)
            if self.settings.keep_failed:
                self.observer.note(f"kept for inspection: {build.out} and {build.scratch}")
            raise
        seconds = time.monotonic() - start
        self.durations.succeeded(step.stage.name, seconds, ledger)
        self.observer.ended(step, seconds, ledger)
        return record

    def _mark_corrupt(self, needs: Mapping[str, str]) -> None:
        """Mark corrupt files, which look sound to a cheap look, so that the next run builds them anew."""
        for name, digest in needs.items():
            found = self.store.load(digest)
            for file in mark_corrupt(self.store.path(digest), found) if found else []:
                self.observer.note(f"{name}: {file} is corrupt; the next run builds it anew")

    def _job(self, step: Step, build: ObjectBuild, needs: Mapping[str, str], ledger: Ledger) -> Job[Any]:
        return Job(
            run_id=self.run_id,
            digest=step.digest,
            inputs=step.inputs,
            needs={name: self.store.path(digest) for name, digest in needs.items()},
            digests=needs,
            out=build.out,
            scratch=build.scratch,
            evidence=self.settings.runs / self.run_id,
            paths=self.settings,
            host=self.settings,
            build=self.context.build,
            secrets=self.context.secrets,
            progress=self.observer,
            ledger=ledger,
            signing_key=self.settings.signing_key,
        )

    def _done(self, step: Step, action: Action, reason: str, found: Record | None) -> None:
        """Note the step in the run's record, and what was built last for this name."""
        self.seen.add(step.stage.name)
        if found is not None:
            self.store.remember(self.given.name, found)
        seconds, ledger = (found.seconds, found.ledger) if found else (0.0, {})
        self.record.steps.append(_step_record(step, action, reason, seconds, ledger))
        runs.save(self.settings.runs, self.record)
        # Also when that stage is passed over: then something later was made from it.
        freed = any(self.by_name[name].stage.frees_intermediates for name in self.seen)
        if freed and not self.settings.keep_intermediates:
            self._drop_intermediates()

    def _drop_intermediates(self) -> None:
        """Drop what no stage will read any more, unless another live run needs it: then that one does it."""
        for step in self.given.steps:
            name = step.stage.name
            readers = {other.stage.name for other in self.given.steps if name in other.stage.needs}
            if step.stage.intermediate and name in self.claimed and readers <= self.seen:
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
def _explained(store: Store) -> Iterator[None]:
    """Give a fault its cause, if that is known; a full or read-only disk is no bug of ours."""
    try:
        yield
    except BuilderError as fault:
        diagnose(fault)
        raise
    except OSError as fault:
        plain = of_os_error(fault, store.root)
        if plain is None:
            raise
        raise diagnose(plain) from fault
