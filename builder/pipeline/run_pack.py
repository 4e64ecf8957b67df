"""One archive of a run's record and evidence, for those who look into it elsewhere, with what this host is.

Invariant: what is known to be secret is not in it: the root passwords of the store and the one that was given, crypt
strings, passwords in options of kickstarts and in addresses, private keys.
"""

from __future__ import annotations

import io
import json
import platform
import re
import stat
import tarfile
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import builder
from builder.diagnosis import evidence
from builder.errors import HostError
from builder.settings import Settings
from builder.store import runs
from builder.store.secrets import StoredSecrets
from builder.store.store import Store
from builder.system import host_facts, process
from builder.system.atomic_file import replacing
from builder.system.plain_file import entries_below

HOST = "host.json"
# Bytes of a file; of a longer one its end counts.
MOST = 32 << 20
# A private key as text: PEM and OpenSSH (RFC 7468).
_KEY = re.compile(r"(-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----).*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_PROGRAMS = (("qemu-system-x86_64", "--version"), ("libvirtd", "--version"))
# Files that are not text.
_PICTURES = (".png", ".ppm")


def pack(settings: Settings, run: str, output: Path) -> tuple[str, dict[str, int]]:
    """Write the archive, a .tar.gz that its owner alone can read.

    Args:
        run: id of a run, or the only beginning of one.

    Returns:
        The run's id, and the bytes of each file by its name in the run's folder.

    Raises:
        PublishError: there is no such run, or there are several.
        HostError: the archive cannot be written.
        RecipeError: the password file that was given cannot be read.
    """
    record = runs.load_run(settings.runs, run)
    folder = settings.runs / record.id
    known = secrets_of(settings)
    files = {HOST: json.dumps(_host(), indent=2).encode() + b"\n"}
    for path, facts in sorted(entries_below(folder)):
        if stat.S_ISREG(facts.st_mode):
            # A run that is not over may take one away.
            with suppress(FileNotFoundError):
                data = _end_of(path)
                files[str(path.relative_to(folder))] = data if path.suffix in _PICTURES else masked(data, known)
    with replacing(output, 0o600) as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"{record.id}/{name}")
            entry.size, entry.mode = len(data), 0o600
            archive.addfile(entry, io.BytesIO(data))
    return record.id, {name: len(data) for name, data in files.items()}


def secrets_of(settings: Settings) -> list[str]:
    """Return the root passwords that runs of this store may have used."""
    store = Store(settings.store)
    names = [path.stem for path in store.secrets.glob("*.password")] if store.secrets.is_dir() else []
    orders = [StoredSecrets(store, name, peek=True) for name in sorted(names)]
    if settings.root_password_file is not None:
        orders.append(StoredSecrets(store, "", settings.root_password_file, peek=True))
    return [order.root_password for order in orders]


def masked(data: bytes, secrets: Collection[str]) -> bytes:
    """Return a file without what lets somebody in; bytes that are no text stay as they are."""
    text = data.decode("utf-8", "surrogateescape")
    # The longest first: one may be the beginning of another.
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, evidence.MASK)
    text = _KEY.sub(rf"\1{evidence.MASK}", evidence.anonymous(text))
    return runs.without_user_info(text).encode("utf-8", "surrogateescape")


def _end_of(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - MOST))
        return file.read(MOST)


def _host() -> dict[str, object]:
    """What this host is, as far as it decides how machines run."""
    cpu = host_facts.cpu()
    said = {}
    for words in _PROGRAMS:
        try:
            said[words[0]] = process.run(words, check=False, timeout=30).stdout.partition("\n")[0]
        except HostError:
            said[words[0]] = "not found"
    return {
        "builder": builder.__version__,
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", ""),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpu": cpu.model,
        "cpu_flags": sorted(cpu.flags),
        "cpus": host_facts.cpu_count(),
        "programs": said,
    }
