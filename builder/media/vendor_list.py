"""Check a medium against its vendor's list of checksums, and that list against the vendor's key.

Invariant: when a recipe names a list, only media on it pass; when it names a signer, only the text counts that this
signer's key has signed.
The signature is in the list (clear-signed) or in a file beside it (detached). The key may come from anywhere, even from
the medium itself: what counts is that its fingerprint is the recipe's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from builder.errors import MediumError
from builder.iso import inspect
from builder.media import checksum_list, download, gpg
from builder.media.checksum_list import Listed
from builder.settings import MediumSource

# What CentOS calls it: clear-signed, beside its ISOs.
DEFAULT = "sha256sum.txt.asc"
CLEAR_SIGNED = b"-----BEGIN PGP SIGNED MESSAGE-----"
# Endings of a signature in a file of its own.
DETACHED = (".asc", ".sig", ".gpg")
# Lines of a list that an error shows.
SHOWN = 20
# Vendors put their public keys into the root folder of the medium, under this name and their own.
ON_MEDIUM = "/RPM-GPG-KEY"


@dataclass(frozen=True)
class Asked:
    """Requirements for verifying a medium.

    Args:
        checksums: the list: a URL, or the name of a file beside the ISO.
        signed_by: fingerprint of the key that signs it; None takes it unsigned.
    """

    checksums: str
    signed_by: str | None = None


def require(medium: Path, sha256: str, asked: Asked, source: MediumSource, keys: Sequence[Path]) -> str:
    """Make sure that the list names this sha256; returns, for people, what vouches for it.

    Args:
        source: where the medium came from: the list may lie beside it.
        keys: folders of public keys.

    Raises:
        MediumError: no list, no signature, no key of this fingerprint, a bad signature, or a list that does not name
            the medium.
        HostError: gpg is not installed.
    """
    data, place = _fetched(asked.checksums, source, f"the recipe wants the vendor's list {asked.checksums}")
    by = ""
    if asked.signed_by is None:
        text = data.decode("utf-8", "replace")
    else:
        signature = None if CLEAR_SIGNED in data else _detached(asked, source, place)
        with _key(medium, asked.signed_by, keys) as (key, place_of_key):
            text = gpg.signed_text(data, asked.signed_by, key, signature)
        by = f", signed by {asked.signed_by[-16:]} (key from {place_of_key})"
    listed = checksum_list.parse(text)
    names = [name for name, one in listed.items() if one.sha256 == sha256]
    if not names:
        raise _not_listed(Listed(sha256, medium.stat().st_size), listed, source, place)
    return f"{names[0]} is on the vendor's list{by}"


def _not_listed(found: Listed, listed: dict[str, Listed], source: MediumSource, place: str) -> MediumError:
    """Say what the list has instead of this medium: both sums and sizes, where it names the file."""
    called = source.file.name if source.file else next((_name(url) for url in source.urls), "")
    named = [name for name in dict.fromkeys((called, *map(_name, source.urls))) if name in listed]
    if named:
        return MediumError(
            f"the vendor's list has another checksum for {named[0]}",
            f"{place}\nlist   {listed[named[0]]}\nmedium {found}",
            "one of the two is wrong, and builder cannot know which: compare with another mirror, or ask the vendor; "
            "without `checksums` and `signed_by` in the recipe its own sha256 decides",
        )
    lines = "\n".join(f"{name}: {one}" for name, one in [*listed.items()][:SHOWN])
    lines += f"\n… and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return MediumError(
        "the vendor's list does not name this medium",
        f"{place}\nmedium {found}\nlisted:\n{lines}",
        "take a medium that is on the list, and its sha256 into media.sources of the recipe",
    )


def _fetched(name: str, source: MediumSource, request: str) -> tuple[bytes, str]:
    """A small file of the vendor's, and its place: beside the given ISO, at its URL, or beside the mirrors' ISOs."""
    beside = source.file.with_name(_name(name)) if source.file else None
    if beside is not None and beside.is_file():
        return beside.read_bytes(), str(beside)
    urls = [name] if "://" in name else [urljoin(url, name) for url in source.urls]
    try:
        return download.small(urls), urls[0] if urls else name
    except MediumError as fault:
        raise MediumError(
            f"{request}, and there is none",
            fault.details,
            f"put the vendor's {_name(name)} beside the ISO and give it with --media, or drop `signed_by` and "
            "`checksums` from the recipe",
            cause=fault.diagnosis.cause,
        ) from fault


def _detached(asked: Asked, source: MediumSource, place: str) -> bytes:
    """The signature in a file beside the list."""
    faults = []
    for ending in DETACHED:
        try:
            return _fetched(f"{asked.checksums}{ending}", source, "")[0]
        except MediumError as fault:
            faults.append(fault.details or f"no {_name(asked.checksums)}{ending}")
    raise MediumError(
        f"the vendor's list {_name(asked.checksums)} is not signed, and the recipe says signed_by",
        "\n".join([f"{place} holds no signature, and beside it:", *faults]),
        "if this vendor signs no list, drop signed_by from the recipe: its sha256 decides",
    )


def _name(url: str) -> str:
    return urlsplit(url).path.rpartition("/")[2]


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
