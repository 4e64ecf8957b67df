"""Escapes for a terminal in what others wrote: no command hands them on to the terminal of who looks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.store import runs
from builder.store.store import Store
from builder.system.process import run as program
from tests.command import Ran, builder
from tests.fakes import vendor
from tests.hostile.manifests import lay, placed, written

__all__ = ["builder"]

Run = Callable[..., Ran]
TITLE = "\x1b]0;OWNED\x07"
# Sequences of eight bits begin with one character, too.
WORDS = f"a{TITLE}b\x9b31m\x08\r"
ALLOWED = {"\n"}


def assert_harmless(done: Ran) -> None:
    for text in (done.stdout, done.stderr):
        assert {char for char in text if not char.isprintable()} <= ALLOWED


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    """Two images, of which one says what it says with escapes."""
    evil = written(b"evil", "evil")
    for place in ("kernel", "release", "cmdline"):
        evil = placed(evil, f"verified/twins/twin-a/{place}", WORDS)
    for place in ("packages", "services", "users", "ports", "suid"):
        evil = placed(evil, f"verified/twins/twin-a/{place}", [f"{WORDS} {WORDS}"])
    evil = placed(evil, "verified/accel", WORDS)
    evil = placed(evil, f"stages/{WORDS}", {"seconds": 1.0})
    catalogue = tmp_path / "artifacts/images"
    path = lay(catalogue, evil, b"evil", "evil")
    lay(catalogue, written(b"good", "good"), b"good", "good")
    lay(catalogue, placed(written(b"bad", "bad"), "stages/verify/inputs/vcpus", WORDS), b"bad", "bad")
    lay(catalogue, placed(written(b"key", "key"), f"stages/{WORDS}", WORDS), b"key", "key")
    journal = path.parent / ".verified" / f"{path.name}.jsonl"
    journal.parent.mkdir()
    line = {"name": "x", "version": "y", "when": TITLE, "signers": [TITLE], "findings": []}
    journal.write_text(json.dumps(line) + "\n")
    users = path.parent / ".users" / path.name
    users.mkdir(parents=True)
    user = {"id": "1", "kind": "clone", "name": TITLE, "disk": "/nowhere/x/y", "since": ""}
    (users / "1.json").write_text(json.dumps(user))
    return catalogue


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("list",), 0),
        (("show", "evil"), 0),
        (("diff", "good", "evil"), 0),
        (("verify", "evil"), 0),
        (("verify",), 6),
        (("show", "bad"), 6),
        (("show", "key"), 6),
    ],
)
def test_images(builder: Run, catalogue: Path, words: tuple[str, ...], code: int) -> None:
    done = builder("images", *words)
    assert done.returncode == code, done.stderr
    assert_harmless(done)
    assert done.stdout or done.stderr


def test_media(builder: Run, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    vendor.tree(tree, vendor.Shape())
    (tree / ".treeinfo").write_text(f"[general]\nfamily = {TITLE}\nversion = 7\x1b[2J\narch = x86_64\n")
    program(["xorriso", "-as", "mkisofs", "-quiet", "-V", "PLAIN", "-R", "-o", tmp_path / "evil.iso", tree])
    iso = (tmp_path / "evil.iso").read_bytes()
    # No program writes such a name of a volume: it is put where the name is (ECMA-119, 8.4.7).
    (tmp_path / "evil.iso").write_bytes(iso.replace(b"PLAIN" + b" " * 27, TITLE.ljust(32).encode()))
    assert TITLE.encode() in (tmp_path / "evil.iso").read_bytes()
    for words in (("inspect", "evil.iso", "--packages"), ("add", "evil.iso"), ("list",), ("verify", "evil.iso")):
        done = builder("media", *words)
        assert "OWNED" in done.stdout + done.stderr or words[0] == "verify"
        assert_harmless(done)


def test_runs(builder: Run, tmp_path: Path) -> None:
    store, folder = Store(tmp_path / "artifacts/.store"), tmp_path / "artifacts/runs"
    argv = ["builder", "run", WORDS]
    run_id = "20260101-000000-abcd"
    with runs.register(store, run_id), runs.recording(store, folder, run_id, WORDS, argv):
        pass
    for words in (("list",), ("show", "20260101")):
        done = builder("runs", *words)
        assert done.returncode == 0
        assert_harmless(done)
