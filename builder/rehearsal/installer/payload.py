# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""Fill the new root: the file system that the installer runs from, less the installer.

It is unpacked whole (three times as fast as copying files); then names that were not chosen are removed and chosen ones
are added.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from . import debs, log, program
from .disk.storage import ROOT
from .release.facts import Product
from .selection import Selection, Table

MEDIUM = Path("/run/install/repo")
# As EL7's medium has it, and as later ones do.
SQUASHFS = tuple(MEDIUM / place for place in ("LiveOS/squashfs.img", "images/install.img"))
INSTALLER = Path("opt/rehearsal")
CERTIFICATES = "/usr/share/ca-certificates/*"
MODULES = Path("usr/lib/python3/dist-packages")
LIST = Path("var/lib/rehearsal/packages")
# Files on disk against bytes in the squashfs, measured at 3.0; Anaconda wants 1.35 times the packages' size.
UNPACKED = 3.2
SPARE = 1.35


def squashfs() -> Path:
    """The file system on the medium that is installer and payload."""
    return next(path for path in SQUASHFS if path.exists())


def needed() -> int:
    """MiB the root file system must have, for Anaconda's own check."""
    return int(squashfs().stat().st_size * UNPACKED * SPARE) >> 20


def install(table: Table, selection: Selection, say: Callable[[str], None]) -> None:
    """Fill ROOT.

    Raises:
        ProgramError: the disk is full, or a package does not install.
    """
    log.info("packaging", f"installing {len(selection.chosen)} packages")
    total = len(selection.chosen)
    ordered = sorted(selection.chosen, key=lambda name: (name != "libgcc", name))
    for number, name in enumerate(ordered[: total // 2], start=1):
        say(f"Installing {name} ({number}/{total})")
    program.run("unsquashfs", "-f", "-n", "-q", "-d", str(ROOT), str(squashfs()))
    shutil.rmtree(ROOT / INSTALLER)
    for number, name in enumerate(ordered[total // 2 :], start=total // 2 + 1):
        say(f"Installing {name} ({number}/{total})")
    added = [table.debs[name] for name in ordered if name in table.debs]
    if added:
        _put_in(added)
    for name in table.removable:
        if name not in selection.chosen:
            log.info("packaging", f"not selected: {name}")
            _take_out(table.present[name])


def _put_in(packages: Sequence[str]) -> None:
    copies = []
    for deb in dict.fromkeys(deb for package in packages for deb in debs.needed(package)):
        copies.append(ROOT / "tmp" / deb.name)
        shutil.copyfile(deb, copies[-1])
    # Each package would start Python to compile its own modules, which takes a minute without KVM.
    compiler, aside = ROOT / "usr/bin/py3compile", ROOT / "usr/bin/py3compile.aside"
    compiler.rename(aside)
    try:
        files = [f"/tmp/{copy.name}" for copy in copies]
        # Nobody trusts anybody here, and each certificate costs seconds.
        program.run("dpkg", "--install", "--force-unsafe-io", f"--path-exclude={CERTIFICATES}", *files, root=ROOT)
        if (ROOT / MODULES).is_dir():
            program.run("python3", "-m", "compileall", "-q", "-j", "0", f"/{MODULES}", root=ROOT)
    finally:
        aside.rename(compiler)
        for copy in copies:
            copy.unlink()


def _take_out(package: str) -> None:
    program.run("dpkg", "--purge", "--force-depends", "--force-unsafe-io", package, root=ROOT, check=False)


def record(table: Table, selection: Selection, product: Product) -> None:
    """Write the list that the system's rpm answers from: name, version, release, architecture.

    `system-release` of the table is the product's own.
    """
    said = program.run("dpkg-query", "--show", "--showformat=${Package} ${Version}\\n", root=ROOT, quiet=True)
    versions = dict(line.split() for line in said.splitlines())
    kernel = max((ROOT / "boot").glob("vmlinuz-*")).name.removeprefix("vmlinuz-")
    lines = []
    for name in (name for name in selection.chosen if name not in table.unclaimed):
        package = table.present.get(name) or table.debs.get(name) or ""
        full = versions.get(package, "0")
        version, _, release = full.partition(":")[2].partition("-") if ":" in full else full.partition("-")
        if name == "kernel":
            version, _, release = kernel.partition("-")
        if name == "system-release":
            name, version, release = f"{product.os_id}-release", product.version, "1"
        lines.append(f"{name} {version} {release or '1'}.rehearsal x86_64")
    path = ROOT / LIST
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, ""]))
