"""Changing our own messages changes no verdict, no exit code, no choice of evidence and no kind of reason.

Each operation fails for real, once with the texts as they are and once with all of them rewritten.
"""

from __future__ import annotations

import ast
import functools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import builder
from builder import images
from builder.diagnosis.classify import classify, diagnose, of_ending
from builder.diagnosis.patterns import PATTERNS
from builder.errors import BuilderError, Cause, InstallError, Source, VerifyError, failed_machine
from builder.guest import ssh
from builder.images.verify import require_signature, verify_version
from builder.iso import seed_cd
from builder.kickstart import preflight
from builder.media import download
from builder.nightly.builds import ImageBuild
from builder.nightly.worker import WorkerOptions, _EventReader
from builder.recipe import loading
from builder.stage import Job, Stage
from builder.stages import budget
from builder.store import runs
from builder.system import process
from builder.vm.machine import Ending
from tests.conftest import Silent
from tests.pipeline import toys
from tests.rewording import MARK, reword, rewrite_all

pytestmark = pytest.mark.unit

PACKAGE = Path(builder.__file__).parent
Facts = dict[str, Any]
FINGERPRINT = "SHA256:" + "A" * 43


def failing(fail: Callable[[Job[Any]], None]) -> tuple[Stage[Any], ...]:
    """The toy pipeline, whose `install` fails like this."""
    return tuple(replace(stage, run=fail) if stage.name == "install" else stage for stage in toys.STAGES)


def failed_run(folder: Path, fail: Callable[[Job[Any]], None]) -> None:
    toys.run_in(folder, stages=failing(fail))


def full_disk(folder: Path) -> None:
    def fail(_: Job[Any]) -> None:
        with Path("/dev/full").open("wb", buffering=0) as file:
            file.write(b"x")

    failed_run(folder, fail)


def full_disk_of_a_program(folder: Path) -> None:
    def fail(_: Job[Any]) -> None:
        process.run(["dd", "if=/dev/zero", "of=/dev/full", "count=1"])

    failed_run(folder, fail)


def installer_ended(folder: Path) -> None:
    def fail(job: Job[Any]) -> None:
        (job.evidence / "console.txt").write_text("Pane is dead\n")
        verdict = classify("Pane is dead", Source.CONSOLE)
        assert verdict is not None
        raise verdict.to_error(InstallError, "install")

    failed_run(folder, fail)


def guest_reset_itself(folder: Path) -> None:
    failed_run(folder, lambda _: _raise(of_ending(Ending("reset", 1.0, "it did"), {}, "").to_error(InstallError, "x")))


def machine_without_disk_space(folder: Path) -> None:
    ending = Ending("disk", 1.0, "it is paused", Cause.DISK_FULL)
    failed_run(folder, lambda _: _raise(of_ending(ending, {}, "").to_error(InstallError, "x")))


def guest_not_reached(folder: Path) -> None:
    def fail(job: Job[Any]) -> None:
        (job.evidence / "twin-b.console.txt").write_text("login:\n")
        (job.evidence / "console.txt").write_text("of another machine\n")
        key, _ = ssh.make_keypair()
        with failed_machine("twin-b"), ssh.connect(9, key, [FINGERPRINT], within=0.1, error=VerifyError):
            pass

    failed_run(folder, fail)


def kickstart_does_not_fit(folder: Path) -> None:
    text = "cdrom\nautopart\npart / --size=90000\n%packages\n%end\n"

    def fail(job: Job[Any]) -> None:
        (job.evidence / "kickstart.cfg").write_text(text)
        seed_cd.write_iso(job.scratch / "vendor.iso", "VENDOR", {"empty": b""})
        preflight.require(text, job.scratch / "vendor.iso", preflight.Room(1 << 30, 8 << 30, "bios"))

    failed_run(folder, fail)


