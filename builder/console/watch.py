"""Watchers, which report the progress of a run to standard error.

`Lines` writes plain lines for a pipe or a log, `JsonLines` one JSON object a line for programs;
`builder.console.terminal.Terminal` redraws a few lines in place.
Invariant: a reader that went away cannot fail the run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TextIO

from builder.console.text import clean, left_text, time_text
from builder.stage import Ledger, Observer, Plan, Step

BEAT_EVERY = 30.0  # seconds between two beats in a log


@dataclass(frozen=True)
class Spent:
    """The cost of one stage: seconds by the clock, and its ledger."""

    stage: str
    seconds: float
    ledger: Ledger


class Watcher:
    """Base of the three watchers: remembers what the summary needs. Used as a context manager around a run.

    `expected` is what each stage took before, in seconds by name; from it comes the time left.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.began = time.monotonic()
        self.plan: Plan | None = None
        self.run_id = ""
        self.active = ""
        self.active_since = 0.0
        self.expected: Mapping[str, float] = {}
        self.failure: tuple[str, float, BaseException] | None = None
        self.spent: list[Spent] = []

    @property
    def elapsed(self) -> float:
        """Seconds since the watcher was made."""
        return time.monotonic() - self.began

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        return

    def planned(self, plan: Plan, run_id: str) -> None:
        """The run begins."""
        self.plan, self.run_id = plan, run_id

    def started(self, step: Step) -> None:
        """A step with action `run` begins."""
        self.active, self.active_since = step.stage.name, time.monotonic()

    def left(self) -> float | None:
        """Seconds that the stages still to be run took before; None if one of them is new here."""
        done = {spent.stage for spent in self.spent}
        steps = self.plan.steps if self.plan else ()
        names = [step.stage.name for step in steps if step.action == "run" and step.stage.name not in done]
        if not names or any(name not in self.expected for name in names):
            return None
        under_way = time.monotonic() - self.active_since if self.active in names else 0.0
        return sum(max(0.0, self.expected[name] - (under_way if name == self.active else 0.0)) for name in names)

    def ended(self, step: Step, seconds: float, ledger: Ledger) -> None:
        """The step is done and its object stands."""
        self.active = ""
        self.spent.append(Spent(step.stage.name, seconds, ledger))

    def failed(self, step: Step, seconds: float, error: BaseException) -> None:
        """The step ended with an error (or an interrupt)."""
        self.active = ""
        self.failure = (step.stage.name, seconds, error)

    def note(self, text: str) -> None:
        """Keep a fact on screen, one line."""

    def beat(self, text: str) -> None:
        """Report current activity; replaces the last beat."""

    def say(self, text: str) -> None:
        """Write one line to the stream, at once."""
        with suppress(OSError, ValueError):
            self.stream.write(f"{text}\n")
            self.stream.flush()


class Lines(Watcher):
    """Plain lines, each with the time since the start; beats at most each `every` seconds."""

    def __init__(self, stream: TextIO, every: float = BEAT_EVERY) -> None:
        super().__init__(stream)
        self.every = every
        self.last_beat = self.began

    def say(self, text: str) -> None:
        super().say(clean(text))

    def planned(self, plan: Plan, run_id: str) -> None:
        super().planned(plan, run_id)
        self.say(f"{plan.name}: run {run_id}")
        for step in plan.steps:
            self.say(f"  {step.stage.name:<10} {step.action:<11} {step.reason}".rstrip())

    def started(self, step: Step) -> None:
        super().started(step)
        self.last_beat = time.monotonic()
        self._stamped(f"{step.stage.name}: {step.stage.title}{self._left()}")

    def ended(self, step: Step, seconds: float, ledger: Ledger) -> None:
        super().ended(step, seconds, ledger)
        self._stamped(f"{step.stage.name}: done in {time_text(seconds)}")

    def failed(self, step: Step, seconds: float, error: BaseException) -> None:
        super().failed(step, seconds, error)
        self._stamped(f"{step.stage.name}: {_ending(error)} after {time_text(seconds)}")

    def note(self, text: str) -> None:
        self._stamped(clean(text))

    def beat(self, text: str) -> None:
        now = time.monotonic()
        if now - self.last_beat >= self.every:
            self.last_beat = now
            self._stamped(f"{self.active}: {clean(text)}{self._left()}" if self.active else clean(text))

    def _left(self) -> str:
        left = left_text(self.left())
        return f" ({left})" if left else ""

    def _stamped(self, text: str) -> None:
        since = int(time.monotonic() - self.began)
        self.say(f"{since // 3600:02}:{since // 60 % 60:02}:{since % 60:02} {text}")


