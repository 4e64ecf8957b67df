"""Runs: which are alive, their records (`run.json`), and how many are kept.

Invariant: a run is alive as long as its mark is locked. The mark, in the store, also lists the digests that the run
needs, so that they are not removed. Making a mark and looking for dead ones share one lock: a mark that is made but not
locked yet must not look dead.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import json
import os
import re
import secrets as randomness
import traceback
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TextIO

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from builder.errors import BuilderError, Diagnosis, HostError, Interrupted, PublishError, Source
from builder.store.objects import remove
from builder.store.store import Store
from builder.system import locks
from builder.system.atomic_file import replacing
from builder.system.plain_file import entries_below

RECORD = "run.json"
VERDICT = "verdict.json"
EVENTS = "events.jsonl"
README = "README.txt"
# What may be in a run's folder, in the order in which one looks.
FILES = {
    VERDICT: "what went wrong, for programs: cause, line, source, transient, exit code",
    "console.txt": "what the installer showed, without escape codes",
    "anaconda.log": "the installer's own log",
    "screenshot.png": "the last picture of the screen",
    "ttyS1.log": "what the machine reported of itself",
    "kickstart.cfg": "the kickstart that the installer got; secrets are masked",
    "private_keys.txt": "each private key on the disk, and the file that holds it",
    "qemu.log": "QEMU's own words, with its command line",
    "domain.xml": "the machine as libvirt got it",
    EVENTS: "every step of the run, one JSON object a line",
    "console.log": "what the installer showed, byte for byte",
    RECORD: "the run's record: steps, digests, seconds",
}
# Where to look first, by the source of the line that names the cause. For the others it is the console of the machine
# that failed, if one did.
FIRST_LOOK = {
    Source.CONSOLE: "console.txt",
    Source.INSTALLER_LOG: "anaconda.log",
    Source.GUEST_REPORT: "ttyS1.log",
    Source.QEMU_LOG: "qemu.log",
    Source.LIBVIRT: "console.txt",
    Source.WATCHDOG: "console.txt",
    Source.KICKSTART: "kickstart.cfg",
    Source.PROVISION_LOG: "provision.log",
    Source.PRIVATE_KEYS: "private_keys.txt",
}
KEEP_RUNS = 50
KEEP_BYTES = 2 << 30

_ALPHABET = "23456789abcdefghjkmnpqrstuvwxyz"
_SECRET_WORD = re.compile(r"(?i)^(.*?(?:passw|secret|token|crypt|private)(?![^=]*file=)[^=]*=).*$", re.DOTALL)
_USER_INFO = re.compile(r"(?<=://)[^/@\s]*:[^/@\s]*(?=@)")

Outcome = Literal["running", "done", "failed", "interrupted", "killed"]


def new_id() -> str:
    """A name for a run that sorts by time: `20261123-094501-k3f9` (UTC)."""
    tail = "".join(randomness.choice(_ALPHABET) for _ in range(4))
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{tail}"


# -- marks


@contextmanager
def register(store: Store, run_id: str, claims: Collection[str] = ()) -> Iterator[None]:
    """Be a live run for the length of the block.

    Args:
        claims: digests that must not be removed while the run lives.

    Raises:
        PublishError: a run of this id is there already.
    """
    store.prepare()
    mark = store.marks / run_id
    with gate(store):
        try:
            handle = os.open(mark, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            raise PublishError(f"run {run_id} exists already", hint="start it again: it gets another id") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            os.write(handle, json.dumps(sorted(claims)).encode())
        except BaseException:
            mark.unlink(missing_ok=True)
            os.close(handle)
            raise
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)
        os.close(handle)


@contextmanager
def gate(store: Store) -> Iterator[None]:
    """The lock under which runs are registered and what dead runs left is removed."""
    with locks.held(store.lock("gate")):
        yield


def live(store: Store) -> set[str]:
    """Ids of the runs that are alive. Call it inside `gate` if something is removed by its answer."""
    return {mark.name for mark in _marks(store) if not _dead(mark)}


def claimed(store: Store) -> set[str]:
    """Digests that live runs need. Call it inside `gate` before removing an object."""
    found: set[str] = set()
    for mark in _marks(store):
        if not _dead(mark):
            # A run may end just now, and its mark with it.
            with contextlib.suppress(FileNotFoundError):
                found.update(_claims(mark))
    return found


def release(store: Store, run_id: str, digest: str) -> None:
    """The run needs this digest no more."""
    with gate(store):
        mark = store.marks / run_id
        # In place: another file under this name would not be locked.
        mark.write_text(json.dumps(sorted(_claims(mark) - {digest})), encoding="utf-8")


def dead(store: Store) -> list[str]:
    """Ids of the runs whose process is gone. Call it inside `gate`, and `bury` them there."""
    return [mark.name for mark in _marks(store) if _dead(mark)]


def bury(store: Store, folder: Path, run_id: str) -> None:
    """Remove the mark of a dead run, when all it left is removed, and note its end in its record."""
    record = _read(folder / run_id / RECORD)
    if record is not None and record.outcome == "running":
        record.outcome = "killed"
        save(folder, record)
    (store.marks / run_id).unlink(missing_ok=True)


def _claims(mark: Path) -> set[str]:
    """The digests that a live run needs.

    Raises:
        PublishError: the mark is damaged, so nothing may be removed.
    """
    try:
        return set(TypeAdapter(list[str]).validate_json(mark.read_bytes() or b"[]"))
    except ValidationError as fault:
        hint = f"wait until the run {mark.name} has ended"
        raise PublishError(f"what a live run needs cannot be read: {mark} is damaged", str(fault), hint) from fault


def _marks(store: Store) -> list[Path]:
    found = sorted(store.marks.iterdir()) if store.marks.is_dir() else []
    # A mark is a file; anything else here is nobody's.
    return [path for path in found if path.is_file() and not path.is_symlink()]


def _dead(mark: Path) -> bool:
    handle = locks.attempt(mark, shared=True, create=False)
    if handle is None:
        return False
    os.close(handle)
    return True


# -- records


class StepRecord(BaseModel):
    """Record of one stage in a run; `seconds` and `ledger` are those of the object when it was reused."""

    stage: str
    digest: str
    action: Literal["run", "reuse", "not needed", "failed"]
    reason: str
    seconds: float = 0.0
    ledger: dict[str, dict[str, float]] = Field(default_factory=dict)


class RunRecord(BaseModel):
    """`run.json`: one run, from its start on; the steps come as they are done.

    Args:
        started: UTC, ISO 8601.
        ended: the same; None while the run lives, and for ever when it was killed.
        argv: words of the command line, with what looks like a secret blotted out.
        verdict: of a run that failed: kind, exit code, brief, details, hint, stage; and cause, line, source, transient.
    """

    id: str
    pipeline: str
    started: str
    ended: str | None = None
    argv: list[str] = Field(default_factory=list)
    outcome: Outcome = "running"
    verdict: dict[str, Any] | None = None
    steps: list[StepRecord] = Field(default_factory=list)


@contextmanager
def recording(store: Store, folder: Path, run_id: str, pipeline: str, argv: Sequence[str] = ()) -> Iterator[RunRecord]:
    """Keep the record of a run for the length of the block; what leaves the block decides its outcome.

    Args:
        folder: of all runs; the run gets a folder of its own in it, for its owner only.
    """
    record = RunRecord(id=run_id, pipeline=pipeline, started=_now(), argv=redacted(argv))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / run_id).mkdir(mode=0o700)
    save(folder, record)
    try:
        yield record
    except BaseException as fault:
        record.outcome = "interrupted" if isinstance(fault, (Interrupted, KeyboardInterrupt)) else "failed"
        record.verdict = _verdict(fault) | {"stage": _failed_stage(record)}
        diagnosis = fault.diagnosis if isinstance(fault, BuilderError) else Diagnosis()
        record.ended = _now()
        # A full disk must not hide what went wrong.
        with contextlib.suppress(HostError):
            with replacing(folder / run_id / VERDICT, mode=0o600) as file:
                file.write(json.dumps(record.verdict, indent=2, ensure_ascii=False).encode() + b"\n")
            save(folder, record)
            with replacing(folder / run_id / README, mode=0o600) as file:
                file.write(_readme(folder / run_id, record, diagnosis).encode())
        raise
    else:
        record.outcome, record.ended = "done", _now()
        save(folder, record)
    finally:
        bound(folder, spare={run_id, *live(store)})


@contextmanager
def events(folder: Path, run_id: str) -> Iterator[TextIO]:
    """The file that the run's steps are told to as they happen."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    file = os.fdopen(os.open(folder / run_id / EVENTS, flags, 0o600), "w", encoding="utf-8")
    try:
        yield file
    finally:
        # What a full disk did not take is lost; it has been told on the way, too.
        with contextlib.suppress(OSError):
            file.close()


