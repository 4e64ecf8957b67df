"""The record of a nightly run, `night.json`: its builds, their verdicts, stages, images and faults.

Invariant: every page of a report is made from this record alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from builder.stage import ReasonKind

FILE = "night.json"
# Exit code of a run whose builds failed in several ways.
MIXED = 10

Verdict = Literal["published", "unchanged", "failed", "corrupt", "interrupted", "skipped"]
GOOD = ("published", "unchanged")
# The words in records of builder before 2026-11-29.
_HALVES = re.compile(r"[\ud800-\udfff]")
_OLD_VERDICTS = {"no news": "unchanged", "rotten": "corrupt", "not built": "skipped"}
ReadableVerdict = Annotated[Verdict, BeforeValidator(lambda word: _OLD_VERDICTS.get(word, word))]


class StageTime(BaseModel):
    """One stage of one build; `start` in seconds since the run began."""

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
        boot: seconds until root could log in.
    """

    name: str
    version: str
    sha256: str
    size: int
    created: str = ""
    boot: float | None = None


class Fault(BaseModel):
    """The reason why a build failed.

    Args:
        stage: the stage that failed; None outside of stages.
        cause: name of the known cause; "" for none.
        line: the line that names it.
    """

    kind: str
    exit_code: int
    brief: str
    details: str = ""
    hint: str = ""
    stage: str | None = None
    cause: str = ""
    line: str = ""


class Notification(BaseModel):
    """Delivery status of one message.

    Args:
        to: label of the address, without its secrets.
        why: why it was not delivered.
    """

    to: str
    delivered: bool
    why: str = ""


class Result(BaseModel):
    """The result of one build.

    Args:
        name: name of the image in the catalogue.
        rehearsal: the image is made from a rehearsal medium, and not for use; its name says so, too.
        why: what changed, or that nothing did; one line.
        start, seconds: when it began, in seconds since the run did, and how long it took.
        run: id of its `builder run`; "" when it did not get that far.
        folder: the folder of that run, with the evidence.
        evidence: names of the files in it.
        difference: from the last good image (`builder.images.Difference`); None when there is nothing to compare.
        console: the last lines of a failed guest's console.
        picture: name of the screenshot among the evidence.
        usual: seconds that it took when it was last built, in this run or before; 0 when that is not known.
        pushed: where it is in a registry, by digest; "" when it was not pushed.
        host, kept: the farm's worker that built it, and the folder there with its image; "" for this host.
    """

    name: str
    pipeline: str
    sets: dict[str, str] = Field(default_factory=dict)
    rehearsal: bool = False
    verdict: ReadableVerdict
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
        """True if there is an image that this run verified."""
        return self.verdict in GOOD


def checked(result: Result) -> Result:
    """Return the same result as a file can hold it: without the halves of characters that JSON and file names may have.

    Raises:
        ValidationError: it is not a valid result; a worker of another version may have made it.
    """
    return Result.model_validate(_writable(result.model_dump(warnings=False)))


def _writable(value: object) -> object:
    match value:
        case str():
            return _HALVES.sub("\ufffd", value)
        case dict():
            return {_writable(key): _writable(content) for key, content in value.items()}
        case list() | tuple():
            return [_writable(content) for content in value]
    return value


class NightlyRun(BaseModel):
    """One nightly run.

    Args:
        date: name of its folder: `2026-11-23`; the second one of a day is `2026-11-23.2`.
        started, ended: UTC, ISO 8601.
        jobs: how many builds ran at a time.
        jobs_why: what limited that number.
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
        """True if any of its images is made from a rehearsal medium."""
        return any(result.rehearsal for result in self.results)

    def verdicts(self) -> dict[str, int]:
        """Count the builds of each verdict."""
        counts: dict[str, int] = {}
        for result in self.results:
            counts[result.verdict] = counts.get(result.verdict, 0) + 1
        return counts


def exit_code(results: Sequence[Result]) -> int:
    """Return 0, the code that all failed builds share, or 10 when they failed in several ways."""
    codes = {result.exit_code for result in results if not result.good and result.verdict != "skipped"}
    if not codes:
        return 0 if all(result.good for result in results) else 1
    return codes.pop() if len(codes) == 1 else MIXED


def usual_seconds(runs: Sequence[NightlyRun]) -> dict[str, float]:
    """Return by name the seconds that each build took when it was last built; verifying again does not count."""
    return {result.name: result.usual for run in runs for result in run.results if result.usual}


def load_runs(reports: Path) -> list[NightlyRun]:
    """Read all runs on record, the oldest first; folders without a readable record are passed over."""
    if not reports.is_dir():
        return []
    runs = []
    for path in reports.glob(f"[0-9]*/{FILE}"):
        try:
            run = NightlyRun.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            continue
        # Its date is the name of its folder, which is removed by it one day.
        if run.date == path.parent.name:
            runs.append(run)
    return sorted(runs, key=lambda run: (run.started, run.date))
