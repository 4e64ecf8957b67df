"""Write the report of a nightly run.

`artifacts/reports/<date>/` holds `index.html` (one file that needs nothing from outside), `report.md`, `junit.xml` and
`night.json`; the link `latest` leads to the newest one.

Invariant: a report that has its name is complete.
"""

from __future__ import annotations

import errno
import secrets as randomness
from collections.abc import Sequence
from pathlib import Path

from builder.errors import HostError
from builder.nightly.record import FILE, NightlyRun, load_runs
from builder.nightly.report import html, junit, markdown
from builder.store.objects import remove, sync_file
from builder.system.atomic_file import replacing, sync_folder

PAGE, TEXT, XML = "index.html", "report.md", "junit.xml"
LATEST = "latest"
# Runs in the small plots.
SHOWN = 30


def write(reports: Path, nightly: NightlyRun) -> Path:
    """Write the report of a run, in a new folder even if there is a report of this day already.

    Args:
        nightly: its `date` is the day; where that name is taken, the folder's gets a number (`2026-11-23.2`).

    Returns:
        The folder.

    Raises:
        HostError: it cannot be written.
    """
    new = reports / f".new-{randomness.token_hex(4)}"
    try:
        reports.mkdir(parents=True, exist_ok=True)
        earlier = load_runs(reports)[-SHOWN:]
        count = 1
        name = nightly.date
        while (reports / name).exists() or not _create(reports / name, new, nightly, earlier):
            count += 1
            name = f"{nightly.date}.{count}"
        link = reports / f".new-{randomness.token_hex(4)}"
        link.symlink_to(name)
        link.replace(reports / LATEST)
        sync_folder(reports)
    except OSError as error:
        raise HostError(f"the report cannot be written: {error.strerror}", str(error)) from error
    finally:
        remove(new)
    return reports / name


def rewrite(folder: Path, nightly: NightlyRun, earlier: Sequence[NightlyRun]) -> None:
    """Write the report of a run again, file by file, after its record has changed.

    Args:
        earlier: runs before it, the oldest first, for the plots.

    Raises:
        HostError: it cannot be written; what was there is still there.
    """
    for file, data in _files(nightly, earlier[-SHOWN:], folder).items():
        try:
            mode = (folder / file).stat().st_mode & 0o777
        except OSError as error:
            raise HostError(f"{folder / file} is gone: {error.strerror}") from error
        with replacing(folder / file, mode) as target:
            target.write(data)


def _create(folder: Path, new: Path, nightly: NightlyRun, earlier: Sequence[NightlyRun]) -> bool:
    """Write a report into the folder `new`, and rename that; False when another run took the name meanwhile."""
    new.mkdir()
    named = nightly.model_copy(update={"date": folder.name})
    for file, data in _files(named, earlier, folder).items():
        (new / file).write_bytes(data)
        sync_file(new / file)
    sync_folder(new)
    try:
        new.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        remove(new)
        return False
    return True


def _files(nightly: NightlyRun, earlier: Sequence[NightlyRun], folder: Path) -> dict[str, bytes]:
    """Return the files of a report by name."""
    return {
        FILE: f"{nightly.model_dump_json(indent=2)}\n".encode(),
        TEXT: markdown.render(nightly).encode(),
        XML: junit.render(nightly),
        PAGE: html.render(nightly, earlier, folder).encode(),
    }