def save(folder: Path, record: RunRecord) -> None:
    """Write the record to the run's folder."""
    with replacing(folder / record.id / RECORD, mode=0o600) as file:
        file.write(record.model_dump_json(indent=2).encode() + b"\n")


def list_runs(folder: Path) -> list[RunRecord]:
    """Records of all runs, newest first; folders without a readable record are passed over."""
    if not folder.is_dir():
        return []
    found = (_read(path / RECORD) for path in sorted(folder.iterdir(), reverse=True))
    return [record for record in found if record is not None]


def unreadable(folder: Path) -> list[Path]:
    """Records of runs that cannot be read, or belong to another run."""
    paths = [path / RECORD for path in sorted(folder.iterdir())] if folder.is_dir() else []
    return [path for path in paths if os.path.lexists(path) and _read(path) is None]


def load_run(folder: Path, run_id: str) -> RunRecord:
    """The record of the run with this id, or with the only id that begins like this.

    Raises:
        PublishError: there is none, or there are several.
    """
    ids = [record.id for record in list_runs(folder)]
    matches = [run_id] if run_id in ids else [one for one in ids if run_id and one.startswith(run_id)]
    record = _read(folder / matches[0] / RECORD) if len(matches) == 1 else None
    if record is None:
        near = matches or difflib.get_close_matches(run_id, ids, n=3, cutoff=0.5) or ids[:3]
        raise PublishError(
            f"{len(matches)} runs begin with {run_id}" if matches else f"there is no run {run_id}",
            "\n".join(near),
            "builder runs list",
        )
    return record


