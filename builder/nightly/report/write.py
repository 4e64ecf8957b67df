"""The one rule: a report is a folder that is whole as soon as it has its name.

`artifacts/reports/<date>/` holds `index.html` (one file, nothing from outside), `report.md`, `junit.xml` and
`night.json`; `latest` points to the newest one.
"""

from __future__ import annotations

import errno
import secrets as randomness
from collections.abc import Sequence
from pathlib import Path

from builder.errors import HostError
from builder.nightly.record import FILE, Night, nights
from builder.nightly.report import junit, markdown
from builder.store.objects import remove, sync_file
from builder.system.atomic_file import replacing, sync_folder

PAGE, TEXT, XML = "index.html", "report.md", "junit.xml"
LATEST = "latest"
# Nights in the small plots.
SHOWN = 30


def write(reports: Path, night: Night) -> Path:
    """Write the report of a night; it gets a folder of its own also if the day has one already.

    Args:
        night: its `date` is the day; where that is taken, a number is put behind it.

    Returns:
        The folder.

    Raises:
        HostError: it cannot be written.
    """
    new = reports / f".new-{randomness.token_hex(4)}"
    try:
        reports.mkdir(parents=True, exist_ok=True)
        earlier = nights(reports)[-SHOWN:]
        day, count = night.date, 1
        while True:
            name = day if count == 1 else f"{day}.{count}"
            count += 1
            if (reports / name).exists():
                continue
            night = night.model_copy(update={"date": name})
            new.mkdir()
            for file, data in _files(night, earlier, reports / name).items():
                (new / file).write_bytes(data)
            for path in new.iterdir():
                sync_file(path)
            sync_folder(new)
            try:
                new.rename(reports / name)
            except OSError as fault:
                # Another night of this day was faster.
                if fault.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                remove(new)
                continue
            break
        link = reports / f".new-{randomness.token_hex(4)}"
        link.symlink_to(name)
        link.replace(reports / LATEST)
        sync_folder(reports)
    except OSError as fault:
        raise HostError(f"the report cannot be written: {fault.strerror}", str(fault)) from fault
    finally:
        remove(new)
    return reports / name


def rewrite(folder: Path, night: Night, earlier: Sequence[Night]) -> None:
    """Write the report of a night again, file by file, after its record has changed.

    Args:
        earlier: nights before it, the oldest first, for the plots.

    Raises:
        HostError: it cannot be written; what was there is still there.
    """
    for file, data in _files(night, earlier[-SHOWN:], folder).items():
        mode = (folder / file).stat().st_mode & 0o777
        with replacing(folder / file, mode) as target:
            target.write(data)


def _files(night: Night, earlier: Sequence[Night], folder: Path) -> dict[str, bytes]:
    """The files of a report by name."""
    # The page's template engine is dear to load, and needed here only.
    from builder.nightly.report import html

    return {
        FILE: f"{night.model_dump_json(indent=2)}\n".encode(),
        TEXT: markdown.render(night).encode(),
        XML: junit.render(night),
        PAGE: html.render(night, earlier, folder).encode(),
    }
