"""The names in a repository's list of packages: a program of its own, which `builder.iso.repodata` runs.

createrepo_c, which reads the list, takes 20 MiB and more, and is written in C: what a damaged list does to it is done
to this process alone.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
from pathlib import Path
from typing import Any

import createrepo_c

# Bytes of one package in the list (createrepo_c keeps it whole, in 15 times as much memory), and of names in all.
LARGEST_PACKAGE, MOST_NAMES = 8 << 20, 2_000_000


def read(primary: Path) -> tuple[set[str], set[str]]:
    """Return the names of packages, and all that they may be asked for by.

    Args:
        primary: the list, not compressed.

    Raises:
        Exception: whatever createrepo_c hands out for a list that is damaged, or larger than any.
    """
    _require_small_packages(primary)
    names: set[str] = set()
    answers_to: set[str] = set()

    def note(package: Any) -> None:
        version = f"{package.name}-{package.version}"
        release = f"{version}-{package.release}"
        names.add(package.name)
        answers_to.update((package.name, version, release))
        answers_to.update((f"{package.name}.{package.arch}", f"{release}.{package.arch}"))
        answers_to.update(provided[0] for provided in package.provides)
        if len(answers_to) > MOST_NAMES:
            raise ValueError(f"more than {MOST_NAMES} names of packages")

    createrepo_c.xml_parse_primary(str(primary), pkgcb=note, do_files=False)
    return names, answers_to


def _require_small_packages(primary: Path) -> None:
    with primary.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            begin, size = 0, len(text)
            while begin < size:
                end = text.find(b"<package", begin + 1)
                end = size if end < 0 else end
                if end - begin > LARGEST_PACKAGE:
                    raise ValueError(f"a package with more than {LARGEST_PACKAGE >> 20} MiB of facts")
                begin = end


def main() -> int:
    """Print the names as JSON, or say on standard error why there are none."""
    try:
        names, answers_to = read(Path(sys.argv[1]))
    except Exception as fault:  # what C found: names that are missing or no text
        sys.stderr.write(f"{str(fault) or type(fault).__name__}\n")
        return 1
    json.dump({"names": sorted(names), "answers_to": sorted(answers_to)}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
