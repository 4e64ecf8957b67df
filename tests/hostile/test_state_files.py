"""Damaged and foreign state files: each is named, passed over where others go on without it, and breaks nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from builder import images
from builder.errors import HostError, PublishError, RecipeError
from builder.images import origins, references
from builder.images.references import User
from builder.iso import inspect
from builder.nightly import record as nights
from builder.nightly.report import retention
from builder.rehearsal import medium as rehearsal
from builder.store import runs
from builder.store.secrets import StoredSecrets
from builder.store.store import Store
from tests.command import Ran, builder, pipelines, recipe_text
from tests.fakes import vendor
from tests.hostile.manifests import lay, written

__all__ = ["builder", "pipelines", "recipe_text"]

Run = Callable[..., Ran]
LOOP = b"a link to itself"
DAMAGES = {
    "empty": b"",
    "list": b"[]",
    "null": b"null",
    "object": b"{}",
    "number": b"7",
    "text": b'"x"',
    "torn": b'{"name": "to',
    "deep list": b"[" * 100_000,
    "deep object": b'{"a":' * 100_000,
    "not UTF-8": b"\xff\xfe\x00",
    "wrong kinds": b'{"name": [], "verdict": {"x": 1}, "since": {}, "disk": 7, "volume_id": 7, "state": [], "2": {}}',
    "loop": LOOP,
}


def damage(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    if content == LOOP:
        path.symlink_to(path)
    else:
        path.write_bytes(content)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two images, a clone's reference, a run, a medium, a report and a recipe in it."""
    folder = tmp_path_factory.mktemp("state")
    catalogue, store = folder / "artifacts/images", Store(folder / "artifacts/.store")
    for name in ("good", "toy"):
        path = lay(catalogue, written(name.encode(), name), name.encode(), name)
        images.verify_version(path)
    toy = images.load_image(catalogue, "toy")
    references.enter(toy, User("1", "clone", "web", str(folder / "vms/web/disk.qcow2"), "2026-01-01T00:00:00+00:00"))
    origins.note(catalogue / "toy", toy.version, origins.LOCAL)
    for run_id in ("20260101-000000-good", "20260102-000000-bad2"):
        with runs.register(store, run_id), runs.recording(store, folder / "artifacts/runs", run_id, "toy"):
            pass
    night = nights.NightlyRun(
        date="2026-01-02", started="2026-01-02T00:00:00+00:00", ended="", seconds=1, host="", builder="", jobs=1,
        jobs_why="", exit_code=0, results=[],
    )  # fmt: skip
    for date in ("2026-01-02", "2026-01-03"):
        (folder / "artifacts/reports" / date).mkdir(parents=True)
        text = night.model_copy(update={"date": date}).model_dump_json()
        (folder / "artifacts/reports" / date / nights.FILE).write_text(text)
    (folder / "tree").mkdir()
    vendor.tree(folder / "tree", vendor.Shape())
    vendor.press(folder / "tree", folder / "medium.iso", vendor.Shape())
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """The same for one test."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True, symlinks=True)
    return tmp_path


TOY = "artifacts/images/toy"
# A file by its place, what reads it, and whether its damage has to be named there.
FILES: dict[str, tuple[str, tuple[str, ...], bool]] = {
    "manifest": (f"{TOY}/[0-9a-f]*/manifest.json", ("images", "list"), True),
    "origins": (f"{TOY}/.origins.json", ("images", "list"), True),
    "verifications": (f"{TOY}/.verified/*.jsonl", ("images", "show", "toy"), False),
    "reference": (f"{TOY}/.users/*/1.json", ("images", "show", "toy"), False),
    "reference when pruned": (f"{TOY}/.users/*/1.json", ("images", "prune", "--dry-run"), False),
    "run": ("artifacts/runs/20260102-000000-bad2/run.json", ("runs", "list"), True),
}


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_one_damaged_file_takes_nothing_else_with_it(builder: Run, place: Path, file: str, kind: str) -> None:
    pattern, words, named = FILES[file]
    (path,) = place.glob(pattern)
    damage(path, DAMAGES[kind])
    done = builder(*words)
    assert "internal error" not in done.stderr
    assert done.returncode == 0, done.stderr
    if words[1] == "list":
        assert "good" in done.stdout
    if named and kind != "object":
        assert path.name in done.stderr or f"the manifest of toy@{path.parent.name}" in done.stderr


@pytest.mark.parametrize("kind", ["list", "null", "object", "deep list", "loop"])
def test_a_damaged_record_of_a_medium_is_named(builder: Run, place: Path, kind: str) -> None:
    assert builder("media", "add", "medium.iso").returncode == 0
    (path,) = (place / "artifacts/.store/objects").glob("*/medium.json")
    damage(path, DAMAGES[kind])
    done = builder("media", "list")
    assert (done.returncode, done.stdout) == (0, "no media\n")
    assert "medium.json cannot be read" in " ".join(done.stderr.split())
    # Whoever wants the medium gets it anew.
    assert builder("media", "add", "medium.iso").returncode == 0
    assert inspect.inspect(place / "medium.iso").volume_id in builder("media", "list").stdout


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_password_that_cannot_be_used_is_named(tmp_path: Path, kind: str) -> None:
    store = Store(tmp_path / ".store")
    assert StoredSecrets(store, "toy").root_password
    damage(store.secrets / "toy.password", DAMAGES[kind])
    if kind in ("empty", "not UTF-8", "deep list", "deep object", "loop"):
        with pytest.raises((HostError, RecipeError), match=r"toy\.password"):
            assert StoredSecrets(store, "toy").root_password
    else:
        assert StoredSecrets(store, "toy").root_password == DAMAGES[kind].decode()


@pytest.mark.parametrize("kind", ["empty", "list", "loop"])
def test_a_damaged_key_of_the_store_is_not_used(tmp_path: Path, kind: str) -> None:
    store = Store(tmp_path / ".store")
    assert len(store.key) == 32
    damage(store.secrets / "key", DAMAGES[kind])
    with pytest.raises(HostError, match="key"):
        assert store.key


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_memory_of_the_rehearsal_is_none(tmp_path: Path, kind: str) -> None:
    """Then apt is asked, which takes seconds and is not done here."""
    damage(tmp_path / "rehearsal-inputs.json", DAMAGES[kind])
    assert rehearsal._last_answer(tmp_path / "rehearsal-inputs.json") is None


@pytest.mark.parametrize("kind", [kind for kind in DAMAGES if kind not in ("empty", "list", "loop")])
def test_while_a_run_cannot_be_asked_what_it_needs_nothing_is_removed(tmp_path: Path, kind: str) -> None:
    store = Store(tmp_path / ".store")
    with runs.register(store, "20260101-000000-live", {"a" * 64}):
        mark = store.marks / "20260101-000000-live"
        mark.write_bytes(DAMAGES[kind])
        with pytest.raises(PublishError, match="20260101-000000-live is damaged"):
            runs.claimed(store)
    # What is no mark is nobody's.
    (store.marks / "folder").mkdir()
    (store.marks / "loop").symlink_to(store.marks / "loop")
    assert (runs.claimed(store), runs.live(store), runs.dead(store)) == (set(), set(), [])


def test_a_record_leads_to_no_other_folder(builder: Run, place: Path) -> None:
    """The id of a run and the date of a report are places of files, which are shown, written and removed."""
    path = place / "artifacts/runs/20260102-000000-bad2/run.json"
    path.write_text(path.read_text().replace("20260102-000000-bad2", "../../medium"))
    assert "run.json cannot be read" in " ".join(builder("runs", "list").stderr.split())
    report = place / "artifacts/reports/2026-01-02" / nights.FILE
    report.write_text(report.read_text().replace("2026-01-02", "../../tree", 1))
    assert [run.date for run in nights.load_runs(place / "artifacts/reports")] == ["2026-01-03"]
    assert retention.prune(place / "artifacts/reports", 1) == []
    assert (place / "tree").is_dir()


def test_settings_that_are_nested_without_end(builder: Run, place: Path) -> None:
    config = place / "home/.config/builder/settings.toml"
    config.parent.mkdir(parents=True)
    config.write_text("x = " + "[" * 100_000)
    done = builder("images", "list")
    assert (done.returncode, "internal error" in done.stderr) == (2, False)
