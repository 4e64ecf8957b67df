"""Run one build of a nightly run: `builder run --json`, then `images verify` or nothing, then `images push`.

Each is a child process in a process group of its own. Events come as JSON lines on its standard error, the result as
one document on its standard output.

Invariant: whatever goes wrong in one build, a bug of ours included, becomes the result of that build.
"""

from __future__ import annotations

import json
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder import images
from builder.errors import BuilderError, HostError, Interrupted, VerifyError
from builder.images import Image
from builder.nightly.builds import ImageBuild
from builder.nightly.progress import OnEvent
from builder.nightly.record import Fault, ImageFacts, Result, StageTime
from builder.recipe import REHEARSAL
from builder.system.process import Children, Finished
from builder.system.screen import cleaned
from builder.system.tail import last_bytes

# Without -P a folder named `builder` in the working directory would be taken for this program.
BUILDER: tuple[str, ...] = (sys.executable, "-P", "-m", "builder")
UNCHANGED = "nothing changed; verified again"
# How much of a console goes into the report.
CONSOLE_LINES = 40
CONSOLE_BYTES = 64 << 10
FAULT_KEYS = ("kind", "brief", "details", "hint", "stage", "cause", "line")
# We send SIGKILL only to builds that ignore SIGTERM for a minute; any other one comes from the kernel.
_KILLED = {"kind": "host", "hint": "dmesg tells whether the kernel ran out of memory"}


