"""The rehearsal installer, made to fail, under the real fetch, medium and install stages: as in a nightly run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from builder.errors import BuilderError
from builder.kickstart import render
from builder.pipeline.execute import Context, execute
from builder.pipeline.plan import plan
from builder.rehearsal.installer import faults
from builder.settings import BuildOptions, MediumSource, Timeouts
from builder.stage import Inputs, Job, Stage
from builder.stages import fetch, install, kickstart, remaster
from builder.stages.fetch import FetchInputs
from builder.stages.install import InstallInputs
from builder.stages.remaster import RemasterInputs
from builder.store.store import Store
from builder.system import process
from builder.vm.machine_spec import SYSTEM_DISK_SERIAL
from tests.fault_table import FaultRow
from tests.faults.conftest import GOOD, Machines, verdict_of

pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(1200)]
ROOT = Path(__file__).parents[2]
GIB = 1 << 30
PASSWORD = "a-rehearsed-password"
VARS = {"hostname": "h", "keyboard": "us", "lang": "en_US.UTF-8", "packages": [], "timezone": "UTC"}


class Secrets:
    """Of a pipeline whose password is no secret."""

    root_password = PASSWORD
    root_crypt = process.run(("openssl", "passwd", "-6", "-salt", "salt", PASSWORD)).stdout.strip()

    def mac(self, text: str) -> str:
        return f"not used for {text}"


def _kickstart(job: Job[Any]) -> None:
    """The kickstart of pipelines/centos7-minimal.yaml."""
    texts = render.collect("centos7-minimal.ks.j2", [ROOT / "kickstarts"])
    given = kickstart.KickstartInputs(
        template="centos7-minimal.ks.j2", templates=texts, vars=VARS, disk_serial=SYSTEM_DISK_SERIAL, password_mac=""
    )
    (job.out / kickstart.FILE).write_text(kickstart.render(given, root_crypt=Secrets.root_crypt, token=job.digest))


def stages(iso: Path, fault: str) -> tuple[Stage[Any], ...]:
    """The real stages up to the install; the installer is told its fault on its command line."""
    got = FetchInputs(sha256=hashlib.sha256(iso.read_bytes()).hexdigest(), rehearsal=None)
    words = (*remaster.KERNEL_ARGS, f"rehearsal.fault={fault}", "rehearsal.wait=3")
    made = RemasterInputs(delivery="seed", memory=GIB, disk_size=4 * GIB, firmware="bios", kernel_args=words)
    machine = InstallInputs(vcpus=2, memory=GIB, firmware="bios", devices="virtio", machine="q35", disk_size=4 * GIB)
    return (
        replace(fetch.STAGE, inputs=lambda _: got),
        Stage("kickstart", 1, (), lambda _: Inputs(), _kickstart, "kickstart"),
        replace(remaster.STAGE, inputs=lambda _: made),
        replace(install.STAGE, inputs=lambda _: machine),
    )


class Named:
    """An order with no more than the name that a plan wants."""

    name = "rehearsed"


@dataclass(frozen=True)
class Told:
    """What the installer is told, and what has to become of it.

    Args:
        line: part of the line that has to be quoted.
        sources: where it may have been seen first. Anaconda writes some errors to its log, and then on its console.
        quiet: seconds, before they are stretched for TCG.
    """

    fault: str
    cause: str
    line: str
    sources: tuple[str, ...]
    quiet: float = 600


BOTH = ("console", "anaconda.log")
ROWS = (
    Told("kickstart-error", "kickstart error", "Unknown command: frobnicate", BOTH),
    Told("mandatory-item", "mandatory item", "Please make your choice from above", ("console",)),
    Told("module-refused", "module refused", "unknown symbol in module", ("console",)),
    Told("medium-check", "medium check", "CD check failed!", ("console",)),
    Told("kernel-panic", "kernel panic", "sysrq triggered crash", ("console",)),
    Told("guest-out-of-memory", "guest out of memory", "Killed process", ("console",)),
    Told("power-off", "no marker", "the guest powered itself off", ("libvirt",)),
    Told("reboot", "reboot", "the guest reset itself", ("libvirt",)),
    Told("hang", "stalled", "Preparing transaction from installation source", ("all signals",), quiet=10),
    Told("post-script", "script failed", "rehearsed failure of post", ("console",)),
)


@pytest.fixture
def fails(machines: Machines, rehearsal_iso: Path) -> Callable[[Told], tuple[BuilderError, Path]]:
    """Runs it; the fault, and the run's folder."""

    def go(told: Told) -> tuple[BuilderError, Path]:
        settings = machines.settings
        store = Store(settings.store)
        build = BuildOptions(MediumSource(rehearsal_iso), Timeouts(quiet=told.quiet))
        given = plan(stages(rehearsal_iso, told.fault), Named(), store, settings)
        with pytest.raises(BuilderError) as caught:
            execute(given, Context(store, settings, build, Secrets()), machines.watcher)
        return caught.value, machines.evidence()

    return go


@pytest.mark.parametrize("told", ROWS, ids=lambda told: told.fault)
def test_a_night_that_fails(told: Told, fails: Any, machines: Machines, fault_row: FaultRow) -> None:
    kind = "stall" if told.cause == "stalled" else "proof"
    limit = f" (limit {told.quiet * 4:.0f} s)" if kind == "stall" else ""
    with fault_row(f"an install: {told.fault}{limit}", kind=kind, place=machines.place) as row:
        fault, folder = fails(told)
        row.judged(fault.diagnosis.cause, happened=said_quiet(fault.diagnosis.line) or last_sign(folder))
        assert fault.diagnosis.cause == told.cause
        assert fault.diagnosis.source in told.sources
        assert told.line in fault.diagnosis.line
        for file in folder.iterdir():
            assert PASSWORD.encode() not in file.read_bytes(), file
            assert Secrets.root_crypt.encode() not in file.read_bytes(), file
        assert verdict_of(folder)["stage"] == "install"
        machines.run(GOOD)


def said_quiet(line: str) -> float | None:
    """Since when nothing was heard, also not from the disks, as a stall says it; None for other causes."""
    found = re.search(r"since (\d\d):(\d\d):(\d\d) UTC", line)
    if found is None:
        return None
    now = datetime.now(UTC)
    hours, minutes, seconds = (int(part) for part in found.groups())
    then = now.replace(hour=hours, minute=minutes, second=seconds, microsecond=0)
    return (then if then <= now else then - timedelta(days=1)).timestamp()


def last_sign(folder: Path) -> float:
    """When the console or the installer's log last said something."""
    return max((folder / name).stat().st_mtime for name in ("console.log", "anaconda.log"))


def test_ten_mebibytes_of_log(fails: Any, machines: Machines, fault_row: FaultRow) -> None:
    """Through the installer's own port, over libvirt's rolling logs: each line is there, once and in order."""
    with fault_row("10 MiB in the installer's log, then a crash", place=machines.place) as row:
        fault, folder = fails(Told("flood", "", "", ()))
        row.judged(fault.diagnosis.cause, happened=last_sign(folder))
        assert fault.diagnosis.cause == "traceback"
        log = (folder / "anaconda.log").read_text().splitlines()
        said = [line.partition("program:")[2] for line in log]
        flood = [line for line in said if line[:8].isdecimal() and line.endswith("...")]
        assert flood == faults.flood_lines()
        machines.run(GOOD)