def corrupt_object(folder: Path) -> None:
    """A finished file changes without a trace; `publish` finds out, and the next plan builds it anew."""

    def verify(job: Job[Any]) -> None:
        disk = job.needs["seal"] / "disk.qcow2"
        before = disk.stat()
        disk.chmod(0o644)
        disk.write_bytes(b"X" * before.st_size)
        os.utime(disk, ns=(before.st_atime_ns, before.st_mtime_ns))
        (job.out / "proof.json").write_text("{}")

    toys.run_in(
        folder, stages=tuple(replace(stage, run=verify) if stage.name == "verify" else stage for stage in toys.STAGES)
    )


def tampered_image(folder: Path) -> Facts:
    """All kinds of findings: failed, skipped, passed."""
    (folder / "disk").write_text("disk")
    (folder / "notes").write_text("notes")
    sources = {"toy.qcow2": folder / "disk", "notes": folder / "notes"}
    image = images.publish(folder / "images", "toy", sources, {})
    (image.path / "notes").chmod(0o644)
    (image.path / "notes").write_text("other")
    (image.path / "added").write_text("")
    result = require_signature(verify_version(image.path))
    again = images.verifications(image.path)[-1]
    findings = [(finding.file, finding.status) for finding in result.findings]
    return {"good": result.good, "findings": findings, "kept": [found.status for found in again.findings]}


def missing_image(folder: Path) -> None:
    images.load_image(folder, "nothing")


def exceeded_budget(_: Path) -> None:
    twins = {"twin-a": {"role": "twin-a", "boot_seconds": 90.0, "packages": ["a 1", "b 1"]}}
    budget.require(budget.BudgetInputs(size=1, boot=1, packages=1), 2, {"accel": "kvm", "twins": twins})


def no_mirror(folder: Path) -> None:
    download.fetch(["http://127.0.0.1:9/x.iso"], "0" * 64, folder / "x.iso", progress=Silent(), pause=0.0, tries=1)


def bad_recipe(folder: Path) -> None:
    recipe = folder / "bad.yaml"
    recipe.write_text("name: bad\nmedia: 3\n")
    loading.load(str(recipe), {"machine.memory": "[1", "unknown": "1"}, (folder,))


def _raise(error: BuilderError) -> None:
    raise error


OPERATIONS: tuple[Callable[[Path], Facts | None], ...] = (
    full_disk,
    full_disk_of_a_program,
    installer_ended,
    guest_reset_itself,
    machine_without_disk_space,
    guest_not_reached,
    kickstart_does_not_fit,
    corrupt_object,
    tampered_image,
    missing_image,
    exceeded_budget,
    no_mirror,
    bad_recipe,
)
EXPECTED = {
    "full_disk": Cause.DISK_FULL,
    "full_disk_of_a_program": Cause.DISK_FULL,
    "installer_ended": Cause.INSTALLER_ENDED,
    "guest_reset_itself": Cause.REBOOT,
    "machine_without_disk_space": Cause.DISK_FULL,
    "guest_not_reached": Cause.NO_TCP,
    "kickstart_does_not_fit": Cause.DISK_TOO_SMALL,
    "corrupt_object": Cause.CORRUPT,
    "no_mirror": Cause.NO_MIRROR,
}


