"""The stage that boots a disk, changes it as the recipe says, and generalises it.

Invariant: a disk that was booted becomes an image only after the generalise script, with nothing of builder's on it.
The machine is an overlay of what the installer left, or of a published image (`from:`); both are only read. The result
has no backing file, and is searched, sealed and verified like a disk that was never booted.
What happens in the machine is `builder.stages.provisioning`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from builder import images
from builder.errors import InstallError
from builder.guest import ansible
from builder.recipe.build_spec import BuildSpec
from builder.stage import Job, Stage
from builder.stages import install
from builder.stages.launch import BackingDisk
from builder.stages.machine_inputs import GENERALISE, ProvisionInputs, machine_of
from builder.system import host_facts
from builder.vm import qemu_img

FILE = install.FILE


def inputs(spec: BuildSpec) -> ProvisionInputs:
    """Take machine and provisioning from the recipe."""
    wanted, sha = spec.recipe.provision, spec.provisions
    folder, _, playbook = (wanted.playbook or "").partition("/")
    return ProvisionInputs(
        **machine_of(spec),
        disk_size=spec.recipe.disk.size,
        base=(spec.base.spec, spec.base.sha256) if spec.base else None,
        files=tuple((one.source, sha[one.source], one.path, int(one.mode, 8)) for one in wanted.files),
        scripts=tuple((name, sha[name]) for name in wanted.scripts),
        playbook=(folder, sha[folder], playbook) if playbook else None,
        generalise=hashlib.sha256(GENERALISE.read_bytes()).hexdigest(),
    )


def run(job: Job[ProvisionInputs]) -> None:
    """Boot an overlay, do to it what the recipe says, generalise it, switch it off, and write it as one disk.

    Raises:
        HostError: no libvirt, no access, no ansible-playbook, not enough room.
        InstallError: a script or the playbook failed, or the machine did not come up or go down as it should.
        PublishError: the image that is built on is gone.
    """
    # Not at the head: every plan loads this module.
    from builder.stages import provisioning

    if job.inputs.playbook:
        ansible.require()
    host_facts.require_space(job.out, job.inputs.disk_size, "the disk to provision")
    with _below(job) as base:
        size = max(job.inputs.disk_size, qemu_img.info(base.path, base.format).virtual_size)
        provisioning.boot_and_provision(job, BackingDisk(base.path, base.format, size))
        overlay = job.scratch / f"{provisioning.ROLE}.qcow2"
        with job.ledger.spend("convert", overlay.stat().st_blocks * 512):
            qemu_img.convert(overlay, "qcow2", job.out / FILE, "raw", below=(base.path, base.format))
            qemu_img.grow(job.out / FILE, "raw", size)


@contextmanager
def _below(job: Job[ProvisionInputs]) -> Iterator[BackingDisk]:
    """Hold the base image for as long as it is read."""
    if job.inputs.base is None:
        yield BackingDisk(job.needs["install"] / install.FILE, "raw")
        return
    spec, sha256 = job.inputs.base
    image = images.load_image(job.paths.images, spec)
    with images.using(image):
        if image.sha256 != sha256:
            raise InstallError(f"{spec} is not the image that was planned with", hint="run again")
        yield BackingDisk(image.disk, "qcow2")


STAGE = Stage("provision", 2, ("install",), inputs, run, "provision the installed system", intermediate=True)
ON_BASE = Stage("provision", 2, (), inputs, run, "provision a published image", intermediate=True)
