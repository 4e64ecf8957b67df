"""What fails before the installer starts ends as dracut does: an emergency shell, and the machine stays up."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.diagnosis.classify import classify
from builder.errors import Source
from tests.fault_table import FaultRow
from tests.rehearsal.failing import CONSOLE, WAIT, stage2
from tests.rehearsal.machine import empty_disk, machine

pytestmark = pytest.mark.vm

STAGE2 = stage2("el7")
TIMEOUT = "dracut-initqueue timeout - starting timeout scripts"
EMERGENCY = "Entering emergency mode. Exit the shell to continue."
KS = r"inst.ks=hd:LABEL=CentOS\x207\x20x86_64:/ks.cfg"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "says", "cause"),
    [
        (
            f"{STAGE2} inst.ks=hd:LABEL=WRONG:/ks.cfg",
            (TIMEOUT, "Could not boot.", "LABEL=WRONG does not exist", EMERGENCY),
            "dracut timeout",
        ),
        (
            "inst.stage2=hd:LABEL=WRONG inst.ks=hd:LABEL=BUILDER_KS:/ks.cfg",
            (TIMEOUT, "Could not boot.", "/dev/root does not exist", EMERGENCY),
            "dracut timeout",
        ),
        (
            f"{STAGE2} {KS} rehearsal.fault=no-medium",
            (TIMEOUT, "/dev/root does not exist", EMERGENCY),
            "dracut timeout",
        ),
        (
            f"{STAGE2} {KS} rehearsal.fault=module-refused",
            ("can't load module sd_mod", EMERGENCY),
            "module refused",
        ),
        (f"{STAGE2} {KS} rehearsal.fault=medium-check", ("result is: FAIL", "CD check failed!"), "medium check"),
        (
            f"{STAGE2} {KS} rehearsal.fault=kickstart-not-found",
            ("Can't get kickstart from hd:LABEL=", EMERGENCY),
            "kickstart not found",
        ),
    ],
    ids=[
        "wrong kickstart label",
        "wrong stage2 label",
        "no medium",
        "module refused",
        "medium check",
        "kickstart not found",
    ],
)
def test_fails_before_the_installer_starts(
    line: str,
    says: tuple[str, ...],
    cause: str,
    rehearsal_iso: Path,
    rehearsal_boot: tuple[Path, Path],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    fault_row: FaultRow,
) -> None:
    boot = (*rehearsal_boot, f"{line} {CONSOLE} {WAIT}")
    with (
        fault_row(f"rehearsal: {request.node.callspec.id}", place=tmp_path) as told,
        machine(tmp_path / "vm", disk=empty_disk(tmp_path / "d"), cds=[rehearsal_iso], boot=boot) as vm,
    ):
        for words in says:
            vm.expect(words, within=120)
        verdict = classify(vm.screen(), Source.CONSOLE)
        assert verdict is not None
        told.judged(verdict.cause, happened=(vm.folder / "serial0.log").stat().st_mtime)
        assert verdict.cause == cause
        assert vm.process.poll() is None
