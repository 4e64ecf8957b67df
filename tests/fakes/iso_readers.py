"""Read an image with programs other than builder."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from builder.system.digests import sha256_file
from builder.system.process import run


def unpacked(iso: Path, folder: Path) -> dict[str, bytes]:
    """All files by path, as xorriso reads them."""
    run(["xorriso", "-osirrox", "on", "-indev", iso, "-extract", "/", folder])
    run(["chmod", "-R", "u+w", folder])
    return {f"/{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sums(iso: Path, folder: Path) -> dict[str, str]:
    """SHA-256 of all files by path, as xorriso reads them; the copies are removed again."""
    run(["xorriso", "-osirrox", "on", "-indev", iso, "-extract", "/", folder])
    run(["chmod", "-R", "u+w", folder])
    found = {f"/{path.relative_to(folder)}": sha256_file(path) for path in folder.rglob("*") if path.is_file()}
    shutil.rmtree(folder)
    return found


def report(iso: Path) -> str:
    """xorriso's view of the boot records and the El Torito catalogue."""
    done = run(["xorriso", "-indev", str(iso), "-report_system_area", "plain", "-report_el_torito", "plain"])
    return done.stdout + done.stderr


def complaints(iso: Path) -> list[str]:
    """Lines of xorriso's report that speak of something wrong."""
    lines = [line for line in report(iso).splitlines() if "GUID" not in line]
    return [line for line in lines if re.search(r"WARNING|FAILURE|SORRY|wrong|problems|CRC", line)]


def numbers(iso: Path, line: str) -> list[str]:
    """The values behind a label of the report."""
    found = next(row for row in report(iso).splitlines() if row.startswith(line))
    return found.partition(":")[2].split()


def sound_md5(iso: Path) -> bool:
    """The verdict of checkisomd5."""
    return run(["checkisomd5", iso], check=False).status == 0


def joliet_names(iso: Path) -> set[str]:
    """All paths that Joliet gives."""
    return set(run(["isoinfo", "-J", "-f", "-i", iso]).stdout.split("\n")) - {""}


def extent(iso: Path, path: str) -> int:
    """First sector of a file, as isoinfo reads it through Rock Ridge."""
    folder, _, name = path.rpartition("/")
    listing = run(["isoinfo", "-R", "-l", "-i", iso]).stdout
    section = listing.split(f"Directory listing of {folder}/\n")[1].split("\n\n")[0]
    row = next(line for line in section.splitlines() if line.rstrip().endswith(f" {name}"))
    found = re.search(r"\[ *(\d+) ", row)
    assert found is not None
    return int(found[1])
