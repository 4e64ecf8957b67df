"""Strike libvirtd in the middle of a stage, in namespaces where nothing else uses it; then run the pipeline again.

`python -m tests.faults.own_libvirt PLACE STAGE HOW` prints one JSON document. STAGE is `install` or `verify`, HOW is
`killed`, `stopped` or `restarted`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from builder.errors import BuilderError
from builder.stage import Inputs, Job, Stage
from builder.stages import machine_inputs, seal, verify
from builder.system import retry
from builder.system.digests import sha256_file
from builder.vm import daemon, qemu_img
from builder.vm.uri import SYSTEM_DIRECTORY
from tests.fakes.boot_sector import boot_sector, disk_image
from tests.faults.conftest import GOOD, STAGES, Acting, Machines, SectorOrder
from tests.pipeline.toys import Watcher

SAID = "Installing kernel"
HANGING = SectorOrder({"ttys0": f"{SAID} (120/301)\r\n", "end": "hang"})


def _sealed(job: Job[Any]) -> None:
    image = job.out / seal.FILE
    raw = disk_image(job.scratch / "raw", boot_sector(ttys0=f"{SAID} is long past\r\n".encode(), end="hang"))
    qemu_img.convert(raw, "raw", image, "qcow2")
    (job.out / seal.FACTS).write_text(json.dumps({"sha256": sha256_file(image)}))
    (job.out / seal.KEYS).write_text("[]")


def _twins(_order: object) -> machine_inputs.VerifyInputs:
    return machine_inputs.VerifyInputs(
        vcpus=1, memory=64 << 20, firmware="bios", devices="virtio", machine="q35", checks=()
    )


PROVING = (Stage("seal", 1, (), lambda _: Inputs(), _sealed, "seal"), replace(verify.STAGE, inputs=_twins))


def strike(how: str) -> float:
    """Do it, and say when (monotonic)."""
    number = int(Path("/run/libvirtd.pid").read_text())
    held = os.pidfd_open(number)
    began = time.monotonic()
    signal.pidfd_send_signal(held, signal.SIGKILL if how == "killed" else signal.SIGTERM)
    if how == "restarted":
        retry.until(lambda: None if daemon.answers(SYSTEM_DIRECTORY / "libvirt-sock") else True, within=10, every=0.01)
        daemon.ensure("qemu:///system")
    os.close(held)
    return began


def main(place: str, stage: str, how: str) -> None:
    """See the module."""
    machines = Machines(Path(place), "qemu:///system")
    struck: list[float] = []
    machines.watcher = Acting(lambda: struck.append(strike(how)), SAID)
    told = {}
    try:
        machines.run(HANGING, PROVING if stage == "verify" else STAGES)
    except BuilderError as fault:
        told = {**fault.as_dict(), "seconds": time.monotonic() - struck[0]}
    machines.watcher = Watcher()
    machines.run(GOOD)
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
