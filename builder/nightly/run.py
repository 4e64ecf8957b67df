"""A nightly run from its plan to its report, messages and metrics.

Invariant: a run that began ends with a report and an exit code, whatever its builds do; one that cannot begin sends
a message about that.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from builder import __version__
from builder.errors import Interrupted, RecipeError
from builder.nightly import metrics, record, worker
from builder.nightly.builds import find_builds
from builder.nightly.capacity import Capacity
from builder.nightly.notify import Notifier, aborts_notified, notify
from builder.nightly.progress import ProgressReporter
from builder.nightly.record import NightlyRun
from builder.nightly.report import retention, write
from builder.nightly.scheduler import BuildExecutor, RunOutcome, run_all
from builder.settings import Accel

# Reports that are kept unless `--keep` says otherwise.
KEEP = 30


@dataclass(frozen=True)
class NightlyPlan:
    """Request for a nightly run.

    Args:
        artifacts: everything is kept below this folder.
        recipes: folders that are searched for recipes.
        pipelines: names or recipe files; empty for all.
        media, accel, connect, root_password_file, require_kvm: options of each `builder run`.
        push: push images to the repository of their name below this valid address; None for nowhere.
        allow_rehearsal: push rehearsals, too.
        fail_fast: start nothing more after the first failure.
        keep: number of reports that are kept, this one included.
        notifier: sends messages.
        metrics: file for metrics; None for none.
    """

    artifacts: Path
    recipes: tuple[Path, ...]
    pipelines: Sequence[str] = ()
    media: str | None = None
    accel: Accel = "auto"
    connect: str | None = None
    root_password_file: Path | None = None
    require_kvm: bool = False
    push: str | None = None
    allow_rehearsal: bool = False
    fail_fast: bool = False
    keep: int = KEEP
    notifier: Notifier = field(default_factory=Notifier)
    metrics: Path | None = None

    @property
    def reports(self) -> Path:
        """The folder of all reports."""
        return self.artifacts / "reports"

    @property
    def rehearsal(self) -> bool:
        """True if all builds use rehearsal media."""
        return self.media == "rehearsal"

    def worker_options(self, began: float) -> worker.WorkerOptions:
        """Return what all builds have in common, after checking it.

        Args:
            began: `time.monotonic()` when the run began.

        Raises:
            RecipeError: options exclude each other.
        """
        if self.require_kvm and self.accel == "tcg":
            raise RecipeError("--require-kvm and --accel tcg exclude each other", hint="leave out one of them")
        values = {
            "--media": self.media,
            "--accel": self.accel,
            "--connect": self.connect,
            "--root-password-file": str(self.root_password_file) if self.root_password_file else None,
        }
        options = [word for name, value in values.items() if value is not None for word in (name, value)]
        options += ["--require-kvm"] if self.require_kvm else []
        # The command is looked up now: tests and farms replace it.
        return worker.WorkerOptions(
            self.artifacts, tuple(options), began, worker.BUILDER, self._push_options(), self.fail_fast
        )

    def _push_options(self) -> tuple[str, ...]:
        if self.push is None:
            return ()
        if self.rehearsal and not self.allow_rehearsal:
            raise RecipeError("rehearsals are not pushed", hint="if that is what you want: --allow-rehearsal")
        return (self.push, *(["--allow-rehearsal"] if self.allow_rehearsal else []))


def run(plan: NightlyPlan, executor: BuildExecutor, reporter: ProgressReporter) -> NightlyRun:
    """Run all builds of a plan, write the report, then send messages and write metrics.

    Returns:
        The run; its report is in the folder `plan.reports / run.date`.

    Raises:
        BuilderError: it could not begin, or the report could not be written; a message about that was sent.
    """
    earlier = record.load_runs(plan.reports)
    with aborts_notified(plan.notifier, platform.node(), reporter.note):
        started, began = datetime.now(UTC), monotonic()
        options = plan.worker_options(began)
        builds = find_builds(plan.pipelines, plan.recipes, rehearsal=plan.rehearsal)
        expected = record.usual_seconds(earlier)
        with executor.open(builds, options, reporter.on_event) as pool:
            capacity = pool.capacity
            count = f"{len(builds)} build{'' if len(builds) == 1 else 's'}"
            reporter.note(f"{count}, {capacity.jobs} at a time (limit: {capacity.limit})")
            outcome = run_all(builds, pool, reporter.on_result, expected=expected)
        for result in outcome.results:
            result.usual = result.seconds if result.verdict == "published" else expected.get(result.name, 0.0)
        nightly = _record(outcome, started, monotonic() - began, capacity)
        folder = write.write(plan.reports, nightly)
    nightly = nightly.model_copy(update={"date": folder.name})
    nightly = notify(nightly, earlier, folder, plan.notifier, reporter.note)
    if plan.metrics is not None:
        try:
            metrics.write(plan.metrics, nightly, earlier, options.images)
        except Exception as error:
            # They read every image of the catalogue; a strange one must not hide what the run found.
            reporter.note(f"the metrics were not written: {error or type(error).__name__}")
    try:
        retention.prune(plan.reports, plan.keep)
    except OSError as error:
        reporter.note(f"old reports were not removed: {error.strerror}: {error.filename}")
    return nightly


def _record(outcome: RunOutcome, started: datetime, seconds: float, capacity: Capacity) -> NightlyRun:
    return NightlyRun(
        date=f"{started:%Y-%m-%d}",
        started=started.isoformat(timespec="seconds"),
        ended=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
        host=platform.node(),
        builder=__version__,
        jobs=capacity.jobs,
        jobs_why=capacity.limit,
        exit_code=Interrupted.exit_code if outcome.interrupt else record.exit_code(outcome.results),
        results=list(outcome.results),
    )
