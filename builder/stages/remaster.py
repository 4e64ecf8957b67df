"""The stage that makes a medium which starts the installer with the kickstart.

Invariant: the vendor's medium is changed only where it must be.

`remaster` writes a new medium with the kickstart in it. `seed` leaves the vendor's untouched as the first CD: the
kickstart is on a second one, and the kernel is started directly, so that no boot menu has to be edited.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from builder import releases
from builder.iso import boot_menu, inspect, seed_cd
from builder.iso import remaster as iso
from builder.iso.layout import with_hint
from builder.kickstart import preflight, rehearsed
from builder.recipe.build_spec import BuildSpec
from builder.settings import Settings
from builder.stage import Inputs, Job, Stage, added
from builder.stages import fetch, kernel
from builder.stages import kickstart as kickstart_stage
from builder.system import process
from builder.vm.machine_spec import DirectKernel

FILE = "install.iso"
SEED = "ks.iso"
COMMAND_LINE = "cmdline"
# Beside what the vendor's own entry says. The kickstart is named by the volume's label and never as `cdrom:`, which
# waits for ever when the file is missing; inst.nosave keeps the installer from writing the kickstart, with the
# password's hash, into the image; net.ifnames=0 biosdevname=0 are copied to the installed system's kernel line;
# the last console= is where the installer shows itself. (Anaconda 21.48: dracut/parse-anaconda-kickstart.sh,
# pyanaconda/bootloader.py.)
KERNEL_ARGS = (
    "inst.nosave=all",
    "net.ifnames=0",
    "biosdevname=0",
    "console=tty0",
    "console=ttyS0,115200",
)


class RemasterInputs(Inputs):
    """Delivery of the kickstart, and the machine that it has to fit (sizes in bytes)."""

    delivery: releases.Delivery
    memory: int
    disk_size: int
    firmware: Literal["bios", "uefi"]
    networked: bool = added(False)
    kernel_args: tuple[str, ...] = KERNEL_ARGS
    release: releases.Name = added(releases.DEFAULT)


@dataclass(frozen=True)
class Boot:
    """Boot media of the installing machine: CDs in drive order, and a kernel where no CD is booted."""

    cdroms: tuple[Path, ...]
    kernel: DirectKernel | None


def inputs(spec: BuildSpec) -> RemasterInputs:
    """The delivery and the machine that the recipe chose."""
    chosen = spec.recipe.machine
    return RemasterInputs(
        delivery=spec.recipe.delivery,
        memory=chosen.memory,
        disk_size=spec.recipe.disk.size,
        firmware=chosen.firmware,
        networked=spec.recipe.install.network != "none",
        release=spec.recipe.release,
    )


def require_programs(inputs: RemasterInputs, _: Settings) -> None:
    """See that the program is there that a medium will be rewritten with, before the medium is fetched.

    Raises:
        HostError: it is not.
    """
    if inputs.delivery == "remaster" and releases.RELEASES[inputs.release].xorriso:
        process.find("xorriso")


def run(job: Job[RemasterInputs]) -> None:
    """Compare kickstart, medium and machine; then make what boots straight into the kickstart.

    Raises:
        RecipeError: the kickstart asks for what medium or machine do not have.
        MediumError: the vendor's medium is of another release, has no boot configuration that can be edited, or no
            kernel.
    """
    vendor = job.needs["fetch"] / fetch.FILE
    kickstart = (job.needs["kickstart"] / kickstart_stage.FILE).read_bytes()
    given = job.inputs
    files = kickstart_stage.beside(job.needs["kickstart"])
    release = releases.RELEASES[given.release]
    facts = inspect.inspect(vendor)
    preflight.require_release(facts, release)
    text = kickstart.decode("utf-8")
    if facts.is_rehearsal:
        _rehearse(job, text)
    room = preflight.Room(
        given.memory, given.disk_size, given.firmware, given.networked, release, rehearsal=facts.is_rehearsal
    )
    preflight.require(text, vendor, room)
    if given.delivery == "seed":
        _seed(job, vendor, {**files, "ks.cfg": kickstart})
        return
    hint = "take the vendor's own medium, or use delivery: seed, which leaves the medium untouched"
    with with_hint(hint), job.ledger.spend("copy", vendor.stat().st_size):
        report = iso.remaster(
            vendor,
            job.out / FILE,
            kickstart=kickstart,
            beside=files,
            kernel_args=(_from(inspect.volume_id(vendor)), *given.kernel_args),
            menu="unattended",
            # Nobody checks this medium: one machine boots it, into our entry, and it is dropped after the seal.
            checksum=False,
        )
    (job.out / "medium.json").write_text(json.dumps(report.as_dict(), indent=2) + "\n", encoding="utf-8")


def _rehearse(job: Job[RemasterInputs], text: str) -> None:
    """Say what the rehearsal leaves out, and refuse what it cannot do.

    Raises:
        RecipeError: its installer would stop at a line that the real one carries out.
    """
    rehearsed.require(text)
    for said in rehearsed.left_out(text):
        job.progress.note(f"not rehearsed: {said}")


def boot(folder: Path) -> Boot:
    """Return what a machine boots from, given the finished object in this folder."""
    line = folder / COMMAND_LINE
    if not line.exists():
        return Boot((folder / FILE,), None)
    direct = DirectKernel(folder / kernel.KERNEL, folder / kernel.INITRD, line.read_text(encoding="utf-8").strip())
    return Boot((folder / FILE, folder / SEED), direct)


def _seed(job: Job[RemasterInputs], vendor: Path, files: Mapping[str, bytes]) -> None:
    """Second names for what is there already, and one small CD.

    The CD holds the password's hash and is for QEMU's user to read, as a remastered medium is; like that one it is
    dropped as soon as the disk is sealed.
    """
    (job.out / FILE).hardlink_to(vendor)
    with kernel.finished(job) as found:
        for name in (kernel.KERNEL, kernel.INITRD):
            (job.out / name).hardlink_to(found / name)
    seed_cd.write_iso(job.out / SEED, seed_cd.KICKSTART_LABEL, files, mode=0o444)
    # With two CDs the installer must be told which one holds its runtime: else it takes any.
    runtime = f"inst.stage2=hd:LABEL={boot_menu.label_argument(inspect.volume_id(vendor))}"
    words = (runtime, _from(seed_cd.KICKSTART_LABEL), *job.inputs.kernel_args)
    (job.out / COMMAND_LINE).write_text(" ".join(words) + "\n", encoding="utf-8")


def _from(label: str) -> str:
    return f"inst.ks=hd:LABEL={boot_menu.label_argument(label)}:/ks.cfg"


STAGE = Stage(
    "remaster",
    4,
    ("fetch", "kickstart"),
    inputs,
    run,
    "put the kickstart into the medium",
    intermediate=True,
    preflight=require_programs,
)
