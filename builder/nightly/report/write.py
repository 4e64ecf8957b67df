"""The one rule: a report is a folder that is whole as soon as it has its name.

`artifacts/reports/<date>/` holds `index.html` (one file, nothing from outside), `report.md`, `junit.xml` and
`night.json`; `latest` points to the newest one.
"""

from __future__ import annotations

import errno
import secrets as randomness
from pathlib import Path

from builder.errors import HostError
from builder.nightly.record import FILE, Night, nights
from builder.nightly.report import junit, markdown
from builder.store.objects import remove, sync_file
from builder.system.atomic_file import sync_folder

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
    # The page's template engine is dear to load, and needed here only.
    from builder.nightly.report import html

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
            (new / FILE).write_text(night.model_dump_json(indent=2) + "\n", encoding="utf-8")
            (new / TEXT).write_text(markdown.render(night), encoding="utf-8")
            (new / XML).write_bytes(junit.render(night))
            (new / PAGE).write_text(html.render(night, earlier, reports / name), encoding="utf-8")
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
