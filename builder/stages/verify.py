"""The stage that verifies a sealed image: two test VMs, side by side, let root in and differ where they must.

Invariant: the test VMs are throw-away overlays; the sealed file is never written to, and is hashed again at the end.
What runs them is `builder.stages.twins`.
"""

from __future__ import annotations

import json

from builder.errors import Cause, VerifyError
from builder.recipe.build_spec import BuildSpec
from builder.settings import Settings
from builder.stage import Job, Stage
from builder.stages import seal
from builder.stages.machine_inputs import VerifyInputs, machine_of, require_cpu
from builder.system.digests import sha256_file
from builder.vm import networks

FILE = "verify.json"


def inputs(spec: BuildSpec) -> VerifyInputs:
    """Take machine, network and checks from the recipe."""
    recipe = spec.recipe
    return VerifyInputs(
        **machine_of(spec),
        checks=tuple((check.name, check.run) for check in recipe.verify.checks),
        allow_private_keys=recipe.verify.allow_private_keys,
        network=recipe.network.mode,
        network_name=recipe.network.name,
        warm=recipe.warm,
    )


def preflight(inputs: VerifyInputs, settings: Settings) -> None:
    """Make sure that this host has the network and the CPU that the copies will need.

    Raises:
        HostError: it has not.
    """
    require_cpu(inputs, settings)
    networks.network_of(inputs.network, inputs.network_name, settings.uri)


def run(job: Job[VerifyInputs]) -> None:
    """Boot two copies, log in on both ways, compare them, and see that the sealed file is what it was.

    Raises:
        VerifyError: naming the copy and what it failed; nothing is published.
    """
    # Not at the head: every plan loads this module, and SSH and what else a guest needs takes long to start.
    from builder.stages import twins

    sealed = job.needs["seal"] / seal.FILE
    expected = json.loads((job.needs["seal"] / seal.FACTS).read_text(encoding="utf-8"))["sha256"]
    accel, owners, examined = twins.prove(job, sealed)
    with job.ledger.spend("hash", sealed.stat().st_size):
        found = sha256_file(sealed)
    if found != expected:
        details = f"sealed as {expected}\nfound     {found}"
        raise VerifyError("the sealed image changed while its copies ran", details, cause=Cause.CORRUPT)
    record = {
        "sealed": found,
        "accel": accel,
        "private_keys": twins.kept_keys(owners),
        "twins": {report.role: report.as_dict() for report in examined},
    }
    (job.out / FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


STAGE = Stage("verify", 6, ("seal",), inputs, run, "boot two copies and log in as root", preflight=preflight)
