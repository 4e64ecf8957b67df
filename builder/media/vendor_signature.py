"""Check a medium against its vendor's signed list of checksums.

Invariant: when a recipe names a signer, only media on that signer's own list pass.
The list is the clear-signed `sha256sum.txt.asc` that CentOS keeps beside its ISOs. The key may come from anywhere, even
from the medium itself: what counts is that its fingerprint is the recipe's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urljoin

from builder.errors import MediumError
from builder.iso import inspect
from builder.media import download, gpg
from builder.settings import MediumSource

LIST = "sha256sum.txt.asc"
# Vendors put their public keys into the root folder of the medium, under this name and their own.
ON_MEDIUM = "/RPM-GPG-KEY"


def require(medium: Path, sha256: str, fingerprint: str, source: MediumSource, keys: Sequence[Path]) -> str:
    """Make sure that the signer's list names this sha256; returns which key signed it, and where the key was.

    Args:
        source: where the medium came from: the list lies beside it.
        keys: folders of public keys.

    Raises:
        MediumError: no list, no key of this fingerprint, a bad signature, or a list that does not name the medium.
        HostError: gpg is not installed.
    """
    text, place_of_list = _list(source)
    with _key(medium, fingerprint, keys) as (key, place):
        named = gpg.verify_signature(text, fingerprint, key)
    names = [name for name, listed in named.items() if listed == sha256]
    if not names:
        listed = "\n".join(f"{listed}  {name}" for name, listed in named.items())
        raise MediumError(
            "the signer's list does not name this medium",
            f"{place_of_list}\nsha256 {sha256}\nsigned:\n{listed}",
            "take the medium that the vendor signed, and its sha256 into media.sources of the recipe",
        )
    return f"{names[0]} is signed by {fingerprint[-16:]} (key from {place})"


def _list(source: MediumSource) -> tuple[bytes, str]:
    """The signed list: beside the file that was given, else beside the mirrors' ISOs."""
    beside = source.file.with_name(LIST) if source.file else None
    if beside is not None and beside.is_file():
        return beside.read_bytes(), str(beside)
    urls = [urljoin(url, LIST) for url in source.urls]
    try:
        return download.small(urls), urls[0] if urls else LIST
    except MediumError as fault:
        raise MediumError(
            f"the recipe wants a signed medium, and there is no {LIST}",
            fault.details,
            f"put the vendor's {LIST} beside the ISO and give it with --media, or drop signed_by from the recipe",
        ) from fault


@contextmanager
def _key(medium: Path, fingerprint: str, keys: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """The key's file, and where it was found, for people."""
    for folder in keys:
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if path.is_file() and fingerprint in gpg.fingerprints(path):
                yield path, str(path)
                return
    with tempfile.TemporaryDirectory(prefix="builder-key-") as name:
        key = Path(name) / "key"
        for place, content in inspect.roots(medium, ON_MEDIUM).items():
            key.write_bytes(content)
            if fingerprint in gpg.fingerprints(key):
                yield key, f"{place} on the medium"
                return
    raise MediumError(
        f"there is no public key {fingerprint}, which is to sign the medium",
        f"looked in {', '.join(map(str, keys)) or 'no folder'} and for {ON_MEDIUM}* on the medium",
        "put the vendor's key file into ./keys/ (any name will do)",
    )
