"""Append-only files that a crash, a bad disk or another version of builder damaged: one bad line costs one line."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from builder import images
from builder.host import undo
from builder.host.journal import Journal
from builder.images.verification_record import Finding, Status, VerificationResult, record
from builder.system import jsonlines
from tests.host.conftest import Cell, World, world
from tests.host.test_bridge import kill_inside, settled, waiting_for_confirmation

__all__ = ["world"]
JOURNAL = "/var/lib/builder/host/journal.jsonl"
UNREADABLE = [
    b'{"kind": "file", "path": "/et',
    b"[]",
    b"null",
    b"\x00\x00\x00\x00",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"no": "kind"}',
]


def journal_with(folder: Path, lines: list[bytes]) -> Journal:
    """A journal in which a directory that exists is recorded before and after some lines."""
    journal = Journal(folder / "journal")
    for name in ("first", "second"):
        journal.record("directory", path=str(folder / name))
        (folder / name).mkdir()
        if name == "first":
            with journal.path.open("ab") as file:
                file.write(b"".join(line + b"\n" for line in lines))
    return journal


def test_a_torn_line_is_closed_before_the_next(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.record("directory", path="/one")
    with journal.path.open("a") as file:
        file.write('{"kind": "file", "pa')
    journal.record("directory", path="/two")
    assert [entry["path"] for entry in journal.entries()] == ["/one", "/two"]
    assert journal.unreadable() == [f"{journal.path}, line 2, cannot be read and is passed over"]
    assert stat.S_IMODE(journal.path.stat().st_mode) == 0o600


@pytest.mark.parametrize("line", UNREADABLE, ids=range(len(UNREADABLE)))
def test_an_unreadable_line_stops_no_undo(tmp_path: Path, line: bytes) -> None:
    journal = journal_with(tmp_path, [line])
    said: list[str] = []
    assert undo.restore(journal, True, said.append) == []
    assert not (tmp_path / "first").exists()
    assert not (tmp_path / "second").exists()
    assert any(f"{journal.path}, line 2," in text for text in said)
    # What was passed over is kept for people.
    assert line in journal.damaged.read_bytes()
    assert journal.entries() == []
    assert journal.unreadable() == []


@pytest.mark.parametrize(
    "entry",
    [
        {"kind": "teleport", "at": "2099-01-01", "names": ["x"]},
        {"kind": "link", "uplink": "eth0"},
        {"kind": "file", "path": 7, "backup": None},
        {"kind": "service"},
    ],
    ids=lambda entry: entry["kind"],
)
def test_an_entry_of_another_builder_is_named_and_kept(tmp_path: Path, entry: dict[str, object]) -> None:
    journal = journal_with(tmp_path, [json.dumps(entry).encode()])
    said: list[str] = []
    assert undo.restore(journal, True, said.append) == [entry]
    assert any(text.startswith("  left as it is: ") for text in said)
    assert not (tmp_path / "first").exists()
    assert journal.entries() == [entry]


def test_a_backup_is_never_written_over(tmp_path: Path) -> None:
    journal, path = Journal(tmp_path / "journal"), tmp_path / "file"
    path.write_text("before")
    journal.replace_file(path, "ours")
    backup = Path(journal.entries()[0]["backup"])
    with journal.path.open("w") as file:
        file.write("torn")
    journal.replace_file(path, "ours again")
    assert backup.read_text() == "before"
    assert Path(journal.entries()[0]["backup"]).read_text() == "ours"


def test_records_of_verifications_beside_a_torn_line(tmp_path: Path) -> None:
    source = tmp_path / "disk"
    source.write_text("disk")
    image = images.publish(tmp_path / "images", "toy", {"toy.qcow2": source}, {})
    result = VerificationResult(
        "toy", image.version, "2026-01-01T00:00:00+00:00", (Finding("a", Status.PASSED, "b"),), ()
    )
    record(image.path, result)
    kept = image.path.parent / ".verified" / f"{image.version}.jsonl"
    for line in (*UNREADABLE, b'{"name": "toy", "version": "1", "when": 7, "findings": [], "signers": []}'):
        with kept.open("ab") as file:
            file.write(line + b"\n")
    with kept.open("ab") as file:
        file.write(b'{"name": "to')
    record(image.path, result)
    assert images.verifications(image.path) == [result, result]
    warnings = images.unreadable_verifications(image.path)
    assert len(warnings) == len(UNREADABLE) + 2
    assert warnings[0] == f"{kept}, line 2, cannot be read and is passed over"


def test_an_append_is_whole_or_an_error(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    jsonlines.append(path, {"text": "a\nb\u2028c"}, 0o600)
    jsonlines.append(path, {"text": "x" * 1_000_000}, 0o600)
    assert [line["text"][:3] for line in jsonlines.read(path, dict).entries] == ["a\nb", "xxx"]
    assert jsonlines.read(tmp_path / "none", dict).entries == ()


def tear(host: Cell) -> None:
    """Leave what a crash leaves in the middle of a line."""
    host.run("sh", "-c", f'mkdir -p {Path(JOURNAL).parent} && printf \'{{"kind": "file", "pa\' >> {JOURNAL}')


def test_a_bridge_is_kept_and_undone_in_spite_of_a_torn_journal(world: World) -> None:
    host, _ = world
    before = host.network()
    tear(host)
    with waiting_for_confirmation(host, "60s") as child:
        said = host.builder("host", "confirm")
        assert said.returncode == 0, said.stderr
        assert child.wait(30) == 0
    done = host.builder("host", "restore")
    assert done.returncode == 0, done.stderr
    assert f"{JOURNAL}, line 1," in done.stderr
    assert host.network() == before


def test_the_guardian_puts_back_when_the_journal_cannot_be_used(world: World) -> None:
    host, _ = world
    before = host.network()
    with waiting_for_confirmation(host, "60s") as child:
        kill_inside(host, child)
        host.run("mkdir", "-p", JOURNAL)
        assert host.network() != before
        said = host.builder("host", "confirm")
        assert said.returncode == 3
        assert "could not be kept" in said.stderr
        assert settled(host, before)


def test_the_guardian_puts_back_when_it_breaks(world: World) -> None:
    """A change that it understands up to the point where it is to be kept."""
    host, _ = world
    before = host.network()
    with waiting_for_confirmation(host, "60s") as child:
        kill_inside(host, child)
        # The boot's id is what it notes first.
        host.run(
            "sh", "-c", "printf '\\377\\376' > /run/no-text; mount --bind /run/no-text /proc/sys/kernel/random/boot_id"
        )
        said = host.builder("host", "confirm")
        assert said.returncode == 3
        assert settled(host, before)


def test_restore_puts_the_network_back_before_it_reads_the_journal(world: World) -> None:
    host, _ = world
    before = host.network()
    with waiting_for_confirmation(host, "10m") as child:
        pids = host.run("sh", "-c", "grep -l builder /proc/[0-9]*/cmdline | cut -d/ -f3").stdout.split()
        host.run("sh", "-c", f"for p in {' '.join(pids)}; do kill -9 $p 2>/dev/null; done; true")
        child.wait(30)
        host.run("mkdir", "-p", JOURNAL)
        assert host.network() != before
        assert host.builder("host", "restore").returncode == 3
    assert host.network() == before