@dataclass(frozen=True)
class WorkerOptions:
    """Options that all builds of a nightly run share.

    Args:
        artifacts: everything is kept below this folder.
        options: options for `builder run` (`--media FILE`, `--accel tcg`, …).
        began: `time.monotonic()` when the run began.
        command: the command line that starts builder.
        push: where in a registry images go (`oci://HOST/REPOSITORY`), and options for `images push`; empty for nowhere.
        fail_fast: start nothing more after the first failure.
    """

    artifacts: Path
    options: tuple[str, ...]
    began: float
    command: Sequence[str] = BUILDER
    push: tuple[str, ...] = ()
    fail_fast: bool = False

    @property
    def images(self) -> Path:
        """The catalogue."""
        return self.artifacts / "images"

    def argv(self, *arguments: str) -> list[str]:
        """Return the command line of a builder command."""
        return [*self.command, "--artifacts", str(self.artifacts), *arguments]

    @property
    def now(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.began


class _EventReader:
    """Reads the events of a build and keeps what is known of its stages."""

    def __init__(self, build: ImageBuild, options: WorkerOptions, on_event: OnEvent) -> None:
        self.build, self.options, self.on_event = build, options, on_event
        self.start = options.now
        self.stages: dict[str, StageTime] = {}
        self.run = ""
        self.name = build.name
        self.before: Image | None = None

    def feed(self, line: str) -> None:
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
                keys = ("stage", "action", "reason", "reason_kind")
                self.stages = {row["stage"]: StageTime(**{key: row[key] for key in keys}) for row in event["stages"]}
                self.before = _latest(self.options.images, self.name)
            case "started" if stage:
                stage.start, stage.action = self.start + float(event["at"]), "run"
            case "ended" | "failed" if stage:
                stage.seconds, stage.failed = float(event["seconds"]), event["event"] == "failed"
        self.on_event(self.build, event)

    def why(self) -> str:
        """Return what changed: the first reason that is not a consequence of others."""
        run = [stage for stage in self.stages.values() if stage.action == "run"]
        first = next((stage for stage in run if stage.reason_kind and not stage.reason_kind.follows), None)
        return first.reason if first else run[0].reason if run else ""


def run_build(build: ImageBuild, options: WorkerOptions, children: Children, on_event: OnEvent) -> Result:
    """Run one build to its end, and return its result; raises nothing but an interrupt."""
    start = options.now
    result = skipped(build, "")
    result.verdict, result.start = "failed", start
    try:
        if build.fault is not None:
            raise build.fault
        _run(result, _EventReader(build, options, on_event), children)
        if result.good and options.push:
            _push(result, options, children)
    except Exception as error:
        if result.fault is None:
            fail(result, error)
    result.seconds = round(options.now - start, 3)
    return result


def skipped(build: ImageBuild, why: str) -> Result:
    """Return the result of a build that never began."""
    return Result(
        name=build.name,
        pipeline=build.pipeline,
        sets=dict(build.sets),
        rehearsal=build.rehearsal,
        verdict="skipped",
        why=why,
    )


def fail(result: Result, error: Exception) -> Result:
    """Make an exception the failure of a build."""
    if isinstance(error, BuilderError):
        result.fault = Fault.model_validate(error.as_dict())
    else:
        brief = f"internal error: {type(error).__name__} (this is a bug of builder)"
        details = "".join(traceback.format_exception(error))
        result.fault = Fault(kind=BuilderError.kind, exit_code=BuilderError.exit_code, brief=brief, details=details)
    result.verdict, result.exit_code = "failed", result.fault.exit_code
    return result


def _run(result: Result, reader: _EventReader, children: Children) -> None:
    """Run `builder run`, and fill in what it did."""
    build, options = reader.build, reader.options
    sets = [word for key, value in build.sets for word in ("--set", f"{key}={value}")]
    done = children.run(options.argv("run", build.pipeline, *sets, *options.options, "--json"), reader.feed)
    result.stages, result.run, result.why = list(reader.stages.values()), reader.run, reader.why()
    # A medium that was given as a file may turn out to be a rehearsal medium.
    result.name, result.rehearsal = reader.name, reader.name.endswith(REHEARSAL)
    document = _document(done)
    if document is None or "error" in document:
        _failed(result, done, (document or {}).get("error"), options)
        return
    result.folder, result.evidence = document["folder"], _files(Path(document["folder"]))
    image = images.load_image(options.images, f"{document['name']}@{document['image']['version']}")
    result.image = _facts(image)
    if not document["built"]:
        _verify_again(result, options, children)
        return
    result.verdict = "published"
    if reader.before is not None and reader.before.version != image.version:
        result.difference = images.compare(reader.before, image).as_dict()


def _verify_again(result: Result, options: WorkerOptions, children: Children) -> None:
    """Read all of an image whose inputs have not changed: the image itself may have."""
    assert result.image is not None
    spec = f"{result.image.name}@{result.image.version}"
    result.why = UNCHANGED
    done = _timed(result, "verify again", UNCHANGED, children, options, "images", "verify", spec)
    if done.status == 0:
        result.verdict = "unchanged"
        return
    try:
        faults = [line for proof in json.loads(done.stdout) for line in proof["faults"]]
    except (ValueError, TypeError, KeyError):
        _failed(result, done, (_document(done) or {}).get("error"), options)
        return
    hint = f"builder images rollback {result.image.name}"
    fail(result, VerifyError(f"{spec} differs from what was published", "\n".join(faults), hint))
    result.verdict, result.why = "corrupt", "no input has changed, but the image has"


def _push(result: Result, options: WorkerOptions, children: Children) -> None:
    """Push a verified image to the registry; of one that is there already only the digest is asked for."""
    assert result.image is not None
    base, *more = options.push
    address = f"{base}/{result.image.name}"
    spec = f"{result.image.name}@{result.image.version}"
    done = _timed(result, "push", f"to {address}", children, options, "images", "push", spec, address, *more)
    facts = _document(done)
    if done.status != 0 or facts is None:
        _failed(result, done, (facts or {}).get("error"), options)
        return
    result.pushed = f"{facts['repository']}@{facts['digest']}"


def _timed(
    result: Result, stage: str, reason: str, children: Children, options: WorkerOptions, *arguments: str
) -> Finished:
    """Run a builder command as one more stage of a build."""
    start = options.now
    done = children.run(options.argv(*arguments, "--json"), lambda _: None)
    seconds = round(options.now - start, 3)
    result.stages.append(
        StageTime(stage=stage, action="run", reason=reason, start=start, seconds=seconds, failed=done.status != 0)
    )
    return done


def _failed(result: Result, done: Finished, error: Mapping[str, Any] | None, options: WorkerOptions) -> None:
    """Fill in a failure: its fault first, then the evidence that a reader wants to see first."""
    code = done.status
    if error is None:
        how = f"exit status {code}" if code >= 0 else signal.Signals(-code).name
        error = {"kind": "error", "brief": f"the build ended without a verdict ({how})", "details": done.error_text}
    if code < 0:
        error = {**error, **(_KILLED if -code == signal.SIGKILL else {})}
        code = {signal.SIGTERM: Interrupted.exit_code, signal.SIGKILL: HostError.exit_code}.get(
            signal.Signals(-code), 1
        )
    result.verdict = "interrupted" if code == Interrupted.exit_code else "failed"
    result.exit_code = code
    facts = {key: error[key] for key in FAULT_KEYS if error.get(key)}
    result.fault = Fault(**{"exit_code": code, "brief": "failed", "kind": "error", **facts})
    folder = options.artifacts / "runs" / result.run
    if result.run and folder.is_dir():
        result.folder, result.evidence = str(folder), _files(folder)
        result.picture = _newest(folder, [name for name in result.evidence if name.endswith(".png")])
        console = _newest(folder, [name for name in result.evidence if name.endswith("console.log")])
        result.console = _last_lines(folder / console) if console else ""


def _document(done: Finished) -> dict[str, Any] | None:
    try:
        document = json.loads(done.stdout)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _latest(catalogue: Path, name: str) -> Image | None:
    """Return the last good image of this name, with which a new one is compared."""
    try:
        return images.load_image(catalogue, name)
    except BuilderError:
        return None


def _facts(image: Image) -> ImageFacts:
    return ImageFacts(
        name=image.name,
        version=image.version,
        sha256=image.sha256,
        size=image.size,
        created=str(image.manifest["created"]),
        boot=image.facts.verified.first.boot_seconds,
    )


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _newest(folder: Path, names: Sequence[str]) -> str:
    return max(names, key=lambda name: (folder / name).stat().st_mtime, default="")


def _last_lines(console: Path) -> str:
    """Return the last lines that a terminal showed."""
    lines = cleaned(last_bytes(console, CONSOLE_BYTES)).splitlines()
    return "\n".join(lines[-CONSOLE_LINES:])
