"""Make the rehearsal's installer fail: a kickstart or a fault, what it says then, and what builder calls it.

The installer of a release is booted once, to where it waits for a CD with the kickstart, and its state is saved; each
row continues from there with a CD of its own.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from builder.diagnosis.classify import classify
from builder.errors import Source
from builder.iso.boot_menu import label_argument
from builder.rehearsal.shapes import SHAPES
from builder.releases import Name
from tests.conftest import Rehearsal
from tests.fault_table import FaultRow
from tests.rehearsal.machine import Machine, boot_files, empty_disk, kickstart_cd, machine

CONSOLE = "net.ifnames=0 biosdevname=0 console=tty0 console=ttyS0,115200n8"
WAIT = "rehearsal.wait=3"  # seconds instead of 180
FAULT = "rehearsal.fault=cdrom"
GOOD = """cdrom
lang en_US.UTF-8
keyboard us
timezone UTC
rootpw --plaintext secret
zerombr
ignoredisk --only-use=disk/by-id/*BUILDER-SYSTEM*
clearpart --all --initlabel
part / --fstype=xfs --size=2000 --grow
bootloader --timeout=1
"""
PACKAGES = "%packages\n@core\n%end\n"


def stage2(release: Name) -> str:
    """The word of the kernel's command line that names the medium."""
    return f"inst.stage2=hd:LABEL={label_argument(SHAPES[release].volume_id)}"


def kickstart(mode: str, body: str = GOOD, packages: str = PACKAGES, end: str = "poweroff\n", more: str = "") -> str:
    """A whole kickstart."""
    return f"{mode}\n{body}{end}{packages}{more}"


@dataclass(frozen=True)
class Row:
    """One fault.

    Args:
        cause: what builder calls it.
        source: where the expectation was read.
        kickstart: text of ks.cfg.
        says: what must be on the console, in this order; the machine is looked at when the last has been said.
        off: the machine then switches itself off (or resets, which ends QEMU here); otherwise it stays up.
        never: what must not be on the console.
        logs: what must be in the log.
        fault: which the installer is told to have (`rehearsal.fault=`), where no kickstart causes it.
    """

    name: str
    cause: str
    source: str
    kickstart: str
    says: tuple[str, ...]
    off: bool = False
    never: str = "Powering off."
    logs: str = ""
    fault: str = ""


class Installers:
    """Saved installers that wait for their kickstart, one a release, each made when it is first asked for."""

    def __init__(self, rehearsal_of: Rehearsal, folder: Path) -> None:
        self._iso, self._folder = rehearsal_of, folder
        self._boot: dict[Name, tuple[Path, Path, str]] = {}

    def start(self, release: Name, folder: Path) -> AbstractContextManager[Machine]:
        """Go on with a copy of the saved one, on a disk of its own."""
        place, iso = self._folder / release, self._iso(release)
        if release not in self._boot:
            line = f"{stage2(release)} inst.ks=cdrom:/ks.cfg {CONSOLE} {WAIT} {FAULT}"
            boot = (*boot_files(iso, place), line)
            disk = empty_disk(place / "disk.qcow2")
            with machine(place / "vm", disk=disk, cds=[iso, None], boot=boot) as vm:
                vm.expect("Please insert CDROM containing '/ks.cfg'...")
                vm.save(place / "state")
            self._boot[release] = boot
        disk = empty_disk(folder / "disk.qcow2", base=place / "disk.qcow2")
        boot = self._boot[release]
        return machine(folder / "vm", disk=disk, cds=[iso, None], boot=boot, restore=place / "state")


def row_fails(row: Row, release: Name, installers: Installers, folder: Path, fault_row: FaultRow) -> None:
    """See that a row comes true, and what builder makes of it."""
    name = row.name if release == "el7" else f"{row.name}, {release}"
    with fault_row(f"rehearsal: {name}", place=folder) as told, installers.start(release, folder) as vm:
        _fails(row, vm, folder)
        # As the watch over an install does: the console first, then the log.
        texts = {Source.CONSOLE: vm.screen(), Source.INSTALLER_LOG: vm.log()}
        found = [classify(text, source, conclusive=not row.off) for source, text in texts.items()]
        verdict = next(one for one in found if one is not None)
        told.judged(verdict.cause, happened=(vm.folder / "serial0.log").stat().st_mtime)
        assert verdict.cause == row.cause, row.source


def _fails(row: Row, vm: Machine, folder: Path) -> None:
    vm.resume()
    vm.insert("cd1", kickstart_cd(folder / "ks.iso", row.kickstart, fault=row.fault))
    for words in row.says:
        vm.expect(words, within=120)
    screen = vm.screen()
    places = [screen.index(words) for words in row.says]
    assert places == sorted(places), row.source
    if row.off:
        vm.off()
    else:
        assert vm.process.poll() is None
        assert vm.tell("query-status")["running"]
    if row.never:
        assert row.never not in vm.screen()
    assert row.logs in vm.log()