def facts_of(operation: Callable[[Path], Facts | None], folder: Path) -> tuple[Facts, str, str]:
    """What programs see of an operation; its message; its hint."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    facts: Facts = {}
    brief = hint = ""
    try:
        facts = operation(folder) or {}
    except BuilderError as error:
        diagnosis = diagnose(error).diagnosis
        brief, hint = error.brief, error.hint
        facts = {"kind": error.kind, "code": error.exit_code, **diagnosis.as_dict()}
        del facts["line"]
    for record in runs.list_runs(toys.settings_in(folder).runs):
        kept = record.verdict or {}
        readme = (toys.settings_in(folder).runs / record.id / runs.README).read_text()
        facts["verdict"] = {key: kept.get(key) for key in ("kind", "exit_code", "cause", "source", "role", "stage")}
        facts["look first"] = [line.split()[-1] for line in readme.splitlines() if "look first:" in line]
        facts["next"] = [(step.action, step.reason_kind) for step in toys.plan_in(folder).steps]
    return facts, brief, hint


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: str(operation.__name__))
def test_other_words_change_nothing(
    operation: Callable[[Path], Facts | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, brief, hint = facts_of(operation, tmp_path / "here")
    rewrite_all(monkeypatch.setattr)
    reworded, other_brief, other_hint = facts_of(operation, tmp_path / "here")
    assert plain == reworded
    assert plain.get("cause", "") == EXPECTED.get(operation.__name__, "")
    # The very texts, in other words: the same message and the same hint were chosen.
    assert brief == other_brief == "" or other_brief.startswith(MARK)
    assert other_hint == reword(hint)


def plan_kinds(folder: Path) -> list[list[tuple[str, str]]]:
    """Actions and kinds of reasons of plans, one for each thing that may happen to a store."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    plans = [toys.plan_in(folder)]
    toys.run_in(folder)
    plans += [toys.plan_in(folder), toys.plan_in(folder, fresh=["verify"])]
    plans += [toys.plan_in(folder, toys.ToyOrder(packages=("core", "more")))]
    plans += [toys.plan_in(folder, stages=tuple(replace(stage, version=2) for stage in toys.STAGES))]
    shutil.rmtree(folder / "artifacts" / "images" / "toy")
    plans += [toys.plan_in(folder)]
    shutil.rmtree(folder / "artifacts" / "store" / "objects", ignore_errors=True)
    plans += [toys.plan_in(folder)]
    return [[(step.action, step.reason_kind) for step in plan.steps] for plan in plans]


def test_reasons_are_kinds_before_they_are_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = plan_kinds(tmp_path / "here")
    rewrite_all(monkeypatch.setattr)
    assert plan_kinds(tmp_path / "here") == plain
    kinds = {kind for plan in plain for _, kind in plan}
    assert {"first run", "found", "asked", "consequence", "inputs changed", "stage version", "outdated"} <= kinds


def test_a_night_names_the_reason_from_which_the_others_follow(tmp_path: Path) -> None:
    """Whatever its words are."""
    reader = _EventReader(ImageBuild("toy", "toy", ()), WorkerOptions(tmp_path, (), 0.0), lambda *_: None)
    rows = [
        {"stage": "install", "action": "run", "reason": "x, and is needed again", "reason_kind": "deleted"},
        {"stage": "seal", "action": "run", "reason": "install is built anew", "reason_kind": "consequence"},
        {"stage": "verify", "action": "run", "reason": "it was built anew", "reason_kind": "inputs changed"},
    ]
    reader.feed(json.dumps({"event": "planned", "run": "1", "name": "toy", "stages": rows}))
    assert reader.why() == "it was built anew"


# -- what the code itself must look like


def literals(tree: ast.AST) -> Iterator[str]:
    """All texts of a module but its docstrings; what is put into an f-string stands as X."""
    documentation = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value


@functools.cache
def modules() -> dict[str, ast.Module]:
    """The package, without the table itself and the rehearsal installer, which speaks as Anaconda does."""
    names = [path.relative_to(PACKAGE).as_posix() for path in sorted(PACKAGE.rglob("*.py"))]
    ours = [name for name in names if not name.startswith("rehearsal/") and name != "diagnosis/patterns.py"]
    return {name: ast.parse((PACKAGE / name).read_bytes()) for name in ours}


def test_no_pattern_finds_a_text_of_ours() -> None:
    texts = {text for tree in modules().values() for text in literals(tree) if " " in text}
    assert any("has changed since it was finished" in text for text in texts)
    # All at once first: that is quick, and finds at least as much.
    suspects = [pattern for pattern in PATTERNS if pattern.regex.search("\n".join(texts))]
    found = [(text, pattern.cause) for pattern in suspects for text in texts if pattern.regex.search(text)]
    assert found == []


def test_what_is_searched_for_causes_holds_no_word_of_ours() -> None:
    """`output=` of an error is what another program wrote, and is never put together with our own words."""
    outputs = [
        keyword.value
        for tree in modules().values()
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        for keyword in call.keywords
        if keyword.arg == "output"
    ]
    assert len(outputs) > 8
    assert [text for value in outputs for text in literals(value) if " " in text] == []