def bound(folder: Path, *, spare: Collection[str] = (), runs: int = KEEP_RUNS, size: int = KEEP_BYTES) -> list[str]:
    """Remove old run folders until count and bytes are within bounds: the oldest successful first, then the oldest.

    Args:
        spare: ids that stay.
        runs: how many may stay.
        size: how many bytes all of them may take.

    Returns:
        The ids that went.
    """
    sizes = {path.name: _size(path) for path in folder.iterdir() if path.is_dir()}
    done = {record.id for record in list_runs(folder) if record.outcome == "done"}
    went = []
    for run_id in sorted(sizes.keys() - set(spare), key=lambda name: (name not in done, name)):
        if len(sizes) <= runs and sum(sizes.values()) <= size:
            break
        remove(folder / run_id)
        del sizes[run_id]
        went.append(run_id)
    return went


def redacted(argv: Sequence[str]) -> list[str]:
    """A command line without the values of `…password=…` and the like, and without passwords in addresses."""
    return [without_user_info(_SECRET_WORD.sub(r"\1***", word)) for word in argv]


def without_user_info(text: str) -> str:
    """Return a text without the names and passwords in its addresses."""
    return _USER_INFO.sub("***", text)


def _verdict(fault: BaseException) -> dict[str, Any]:
    if isinstance(fault, BuilderError):
        return fault.as_dict()
    if isinstance(fault, (Interrupted, KeyboardInterrupt)):
        name = fault.signal_name if isinstance(fault, Interrupted) else "SIGINT"
        brief = f"interrupted by {name}"
        return BuilderError(brief).as_dict() | {"kind": "interrupted", "exit_code": 130, "cause": "interrupted"}
    details = "".join(traceback.format_exception(fault))
    return BuilderError(f"internal error: {fault!r}", details).as_dict() | {"kind": "bug", "cause": "bug"}


def first_look(folder: Path, diagnosis: Diagnosis) -> str:
    """Return the name of the file in a run's folder that explains a failure best."""
    by_default = "console.txt" if diagnosis.role else VERDICT
    name = FIRST_LOOK.get(diagnosis.source, by_default) if diagnosis.source else by_default
    # The evidence of a machine of a test has its role in front: `twin-a.console.txt`.
    wanted = [f"{diagnosis.role}.{name}", name, *(["screenshot.png"] if name == "console.txt" else [])]
    written = {path.name for path in folder.iterdir() if path.stat().st_size > 1}
    return next((file for file in wanted if file in written), VERDICT)


def _readme(folder: Path, record: RunRecord, diagnosis: Diagnosis) -> str:
    """Return the text that says what to look at first."""
    verdict = record.verdict or {}
    there = [path.name for path in sorted(folder.iterdir())]
    where = f" in {verdict['stage']}" if verdict.get("stage") else ""
    lines = [f"Run {record.id} of {record.pipeline} {record.outcome}{where}: exit code {verdict.get('exit_code')}.", ""]
    for name, text in (
        ("error", verdict.get("brief")),
        ("line", diagnosis.line if diagnosis.line != verdict.get("brief") else None),
        ("found in", diagnosis.source if diagnosis.source is not Source.BUILDER else None),
        ("do", verdict.get("hint")),
        ("look first", first_look(folder, diagnosis)),
    ):
        if text:
            lines.append(f"  {name + ':':<12}{text}")
    lines += ["  run again:  this may heal by itself (--retry-transient)"] if verdict.get("transient") else []
    lines += ["", "In this folder:", ""]
    lines += [f"  {name:<16}{meaning}" for name, meaning in FILES.items() if name in there or name == README]
    lines += [f"  {name:<16}of one copy that was booted" for name in there if name.startswith("twin-")]
    return "\n".join(lines) + "\n"


def _failed_stage(record: RunRecord) -> str | None:
    return next((step.stage for step in record.steps if step.action == "failed"), None)


def _read(path: Path) -> RunRecord | None:
    try:
        record = RunRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    # Its id leads to files: the record that was found here is no other run's.
    return record if record.id == path.parent.name else None


def _size(folder: Path) -> int:
    return sum(facts.st_blocks * 512 for _, facts in entries_below(folder))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
