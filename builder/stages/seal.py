"""The stage that searches the disk for secrets, compresses it, and proves that the bytes stayed the same.

Invariant: what is sealed was searched for secrets first, and holds the very bytes that were searched.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Literal

from builder.errors import Cause, VerifyError
from builder.recipe.build_spec import BuildSpec
from builder.stage import Inputs, Job, Stage
from builder.stages import install, secret_scan
from builder.system.digests import sha256_file
from builder.vm import qemu_img

FILE = "disk.qcow2"
FACTS = "seal.json"


class SealInputs(Inputs):
    """How the sealed disk is stored."""

    compression: Literal["zstd", "zlib"]


def inputs(spec: BuildSpec) -> SealInputs:
    """The recipe's compression."""
    return SealInputs(compression=spec.recipe.publish.compression)


def run(job: Job[SealInputs]) -> None:
    """Search the installed disk, store it compressed, and prove that both hold the same bytes.

    Raises:
        VerifyError: a secret or a private key is on the disk; nothing is sealed.
    """
    # The install, or what provisioning made of it.
    (before,) = job.needs.values()
    raw = before / install.FILE
    sealed = job.out / FILE
    allocated = raw.stat().st_blocks * 512
    with job.ledger.spend("search", allocated):
        leaks = secret_scan.scan(raw, password=job.secrets.root_password, crypt=job.secrets.root_crypt)
    if leaks:
        raise VerifyError(
            f"the installed disk holds {leaks[0].what}",
            "\n".join(map(str, leaks[:10])),
            "an image must hold no secret: see what the kickstart's %post leaves behind",
            cause=Cause.SECRET_IN_IMAGE,
        )
    with job.ledger.spend("convert", allocated):
        qemu_img.convert(raw, "raw", sealed, "qcow2", compression=job.inputs.compression)
        qemu_img.check(sealed)
        if not qemu_img.same(raw, "raw", sealed, "qcow2"):
            raise VerifyError("the sealed disk does not hold the bytes of the installed one", str(sealed))
    with job.ledger.spend("hash", sealed.stat().st_size):
        digest = sha256_file(sealed)
    facts = {
        "sha256": digest,
        "size": sealed.stat().st_size,
        "virtual_size": qemu_img.info(sealed).virtual_size,
        "format": "qcow2",
        "compression": job.inputs.compression,
    }
    (job.out / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    job.progress.note(f"sealed: {sealed.stat().st_size / 1e6:.0f} MB, sha256 {digest[:16]}…")


STAGE = Stage("seal", 1, ("install",), inputs, run, "search, compress and seal the disk", frees_intermediates=True)
PROVISIONED = replace(STAGE, needs=("provision",))
