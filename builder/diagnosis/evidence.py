"""Evidence of a failed machine in the run's folder: readable by its owner only, and without secrets."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from builder.diagnosis.watchdog import read_texts
from builder.errors import Source
from builder.stage import Inputs, Job, Secrets
from builder.system import tail
from builder.system.screen import cleaned
from builder.vm.uri import machine_log

# Names in the run's folder; `builder.store.runs` says in its README.txt what each is.
CONSOLE, READABLE = "console.log", "console.txt"
LOG = "anaconda.log"
DOMAIN = "domain.xml"
QEMU = "qemu.log"
PICTURE = "screenshot.png"
KICKSTART = "kickstart.cfg"
MASK = "********"
# A crypt(5) string; what follows --plaintext; and what is named a password on a line of a kickstart.
CRYPT = re.compile(r"\$(?:1|2[abxy]?|5|6|7|y|gy|md5|sha1)\$[^\s\"']+")
SPOKEN = re.compile(
    r"(--(?:password|passphrase|bindpw|bootproto-pw)[= ]|--plaintext\s+|--md5pass[= ])(\"[^\"]*\"|'[^']*'|[^\s-]\S*)"
)
# QEMU says little; what is more is a flood.
MOST = 1 << 20
# Bytes of the end of a console that are made readable; an install prints a tenth of it.
READABLE_MOST = 16 << 20


def write(path: Path, text: str) -> None:
    """Write a file for its owner alone, in place of the one that was there."""
    path.unlink(missing_ok=True)
    with os.fdopen(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w", encoding="utf-8"
    ) as file:
        file.write(text)


def masked(text: str, secrets: Secrets) -> str:
    """A kickstart without anything that lets somebody in."""
    for secret in (secrets.root_crypt, secrets.root_password):
        text = text.replace(secret, MASK)
    return anonymous(text)


def anonymous(text: str) -> str:
    """A kickstart without the crypt strings and passwords that its options name."""
    return SPOKEN.sub(rf"\1{MASK}", CRYPT.sub(MASK, text))


def keep_kickstart(job: Job[Inputs]) -> None:
    """Keep the kickstart that the machine gets, masked; the stage `kickstart` has left it already if it ran."""
    source = job.needs["kickstart"] / "ks.cfg"
    if source.exists() and not (job.evidence / KICKSTART).exists():
        write(job.evidence / KICKSTART, masked(source.read_text(encoding="utf-8"), job.secrets))


def keep_qemu_log(job: Job[Inputs], name: str, target: str = QEMU) -> None:
    """Keep what QEMU and libvirt noted of the machine of this name."""
    # Not there where libvirt runs in another place, or already rolled away: then there is none to keep.
    with contextlib.suppress(OSError), machine_log(job.host.uri, name).open("rb") as log:
        log.seek(max(0, os.fstat(log.fileno()).st_size - MOST))
        write(job.evidence / target, log.read().decode("utf-8", "replace"))


def make_readable(console: Path) -> None:
    """Put the console's text beside its bytes: without escape codes, wrapped lines joined."""
    if console.exists():
        write(console.with_suffix(".txt"), cleaned(tail.last_bytes(console, READABLE_MOST)))


def texts(job: Job[Inputs]) -> dict[Source, str]:
    """Output of the installer, by source, as far as it may explain a failure."""
    return read_texts({Source.INSTALLER_LOG: job.evidence / LOG, Source.CONSOLE: job.evidence / CONSOLE})


def qemu_words(job: Job[Inputs], name: str = QEMU) -> str:
    """Return the kept log of QEMU; empty when none was kept."""
    path = job.evidence / name
    return path.read_text(encoding="utf-8") if path.exists() else ""
