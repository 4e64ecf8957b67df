"""A table of faults, printed at the end: fault, seconds to the verdict, verdict, what was left.

A test that makes a fault asks for `fault_row`; that marks it `fault`, so that `make faults` finds it. The tests of
`tests/hostile` are marked, too, and make one row a file.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from builder.system import retry
from builder.vm.uri import session_directory

# `proof`: a line or an event proves it. `stall`: several quiet signals, or a limit. `mend`: found and put right.
Kind = Literal["proof", "stall", "mend"]
PROPERTY = "fault"
HOSTILE = "tests/hostile/test_"
# No machine, no file, no mount was made, so nothing can be left.
NOT_LOOKED = "-"


@dataclass
class Row:
    """One fault; `happened` and `seen` are seconds since the epoch."""

    fault: str
    kind: Kind
    happened: float = field(default_factory=time.time)
    seen: float = 0.0
    verdict: str = ""
    left: str = NOT_LOOKED

    def now(self) -> None:
        """The fault happens at this moment."""
        self.happened = time.time()

    def judged(self, verdict: str | None, *, happened: float | None = None) -> None:
        """The verdict is there."""
        # A plain string: what a member of an enum is cannot be sent by a worker of pytest-xdist.
        self.seen, self.verdict = time.time(), str(verdict or "")
        self.happened = self.happened if happened is None else happened


FaultRow = Callable[..., contextlib.AbstractContextManager[Row]]


@pytest.fixture
def fault_row(request: pytest.FixtureRequest) -> FaultRow:
    """`with fault_row(name, place=FOLDER) as row:` makes a row; nothing that has to do with FOLDER may be left."""

    @contextmanager
    def make(fault: str, *, kind: Kind = "proof", place: Path | None = None) -> Iterator[Row]:
        row = Row(fault, kind)
        yield row
        assert row.verdict, "no verdict was given"
        if place is not None:
            retry.until(lambda: None if left_behind(place) else True, within=5)
            row.left = ", ".join(left_behind(place)) or "nothing"
        told = {"fault": row.fault, "kind": row.kind, "seconds": max(0.0, row.seen - row.happened)}
        request.node.user_properties.append((PROPERTY, told | {"verdict": row.verdict, "left": row.left}))
        assert row.left in ("nothing", NOT_LOOKED)

    return make


def left_behind(place: Path) -> list[str]:
    """What a fault left: processes, machines and mounts that have to do with the folder, half-made things in stores."""
    word = str(place)
    found = [f"process {name}" for name, line in command_lines() if word in line]
    # libvirt's own notes of the machines that it runs, of root and of an ordinary user.
    for notes in (Path("/run/libvirt/qemu"), session_directory() / "qemu" / "run"):
        for note in notes.glob("*.xml"):
            with contextlib.suppress(OSError):
                found += [f"machine {note.stem}"] if word in note.read_text(encoding="utf-8", errors="replace") else []
    mounts = Path("/proc/mounts").read_text().splitlines()
    found += [f"mount {line.split()[1]}" for line in mounts if line.split()[1].startswith(f"{word}/")]
    for store in place.rglob(".store"):
        for folder in ("tmp", "runs"):
            found += [f"{folder}/{path.name}" for path in (store / folder).glob("*")]
    return found


def command_lines() -> Iterator[tuple[str, str]]:
    """Process ids and command lines of everything that runs."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            yield entry.name, (entry / "cmdline").read_bytes().decode("utf-8", "replace")


def mark_faults(items: list[pytest.Item]) -> None:
    """Every test that makes a row is marked as one."""
    for item in items:
        if "fault_row" in getattr(item, "fixturenames", ()) or item.nodeid.startswith(HOSTILE):
            item.add_marker(pytest.mark.fault)


def hostile_rows(reports: list[Any]) -> list[dict[str, Any]]:
    """A row for each file of hostile inputs; seconds are those of all its tests."""
    files: dict[str, list[Any]] = {}
    for report in reports:
        if report.nodeid.startswith(HOSTILE):
            name = report.nodeid.removeprefix(HOSTILE).partition(".py")[0].replace("_", " ")
            files.setdefault(name, []).append(report)
    return [
        {
            "fault": f"hostile input: {name}",
            "kind": "hostile",
            "seconds": sum(report.duration for report in found),
            "verdict": f"{sum(report.passed for report in found)} of {len(found)} held",
            "left": NOT_LOOKED,
        }
        for name, found in sorted(files.items())
    ]


def print_table(reporter: Any) -> None:
    """The table of all rows, and what they took."""
    reports = [report for kind in ("passed", "failed") for report in reporter.getreports(kind) if report.when == "call"]
    rows = [value for report in reports for name, value in report.user_properties if name == PROPERTY]
    rows += hostile_rows(reports)
    if not rows:
        return
    width = max(len(row["fault"]) for row in rows)
    wide = max(len(row["verdict"]) for row in rows)
    reporter.section("faults")
    reporter.write_line(f"{'fault':<{width}}  {'seconds':>7}  {'verdict':<{wide}}  left")
    for row in rows:
        reporter.write_line(f"{row['fault']:<{width}}  {row['seconds']:>7.2f}  {row['verdict']:<{wide}}  {row['left']}")
    words = {"proof": "proved by a line or an event", "stall": "stalled or over a limit", "mend": "found and mended"}
    for kind, text in words.items():
        took = [row["seconds"] for row in rows if row["kind"] == kind]
        if took:
            reporter.write_line(f"{len(took)} {text}: median {statistics.median(took):.2f} s, most {max(took):.2f} s")
