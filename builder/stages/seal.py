"""The stage that searches the installed disk for secrets, compresses it and seals it.

Invariant: the sealed disk holds exactly the bytes that were searched. Private keys are only noted here: `verify` finds
out which files hold them, in a booted copy.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

from builder.errors import Cause, VerifyError
from builder.recipe.build_spec import BuildSpec
from builder.stage import Inputs, Job, Stage
from builder.stages import install, secret_scan
from builder.stages.secret_scan import Fingerprint, FoundKey
from builder.system.digests import sha256_file
from builder.vm import qemu_img

FILE = "disk.qcow2"
FACTS = "seal.json"
KEYS = "private_keys.json"


class SealInputs(Inputs):
    """Storage format of the sealed disk."""

    compression: Literal["zstd", "zlib"]


def inputs(spec: BuildSpec) -> SealInputs:
    """The recipe's compression."""
    return SealInputs(compression=spec.recipe.publish.compression)


def run(job: Job[SealInputs]) -> None:
    """Search the installed disk, store it compressed, and prove that both hold the same bytes.

    Raises:
        VerifyError: a secret is on the disk that no file may hold; nothing is sealed.
    """
    # The install, or what provisioning made of it.
    (before,) = job.needs.values()
    raw = before / install.FILE
    sealed = job.out / FILE
    allocated = raw.stat().st_blocks * 512
    with job.ledger.spend("search", allocated):
        found = secret_scan.scan(
            raw, password=job.secrets.root_password, crypt=job.secrets.root_crypt, run_key=_run_key(before)
        )
    if found.leaks:
        raise VerifyError(
            f"the installed disk holds {found.leaks[0].what}",
            "\n".join(map(str, found.leaks[:10])),
            "an image must hold no secret: see what the kickstart's %post leaves behind",
            cause=Cause.SECRET_IN_IMAGE,
        )
    (job.out / KEYS).write_text(json.dumps([asdict(key) for key in found.keys], indent=2) + "\n", encoding="utf-8")
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
        "virtual_size": qemu_img.info(sealed, "qcow2").virtual_size,
        "format": "qcow2",
        "compression": job.inputs.compression,
    }
    (job.out / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    job.progress.note(f"sealed: {sealed.stat().st_size / 1e6:.0f} MB, sha256 {digest[:16]}…")


def private_keys(sealed: Path) -> tuple[FoundKey, ...]:
    """Read where private keys are on a sealed disk.

    Args:
        sealed: the finished directory of this stage.
    """
    return tuple(FoundKey(**one) for one in json.loads((sealed / KEYS).read_text(encoding="utf-8")))


def _run_key(before: Path) -> Fingerprint | None:
    """Read how to recognise the key of `provision`; None after an install, which has none."""
    noted = before / secret_scan.RUN_KEY
    return Fingerprint(**json.loads(noted.read_text(encoding="utf-8"))) if noted.exists() else None


STAGE = Stage("seal", 2, ("install",), inputs, run, "search, compress and seal the disk", frees_intermediates=True)
PROVISIONED = replace(STAGE, needs=("provision",))
