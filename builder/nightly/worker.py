"""The one rule: a build is a `builder run --json` of its own, in a process group of its own, judged by what it says.

What it says on the way comes as JSON lines on standard error, the result as one document on standard output.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from builder import images
from builder.errors import BuilderError, HostError, Interrupted, VerifyError
from builder.images import Image
from builder.nightly.builds import Build
from builder.nightly.record import Fault, ImageFacts, Result, StageTime
from builder.recipe import REHEARSAL
from builder.system.process import Children, Finished
from builder.system.screen import cleaned

# Without -P a folder named `builder` in the working directory would be taken for this program.
BUILDER: tuple[str, ...] = (sys.executable, "-P", "-m", "builder")
NO_NEWS = "nothing changed; verified again"
# Kept of a console for the report.
CONSOLE_LINES = 40
CONSOLE_BYTES = 64 << 10
FAULT_KEYS = ("kind", "brief", "details", "hint", "stage", "cause", "line")
# A night ends its builds by SIGTERM, and kills only what does not obey for a minute.
_KILLED = {"kind": "host", "hint": "dmesg tells whether the kernel ran out of memory"}

Tell = Callable[[Build, dict[str, Any]], None]


@dataclass(frozen=True)
class Orders:
    """What all builds of a night have in common.

    Args:
        artifacts: everything is kept below this folder.
        options: words for `builder run` (`--media FILE`, `--accel tcg`, …).
        command: the words that start builder.
        push: where in a registry images go (`oci://HOST/REPOSITORY`), and words for `images push`; empty for nowhere.
        began: `time.monotonic()` when the night began.
    """

    artifacts: Path
    options: tuple[str, ...]
    began: float
    command: Sequence[str] = BUILDER
    push: tuple[str, ...] = ()

    @property
    def images(self) -> Path:
        """The catalogue."""
        return self.artifacts / "images"

    def words(self, *words: str) -> list[str]:
        """A command line."""
        return [*self.command, "--artifacts", str(self.artifacts), *words]

    @property
    def now(self) -> float:
        """Seconds since the night began."""
        return time.monotonic() - self.began


class _Listener:
    """What a build says of its stages, while it says it."""

    def __init__(self, build: Build, orders: Orders, tell: Tell) -> None:
        self.build, self.orders, self.tell = build, orders, tell
        self.start = orders.now
        self.stages: dict[str, StageTime] = {}
        self.run = ""
        self.name = build.name
        self.before: Image | None = None

    def hear(self, line: str) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            return
        if not isinstance(event, dict) or "event" not in event:
            return
        stage = self.stages.get(str(event.get("stage")))
        match event["event"]:
            case "planned":
                self.run, self.name = str(event["run"]), str(event["name"])
                self.stages = {
                    row["stage"]: StageTime(
                        stage=row["stage"],
                        action=row["action"],
                        reason=row["reason"],
                        reason_kind=row["reason_kind"],
                    )
                    for row in event["stages"]
                }
                self.before = _latest(self.orders.images, self.name)
            case "started" if stage:
                stage.start, stage.action = self.start + float(event["at"]), "run"
            case "ended" | "failed" if stage:
                stage.seconds, stage.failed = float(event["seconds"]), event["event"] == "failed"
        self.tell(self.build, event)

    def why(self) -> str:
        """What changed: the first reason that is none that follows from others."""
        run = [stage for stage in self.stages.values() if stage.action == "run"]
        first = next((stage for stage in run if stage.reason_kind and not stage.reason_kind.follows), None)
        return first.reason if first else run[0].reason if run else ""


def perform(build: Build, orders: Orders, children: Children, tell: Tell) -> Result:
    """Run one build to its end; whatever becomes of it is in the result, and nothing is raised but an interrupt."""
    heard = _Listener(build, orders, tell)
    blank = Result(
        name=build.name,
        pipeline=build.pipeline,
        sets=dict(build.sets),
        rehearsal=build.rehearsal,
        verdict="failed",
        start=heard.start,
    )
    if build.fault is not None:
        fault = build.fault
        told = Fault(
            kind=fault.kind, exit_code=fault.exit_code, brief=fault.brief, details=fault.details, hint=fault.hint
        )
        result = blank.model_copy(update={"exit_code": fault.exit_code, "fault": told})
    else:
        sets = [word for place, value in build.sets for word in ("--set", f"{place}={value}")]
        words = orders.words("run", build.pipeline, *sets, *orders.options, "--json")
        done = children.run(words, heard.hear)
        result = _judge(blank, heard, done, orders, children)
        if result.good and orders.push:
            result = _push(result, orders, children)
    result.seconds = round(orders.now - heard.start, 3)
    return result


def _judge(blank: Result, heard: _Listener, done: Finished, orders: Orders, children: Children) -> Result:
    stages = list(heard.stages.values())
    result = blank.model_copy(update={"stages": stages, "run": heard.run, "why": heard.why()})
    # A medium given as a file may turn out to be a rehearsal's.
    result.name, result.rehearsal = heard.name, heard.name.endswith(REHEARSAL)
    document = _document(done)
    if document is None or "error" in document:
        return _failed(result, done, (document or {}).get("error"), orders)
    result.folder, result.evidence = document["folder"], _files(Path(document["folder"]))
    try:
        image = images.load_image(orders.images, f"{document['name']}@{document['image']['version']}")
    except BuilderError as fault:
        return _failed(result, replace(done, status=fault.exit_code), fault.as_dict(), orders)
    result.image = _facts(image)
    if not document["built"]:
        return _verify_again(result, orders, children)
    result.verdict = "published"
    if heard.before is not None:
        result.difference = _difference(heard.before, image)
    return result


def _verify_again(result: Result, orders: Orders, children: Children) -> Result:
    """Nothing that went in has changed; whether the image has is found out by reading all of it."""
    assert result.image is not None
    spec = f"{result.image.name}@{result.image.version}"
    result.verdict, result.why = "no news", NO_NEWS
    start = orders.now
    done = children.run(orders.words("images", "verify", spec, "--json"), lambda _: None)
    again = StageTime(stage="verify again", action="run", reason=NO_NEWS, start=start, failed=done.status != 0)
    again.seconds = round(orders.now - start, 3)
    result.stages = [*result.stages, again]
    if done.status == 0:
        return result
    try:
        faults = [line for proof in json.loads(done.stdout) for line in proof["faults"]]
    except (ValueError, TypeError, KeyError):
        return _failed(result, done, (_document(done) or {}).get("error"), orders)
    error = VerifyError(
        f"{spec} is not what was published", "\n".join(faults), f"builder images rollback {result.image.name}"
    )
    failed = _failed(result, replace(done, status=VerifyError.exit_code), error.as_dict(), orders)
    failed.verdict, failed.why = "rotten", "nothing that goes in has changed, but the image has"
    return failed


def _push(result: Result, orders: Orders, children: Children) -> Result:
    """Send what was proved tonight to the registry; what is there already is only asked for."""
    assert result.image is not None
    base, *words = orders.push
    address = f"{base}/{result.image.name}"
    start = orders.now
    spec = f"{result.image.name}@{result.image.version}"
    done = children.run(orders.words("images", "push", spec, address, *words, "--json"), lambda _: None)
    step = StageTime(stage="push", action="run", reason=f"to {address}", start=start, failed=done.status != 0)
    step.seconds = round(orders.now - start, 3)
    result.stages = [*result.stages, step]
    facts = _document(done)
    if done.status != 0 or facts is None:
        return _failed(result, done, (facts or {}).get("error"), orders)
    result.pushed = f"{facts['repository']}@{facts['digest']}"
    return result


def _failed(result: Result, done: Finished, error: Mapping[str, Any] | None, orders: Orders) -> Result:
    """The verdict, with the evidence that a reader wants to see first."""
    code = done.status
    if error is None:
        how = f"exit status {code}" if code >= 0 else signal.Signals(-code).name
        error = {"kind": "error", "brief": f"the build ended without a verdict ({how})", "details": done.said}
    if code < 0:
        error = {**error, **(_KILLED if -code == signal.SIGKILL else {})}
        code = {signal.SIGTERM: Interrupted.exit_code, signal.SIGKILL: HostError.exit_code}.get(
            signal.Signals(-code), 1
        )
    result.verdict = "interrupted" if code == Interrupted.exit_code else "failed"
    result.exit_code = code
    kept = {key: error[key] for key in FAULT_KEYS if error.get(key)}
    result.fault = Fault(**{"exit_code": code, "brief": "failed", "kind": "error", **kept})
    folder = orders.artifacts / "runs" / result.run
    if result.run and folder.is_dir():
        result.folder, result.evidence = str(folder), _files(folder)
        pictures = [name for name in result.evidence if name.endswith(".png")]
        consoles = [name for name in result.evidence if name.endswith("console.log")]
        if pictures:
            result.picture = max(pictures, key=lambda name: (folder / name).stat().st_mtime)
        if consoles:
            result.console = _tail(folder / max(consoles, key=lambda name: (folder / name).stat().st_mtime))
    return result


def _document(done: Finished) -> dict[str, Any] | None:
    try:
        found = json.loads(done.stdout)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _latest(catalogue: Path, name: str) -> Image | None:
    """The last good image of this name, with which tonight's is compared."""
    try:
        return images.load_image(catalogue, name)
    except BuilderError:
        return None


def _difference(old: Image, new: Image) -> dict[str, Any] | None:
    return images.compare(old, new).as_dict() if old.version != new.version else None


def _facts(image: Image) -> ImageFacts:
    twins = (image.manifest.get("verified") or {}).get("twins") or {}
    first: dict[str, Any] = next(iter(twins.values()), {})
    boot = first.get("boot_seconds")
    size = int(image.manifest["files"][image.disk.name]["size"])
    created = str(image.manifest["created"])
    return ImageFacts(
        name=image.name, version=image.version, sha256=image.sha256, size=size, created=created, boot=boot
    )


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _tail(console: Path) -> str:
    """What a reader of the terminal saw last."""
    with console.open("rb") as file:
        file.seek(max(0, console.stat().st_size - CONSOLE_BYTES))
        lines = cleaned(file.read()).splitlines()
    return "\n".join(lines[-CONSOLE_LINES:])
