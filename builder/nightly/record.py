"""The one rule: what is known of a night is in its `night.json`; every page of its report is made from that alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from builder.stage import ReasonKind

FILE = "night.json"

Verdict = Literal["published", "no news", "failed", "rotten", "interrupted", "not built"]
GOOD = ("published", "no news")


class StageTime(BaseModel):
    """One stage of one build; `start` in seconds since the night began."""

    stage: str
    action: str
    reason: str = ""
    reason_kind: ReasonKind | None = None
    start: float | None = None
    seconds: float = 0.0
    failed: bool = False


class ImageFacts(BaseModel):
    """The image that a build ended with.

    Args:
        size: bytes.
        created: when it was published: UTC, ISO 8601.
        boot: seconds until root was let in.
    """

    name: str
    version: str
    sha256: str
    size: int
    created: str = ""
    boot: float | None = None


class Fault(BaseModel):
    """Why a build failed; `stage` is where, `cause` its name and `line` what proves it ("" when none is known)."""

    kind: str
    exit_code: int
    brief: str
    details: str = ""
    hint: str = ""
    stage: str | None = None
    cause: str = ""
    line: str = ""


class Notification(BaseModel):
    """What became of one message about a night.

    Args:
        to: label of the address, without what is secret in it.
        why: why it was not delivered.
    """

    to: str
    delivered: bool
    why: str = ""


class Result(BaseModel):
    """What became of one build.

    Args:
        name: of the image in the catalogue.
        rehearsal: the image is made from a rehearsal medium, and not for use; its name says so, too.
        why: what changed, or that nothing did; one line.
        start, seconds: when it began, in seconds since the night did, and how long it took.
        run: id of the run; "" when it did not come that far.
        folder: of the run, with the evidence.
        evidence: names of the files in it.
        difference: from the last good image (`builder.images.Difference`); None when there is nothing to compare.
        console: the last lines of a failed guest's console.
        picture: name of the screenshot among the evidence.
        usual: seconds that it took when it was built last, tonight or before; 0 when nobody knows.
        pushed: where it is in a registry, by digest; "" when it was not pushed.
        host, kept: the worker of a farm that built it, and the folder there with its image; "" for this host.
    """

    name: str
    pipeline: str
    sets: dict[str, str] = Field(default_factory=dict)
    rehearsal: bool = False
    verdict: Verdict
    exit_code: int = 0
    why: str = ""
    start: float = 0.0
    seconds: float = 0.0
    run: str = ""
    folder: str = ""
    evidence: list[str] = Field(default_factory=list)
    stages: list[StageTime] = Field(default_factory=list)
    image: ImageFacts | None = None
    difference: dict[str, Any] | None = None
    fault: Fault | None = None
    console: str = ""
    picture: str = ""
    pushed: str = ""
    host: str = ""
    kept: str = ""
    usual: float = 0.0

    @property
    def good(self) -> bool:
        """There is an image that was proved tonight."""
        return self.verdict in GOOD


class Night(BaseModel):
    """One night.

    Args:
        date: name of its folder: `2026-11-23`; the second one of a day is `2026-11-23.2`.
        started, ended: UTC, ISO 8601.
        jobs: how many builds ran at a time, and `why` not more.
        notifications: the messages that were sent about it.
    """

    date: str
    started: str
    ended: str
    seconds: float
    host: str
    builder: str
    jobs: int
    jobs_why: str
    exit_code: int
    results: list[Result]
    notifications: list[Notification] = Field(default_factory=list)

    @property
    def rehearsal(self) -> bool:
        """Whether images of it are made from a rehearsal medium."""
        return any(result.rehearsal for result in self.results)

    def verdicts(self) -> dict[str, int]:
        """How many builds of each verdict."""
        found: dict[str, int] = {}
        for result in self.results:
            found[result.verdict] = found.get(result.verdict, 0) + 1
        return found


def exit_code(results: Sequence[Result]) -> int:
    """What the night ends with: 0, the code that all failures share, or 10 when they failed in several ways."""
    codes = {result.exit_code for result in results if not result.good and result.verdict != "not built"}
    if not codes:
        return 0 if all(result.good for result in results) else 1
    return codes.pop() if len(codes) == 1 else MIXED


MIXED = 10


def usual(found: Sequence[Night]) -> dict[str, float]:
    """Seconds that each build took when it was built last, by name; a night without news tells nothing of that."""
    return {one.name: one.usual for night in found for one in night.results if one.usual}


def nights(reports: Path) -> list[Night]:
    """All nights on record, the oldest first; folders without a readable record are passed over."""
    if not reports.is_dir():
        return []
    found = []
    for path in reports.glob(f"[0-9]*/{FILE}"):
        try:
            found.append(Night.model_validate_json(path.read_bytes()))
        except (OSError, ValidationError):
            continue
    return sorted(found, key=lambda night: (night.started, night.date))
