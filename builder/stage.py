"""The one rule: a stage sees what was hashed and nothing else.

`digest` chains: it covers the stage's name and version, its full inputs and the digests of the stages it needs.
The recipe itself never reaches `run`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict

from builder.settings import Settings


class Inputs(BaseModel):
    """Base of every stage's inputs: frozen, nothing unknown, dumped whole into the digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Progress(Protocol):
    """What a stage may tell people while it works; `builder.console` shows it."""

    def note(self, text: str) -> None:
        """A fact worth keeping on screen, one line."""

    def beat(self, text: str) -> None:
        """What is going on right now; replaces the last beat."""


class Secrets(Protocol):
    """Secrets of one order; never part of an output file that is published."""

    @property
    def root_password(self) -> str:
        """The plain root password."""

    @property
    def root_crypt(self) -> str:
        """Its SHA-512 crypt string, the same for the same password and store."""

    def mac(self, text: str) -> str:
        """HMAC-SHA256 under the store's key, as hex: the only form in which a secret may enter a digest."""


@dataclass
class Ledger:
    """Where the seconds of a stage went, by kind (`guest`, `copy`, `convert`, `hash`), and bytes moved.

    Args:
        longest: the longest wait of a kind in seconds: `quiet` (no sign of life).
        accel: the accelerator that its guests ran with; "" when there were none.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    moved: dict[str, int] = field(default_factory=dict)
    longest: dict[str, float] = field(default_factory=dict)
    accel: str = ""

    def as_dict(self) -> dict[str, dict[str, float]]:
        """What is kept of it with what was built: where seconds and bytes went."""
        return {"seconds": dict(self.seconds), "moved": dict(self.moved)}

    def waited(self, kind: str, seconds: float) -> None:
        """Note how long something kept us waiting."""
        self.longest[kind] = max(seconds, self.longest.get(kind, 0.0))

    @contextmanager
    def spend(self, kind: str, moved: int = 0) -> Iterator[None]:
        """Book the time of the block, and `moved` bytes, under `kind`."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[kind] = self.seconds.get(kind, 0.0) + time.monotonic() - start
            if moved:
                self.moved[kind] = self.moved.get(kind, 0) + moved


@dataclass(frozen=True)
class Job:
    """One stage's work in one run.

    Args:
        run_id: of the whole run; in every name that must be found again after a crash.
        digest: of this stage: the name of the finished object.
        inputs: what `Stage.inputs` gave, the very object that was hashed.
        needs: finished directories of the needed stages, by stage name. Read only.
        digests: digests of the needed stages, by stage name.
        out: an empty directory; what is here when `run` returns becomes the object.
        scratch: an empty directory on the same file system for what is thrown away when `run` is over.
        evidence: the run's folder; logs are written here as they grow, and kept when the run fails.
        ledger: where time and bytes are booked.
    """

    run_id: str
    digest: str
    inputs: Any
    needs: Mapping[str, Path]
    digests: Mapping[str, str]
    out: Path
    scratch: Path
    evidence: Path
    settings: Settings
    secrets: Secrets
    progress: Progress
    ledger: Ledger


@dataclass(frozen=True)
class Stage:
    """A named step of the pipeline.

    Args:
        name: as shown to people and stored in `stage.json`.
        version: moved by hand whenever `run` would give another result for the same inputs.
        needs: names of the stages whose objects `run` reads.
        inputs: everything from the order that decides the result.
        run: does the work; raises a BuilderError on failure.
        title: a few words for people.
        drop: the object may be dropped as soon as `seal` stands (it is large, or holds a password hash).
        stands: says why a finished object is not good enough any more, None when it is (publish: the image is gone).
        ahead: looks, before the first stage of a run starts, for what `run` would miss on this host; gets the inputs.
    """

    name: str
    version: int
    needs: tuple[str, ...]
    inputs: Callable[[Any], Inputs]
    run: Callable[[Job], None]
    title: str
    drop: bool = False
    stands: Callable[[Path, Settings], str | None] | None = None
    ahead: Callable[[Any, Settings], None] | None = None


def canonical(value: Any) -> bytes:
    """JSON with one spelling for one value: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(stage: Stage, inputs: Inputs, needs: Mapping[str, str]) -> str:
    """The stage's digest, 64 hex digits.

    Args:
        inputs: dumped with all defaults.
        needs: digest of each needed stage, by name.
    """
    whole = {
        "stage": stage.name,
        "version": stage.version,
        "inputs": inputs.model_dump(mode="json"),
        "needs": {name: needs[name] for name in stage.needs},
    }
    return hashlib.sha256(canonical(whole)).hexdigest()


Action = Literal["run", "reuse", "not needed"]


class ReasonKind(StrEnum):
    """Why a step is run, reused or left out; programs may act on the values, so they never change."""

    # The step is run.
    FIRST_RUN = "first run"
    INPUTS_CHANGED = "inputs changed"
    STAGE_VERSION = "stage version"
    CONSEQUENCE = "consequence"  # something that it reads is built anew
    DELETED = "deleted"
    CORRUPT = "corrupt"
    OUTDATED = "outdated"  # the stage itself says that the result is not good enough any more
    ASKED = "asked"
    # It is not.
    FOUND = "found"
    NOT_NEEDED = "not needed"

    @property
    def follows(self) -> bool:
        """Whether the step is run only because another one is."""
        return self in (ReasonKind.CONSEQUENCE, ReasonKind.DELETED)


class Reason(NamedTuple):
    """A kind of reason for programs, and its text for people."""

    kind: ReasonKind
    text: str


@dataclass(frozen=True)
class Step:
    """One line of a plan: what will happen to one stage, and why.

    Args:
        reason: for people; never empty (`kickstart.vars changed: hostname`, `first run`, `finished object found`).
    """

    stage: Stage
    inputs: Inputs
    digest: str
    action: Action
    reason: str
    reason_kind: ReasonKind


@dataclass(frozen=True)
class Plan:
    """The whole order as steps, in pipeline order; what `builder plan` prints and `builder run` executes.

    Args:
        end: the stage whose object is wanted; empty for the last one.
        fresh: stages to run even if their objects stand.
    """

    name: str
    steps: tuple[Step, ...]
    end: str = ""
    fresh: frozenset[str] = frozenset()

    @property
    def idle(self) -> bool:
        """Nothing is left to do."""
        return all(step.action != "run" for step in self.steps)


class Observer(Progress, Protocol):
    """What a run tells whoever watches; `builder.console` has one for terminals, one for pipes, one for programs."""

    def planned(self, plan: Plan, run_id: str) -> None:
        """The run begins."""

    def started(self, step: Step) -> None:
        """A step with action `run` begins."""

    def ended(self, step: Step, seconds: float, ledger: Ledger) -> None:
        """The step is done and its object stands."""

    def failed(self, step: Step, seconds: float, error: BaseException) -> None:
        """The step ended with an error (or an interrupt)."""
