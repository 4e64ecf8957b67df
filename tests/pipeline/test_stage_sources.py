"""A stage whose sources changed gets a new version if its results changed; else the harmless edit is recorded."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import os
from pathlib import Path
from typing import Any

import pytest

import builder
from builder.pipeline.pipelines import PROVISIONED as STAGES
from builder.stage import Stage
from tests.pipeline import toys

GOLDEN = Path(__file__).parents[1] / "golden" / "stage_sources.json"
PACKAGE = Path(builder.__file__).parent
# Stages, and what makes bytes for them. Running programs and waiting decide no result.
FOLDERS = ("stages", "diagnosis", "guest", "iso", "kickstart", "media", "provenance", "rehearsal", "system", "vm")
FILES = {"recipe/provision_files.py"}
NEUTRAL = {f"system/{name}.py" for name in ("atomic_file", "digests", "locks", "process", "retry", "signals")} | {
    f"{folder}/__init__.py" for folder in FOLDERS
}
RECORD = "BUILDER_RECORD=1 pytest tests/pipeline/test_stage_sources.py"


def imported(path: Path) -> set[Path]:
    """Files of the package, in the folders that count, that this file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    found: set[Path] = set()
    for name in names:
        top, *parts = name.split(".")
        file = "/".join(parts)
        if top == "builder" and parts and (parts[0] in FOLDERS or f"{file}.py" in FILES):
            found.update(PACKAGE / one for one in (f"{file}.py", f"{file}/__init__.py") if one not in NEUTRAL)
    return {one for one in found if one.is_file()}


def own_modules(path: Path) -> set[Path]:
    """The module itself and all it leads to; other stages end the way, for they have versions of their own."""
    stages = {Path(inspect.getfile(stage.run)) for stage in STAGES}
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        one = waiting.pop()
        if one not in found and (one == path or one not in stages):
            found.add(one)
            waiting.extend(imported(one))
    return found


def code_digest(source: str) -> str:
    """SHA-256 of the parsed code: comments, docstrings and layout do not enter it.

    `ast.unparse` depends less on the version of Python than `ast.dump`, which shows new (empty) fields of the nodes.
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = node.body[0] if node.body else None
            if (
                isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            ):
                node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()


def source_digest(stage: Stage[Any]) -> dict[str, str]:
    """The digest of each module that decides what the stage makes, by name."""
    files = own_modules(Path(inspect.getfile(stage.run)))
    root = PACKAGE.parent
    return {path.relative_to(root).as_posix(): code_digest(path.read_text("utf-8")) for path in sorted(files)}


def key(stage: Stage[Any]) -> str:
    return f"{stage.name} {stage.version}"


def recorded() -> dict[str, dict[str, str]]:
    return dict(json.loads(GOLDEN.read_bytes())) if GOLDEN.exists() else {}


def complaint(stage: Stage[Any], known: dict[str, dict[str, str]]) -> str | None:
    """What to say about a stage whose sources are not the recorded ones."""
    now, before = source_digest(stage), known.get(key(stage))
    if before == now:
        return None
    if before is None:
        return f"{stage.name} version {stage.version} is not recorded. Record it: {RECORD}"
    changed = ", ".join(name for name in sorted(now.keys() | before.keys()) if now.get(name) != before.get(name))
    return (
        f"{changed} changed since {stage.name} version {stage.version} was recorded. If the stage may now give "
        f"another result for the same inputs, raise its version. Then, or if the edit is harmless: {RECORD}"
    )


@pytest.fixture(scope="module")
def known() -> dict[str, dict[str, str]]:
    """What is recorded; recorded anew when the environment asks for it."""
    if os.environ.get("BUILDER_RECORD"):
        text = json.dumps({key(stage): source_digest(stage) for stage in STAGES}, indent=2, sort_keys=True)
        GOLDEN.write_text(f"{text}\n", encoding="utf-8")
    return recorded()


def test_stages_have_the_sources_that_were_recorded_for_their_version(known: dict[str, dict[str, str]]) -> None:
    complaints = [text for stage in STAGES if (text := complaint(stage, known)) is not None]
    assert not complaints, "\n".join(complaints)


def test_nothing_is_recorded_that_is_no_stage(known: dict[str, dict[str, str]]) -> None:
    assert known.keys() == {key(stage) for stage in STAGES}


def test_an_edit_and_a_new_version_are_noticed() -> None:
    stage = toys.STAGES[0]
    now = source_digest(stage)
    assert now.keys() == {"tests/pipeline/toys.py"}
    assert complaint(stage, {key(stage): now}) is None
    edited = {key(stage): dict.fromkeys(now, "0" * 64)}
    assert (complaint(stage, edited) or "").startswith("tests/pipeline/toys.py changed since fetch version 1 was rec")
    assert (complaint(stage, {}) or "").startswith("fetch version 1 is not recorded")


def test_comments_docstrings_and_layout_change_no_digest() -> None:
    before = code_digest('def add(a):\n    """Add one."""\n    return a + 1\n')
    assert code_digest('"""New."""\n\ndef add(a):\n    """Add 1."""\n    # why\n    return (a\n      + 1)\n') == before
    assert code_digest("def add(a):\n    return a + 2\n") != before


def test_modules_are_followed_through_imports() -> None:
    names = {path.relative_to(PACKAGE).as_posix() for path in own_modules(PACKAGE / "stages" / "remaster.py")}
    assert {"stages/remaster.py", "iso/remaster.py"} <= names
    assert not names & NEUTRAL
