"""The one rule: the vendor's medium is changed only where it must be to start the installer with our answers."""

from __future__ import annotations

import json

from builder.adapters import iso, iso_inspect
from builder.order import Order
from builder.stage import Inputs, Job, Stage
from builder.stages import answers, fetch

FILE = "install.iso"
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


class MediumInputs(Inputs):
    """How the kickstart reaches the installer."""

    delivery: str
    kernel_args: tuple[str, ...] = KERNEL_ARGS


def inputs(order: Order) -> MediumInputs:
    """The delivery that the recipe chose."""
    return MediumInputs(delivery=order.recipe.media.delivery)


def run(job: Job) -> None:
    """Write the install medium that boots straight into the kickstart.

    Raises:
        MediumError: the vendor's medium has no boot configuration that can be edited.
    """
    vendor = job.needs["fetch"] / fetch.FILE
    facts = iso_inspect.inspect(vendor)
    label = facts.volume_id.replace(" ", r"\x20")
    with job.ledger.spend("copy", vendor.stat().st_size):
        report = iso.remaster(
            vendor,
            job.out / FILE,
            kickstart=(job.needs["answers"] / answers.FILE).read_bytes(),
            kernel_args=(rf"inst.ks=hd:LABEL={label}:/ks.cfg", *job.inputs.kernel_args),
            menu="unattended",
        )
    (job.out / "medium.json").write_text(json.dumps(report.as_dict(), indent=2) + "\n", encoding="utf-8")


STAGE = Stage("medium", 1, ("fetch", "answers"), inputs, run, "put the kickstart into the medium", drop=True)
