"""The contract of the stages: what they get, what they are, and how a plan and its observers see them.

Invariant: a stage sees what was hashed and nothing else. `digest` chains: it covers the stage's name and version, its
full inputs and the digests of the stages it needs. The recipe itself never reaches `run`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from builder.settings import BuildOptions, HostOptions, Paths, Settings


class Inputs(BaseModel):
    """Base of every stage's inputs: frozen, nothing unknown, dumped whole into the digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def added(default: Any) -> Any:
    """Return a field of inputs that enters the digest only where it differs from this default.

    For what is decided since a field exists, and was always so before: what was built then stays up to date.
    """
    return Field(default=default, exclude_if=lambda value: value == default)


InputsT = TypeVar("InputsT", bound=Inputs)
InputsT_co = TypeVar("InputsT_co", bound=Inputs, covariant=True)


class Progress(Protocol):
    """Reporter that a stage calls while it works; `builder.console` displays it."""

    def note(self, text: str) -> None:
        """Keep a fact on screen, one line."""

    def beat(self, text: str) -> None:
        """Report current activity; replaces the last beat."""


class Secrets(Protocol):
    """Secrets of one build; never part of an output file that is published."""

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
    """Seconds of a stage, by kind (`host`, `guest`, `copy`, `convert`, `hash`), and bytes moved.

    `host` is the time until machines run, `guest` the time that they run.

    Args:
        accel: the accelerator that its guests ran with; "" when there were none.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    moved: dict[str, int] = field(default_factory=dict)
    accel: str = ""

    def as_dict(self) -> dict[str, dict[str, float]]:
        """Return what is stored with the object: seconds and bytes by kind."""
        return {"seconds": dict(self.seconds), "moved": dict(self.moved)}

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
class Job(Generic[InputsT_co]):
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
        paths: where store, catalogue and the files of recipes are.
        host: how machines are run.
        build: where the medium comes from, and the time limits.
        ledger: where time and bytes are booked.
        signing_key: private key that signs what is published; None leaves it unsigned.
    """

    run_id: str
    digest: str
    inputs: InputsT_co
    needs: Mapping[str, Path]
    digests: Mapping[str, str]
    out: Path
    scratch: Path
    evidence: Path
    paths: Paths
    host: HostOptions
    build: BuildOptions
    secrets: Secrets
    progress: Progress
    ledger: Ledger
    signing_key: Path | None = None


def with_inputs(job: Job[Any], inputs: InputsT, *, out: Path, scratch: Path, ledger: Ledger) -> Job[InputsT]:
    """Return a job of another stage that is done within this one."""
    return replace(job, inputs=inputs, out=out, scratch=scratch, ledger=ledger)


@dataclass(frozen=True)
class Stage(Generic[InputsT]):
    """A named step of the pipeline.

    Args:
        name: as shown to people and stored in `stage.json`.
        version: moved by hand whenever `run` would give another result for the same inputs.
        needs: names of the stages whose objects `run` reads.
        inputs: takes from the build's specification everything that decides the result.
        run: does the work; raises a BuilderError on failure.
        title: a few words for people.
        intermediate: the object is large or holds a password hash, and is dropped once nothing will read it any more.
        frees_intermediates: when this stage is done, the intermediate objects before it are dropped.
        why_stale: says why a finished object is out of date although its files are sound (publish: the image is
            gone); None when it is up to date.
        preflight: looks, before the first stage of a run starts, for what `run` would miss on this host.
    """

    name: str
    version: int
    needs: tuple[str, ...]
    inputs: Callable[[Any], InputsT]
    run: Callable[[Job[InputsT]], None]
    title: str
    intermediate: bool = False
    frees_intermediates: bool = False
    why_stale: Callable[[Path, Paths], str | None] | None = None
    preflight: Callable[[InputsT, Settings], None] | None = None


def canonical(value: Any) -> bytes:
    """JSON with one spelling for one value: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(stage: Stage[Any], inputs: Inputs, needs: Mapping[str, str]) -> str:
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
    """Reason why a step is run, reused or left out; programs may act on the values, so they never change."""

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
        """True if the step is run only because another one is."""
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

    stage: Stage[Any]
    inputs: Inputs
    digest: str
    action: Action
    reason: str
    reason_kind: ReasonKind


@dataclass(frozen=True)
class Plan:
    """All steps of a build, in pipeline order; what `builder plan` prints and `builder run` executes.

    Args:
        name: of the image.
        fresh: stages to run even if their objects are up to date.
    """

    name: str
    steps: tuple[Step, ...]
    fresh: frozenset[str] = frozenset()

    @property
    def idle(self) -> bool:
        """Return whether nothing is left to do."""
        return all(step.action != "run" for step in self.steps)


class Observer(Progress, Protocol):
    """Observer of a run; `builder.console` has one for terminals, one for pipes, one for programs."""

    def planned(self, plan: Plan, run_id: str) -> None:
        """The run begins."""

    def started(self, step: Step) -> None:
        """A step with action `run` begins."""

    def ended(self, step: Step, seconds: float, ledger: Ledger) -> None:
        """The step is done and its object is in the store."""

    def failed(self, step: Step, seconds: float, error: BaseException) -> None:
        """The step ended with an error (or an interrupt)."""