class JsonLines(Watcher):
    """One JSON object a line; `at` is seconds since the start, `left` those to the end, where earlier runs tell."""

    def planned(self, plan: Plan, run_id: str) -> None:
        super().planned(plan, run_id)
        self._event("planned", name=plan.name, run=run_id, stages=plan_rows(plan), **self._left())

    def started(self, step: Step) -> None:
        super().started(step)
        self._event("started", stage=step.stage.name, **self._left())

    def ended(self, step: Step, seconds: float, ledger: Ledger) -> None:
        super().ended(step, seconds, ledger)
        self._event("ended", stage=step.stage.name, **_spent(self.spent[-1]))

    def failed(self, step: Step, seconds: float, error: BaseException) -> None:
        super().failed(step, seconds, error)
        self._event("failed", stage=step.stage.name, seconds=round(seconds, 3), error=str(error))

    def note(self, text: str) -> None:
        self._event("note", stage=self.active, text=clean(text))

    def beat(self, text: str) -> None:
        self._event("beat", stage=self.active, text=clean(text), **self._left())

    def _left(self) -> dict[str, float]:
        left = self.left()
        return {} if left is None else {"left": round(left)}

    def _event(self, event: str, **more: object) -> None:
        whole = {"event": event, "at": round(time.monotonic() - self.began, 3), **more}
        self.say(json.dumps(whole, ensure_ascii=False))


class Recorded:
    """Tells everything to two: whoever watches, and a file that is kept."""

    def __init__(self, watched: Observer, kept: Observer) -> None:
        self._both = (watched, kept)

    def planned(self, plan: Plan, run_id: str) -> None:
        """The run begins."""
        for one in self._both:
            one.planned(plan, run_id)

    def started(self, step: Step) -> None:
        """A step with action `run` begins."""
        for one in self._both:
            one.started(step)

    def ended(self, step: Step, seconds: float, ledger: Ledger) -> None:
        """The step is done and its object stands."""
        for one in self._both:
            one.ended(step, seconds, ledger)

    def failed(self, step: Step, seconds: float, error: BaseException) -> None:
        """The step ended with an error (or an interrupt)."""
        for one in self._both:
            one.failed(step, seconds, error)

    def note(self, text: str) -> None:
        """Keep a fact."""
        for one in self._both:
            one.note(text)

    def beat(self, text: str) -> None:
        """Show what is going on right now."""
        for one in self._both:
            one.beat(text)


def plan_rows(plan: Plan) -> list[dict[str, str]]:
    """Return a plan for programs."""
    return [
        {
            "stage": step.stage.name,
            "action": step.action,
            "reason": step.reason,
            "reason_kind": step.reason_kind,
            "digest": step.digest,
        }
        for step in plan.steps
    ]


def times(watched: Watcher, total: float) -> dict[str, Any]:
    """Return the seconds, for programs: by stage, by kind, bytes moved, and the rest (builder's own share)."""
    seconds: dict[str, float] = {}
    moved: dict[str, int] = {}
    for spent in watched.spent:
        for kind, amount in spent.ledger.seconds.items():
            seconds[kind] = seconds.get(kind, 0.0) + amount
        for kind, count in spent.ledger.moved.items():
            moved[kind] = moved.get(kind, 0) + count
    return {
        "total": round(total, 3),
        "kinds": {kind: round(amount, 3) for kind, amount in seconds.items()},
        "rest": round(max(0.0, total - sum(seconds.values())), 3),
        "moved": moved,
        "stages": {spent.stage: _spent(spent) for spent in watched.spent},
    }


def _spent(spent: Spent) -> dict[str, Any]:
    return {
        "seconds": round(spent.seconds, 3),
        "kinds": {kind: round(amount, 3) for kind, amount in spent.ledger.seconds.items()},
        "moved": dict(spent.ledger.moved),
    }


def _ending(error: BaseException) -> str:
    return "failed" if isinstance(error, Exception) else "interrupted"
