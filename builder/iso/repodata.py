"""The package lists of an install medium: which repositories it has, and what can be installed from them.

Up to EL7 there is one repository, in the root folder. From EL8 on there are several (`BaseOS`, `AppStream`, `minimal`);
`.treeinfo` names them, and the installer takes those that it names. A network-install medium has none.
Sources: Anaconda rhel-9, data/anaconda.conf (`enabled_repositories_from_treeinfo`); productmd, the format of
`.treeinfo`; createrepo_c, the names and compressions of the lists.
"""

from __future__ import annotations

import bz2
import errno
import importlib
import lzma
import os
import re
import signal
import tempfile
import zlib
from collections.abc import Iterator
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree

from builder.errors import MediumError
from builder.iso.image import Iso
from builder.system import process

_INDEX = "/repodata/repomd.xml"
_CHUNK = 1 << 20
_SMALL = 64 << 20
# Bytes of a list, unpacked. The largest known one of packages (AppStream) has some 100 MB, one of groups 2 MB.
LARGEST_PRIMARY, LARGEST_GROUPS = 512 << 20, 16 << 20
# Repositories that are looked for; a DVD has two or three.
_MOST_REPOSITORIES = 32
# Memory of the unpacker: what xz -9 needs; zstd takes no more by itself.
_MEMORY = 128 << 20
# The list of groups as it is, or packed; a medium may have it both ways.
_GROUPS = re.compile(r"group(_(gz|xz|zst|bz2))?")
_XZ, _ZSTD, _GZIP, _BZIP = b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"\x1f\x8b", b"BZh"


@dataclass(frozen=True)
class Contents:
    """What can be installed from a medium.

    Args:
        packages: names, sorted.
        groups: ids of package groups and environments, sorted.
        answers_to: all that may be asked for as a package: names with and without version and architecture, and what
            packages provide.
        group_names: ids and the names for people, in all languages.
    """

    packages: tuple[str, ...]
    groups: tuple[str, ...]
    answers_to: frozenset[str]
    group_names: frozenset[str]


def contents(iso: Iso, tree: ConfigParser) -> Contents | None:
    """What can be installed from a medium; None where it has no repository.

    Args:
        tree: its `.treeinfo`.

    Raises:
        MediumError: a list is damaged, or larger than any list of packages is.
        HostError: a list is packed with zstd, and zstd is not installed.
    """
    parts = [_one(iso, folder) for folder in repositories(iso, tree)]
    if not parts:
        return None
    return Contents(
        packages=tuple(sorted({name for part in parts for name in part.packages})),
        groups=tuple(sorted({name for part in parts for name in part.groups})),
        answers_to=frozenset().union(*(part.answers_to for part in parts)),
        group_names=frozenset().union(*(part.group_names for part in parts)),
    )


def repositories(iso: Iso, tree: ConfigParser) -> list[str]:
    """Folders with a repository, as paths on the medium without a slash at the end; the root's is empty."""
    sections = ["general", *(part for part in tree.sections() if part.startswith("variant-"))]
    named = [tree.get(part, "repository", fallback="") for part in sections]
    folders = dict.fromkeys(folder for text in named if text and (folder := _folder(text)) is not None)
    # As they are on the medium, which may be written otherwise than in `.treeinfo`.
    found = (iso.find(f"{place}{_INDEX}") for place in ["", *folders][:_MOST_REPOSITORIES])
    return list(dict.fromkeys(path.removesuffix(_INDEX) for path in found if path is not None))


def _folder(text: str) -> str | None:
    """A path of `.treeinfo` (`BaseOS`, `.`, `./AppStream/`) as one from the root; None where it leaves the medium."""
    parts = [part for part in text.split("/") if part not in ("", ".")]
    return None if ".." in parts or ":" in text else "".join(f"/{part}" for part in parts)


def _one(iso: Iso, place: str) -> Contents:
    repository = _library()
    with tempfile.TemporaryDirectory(prefix="builder-repodata-") as name:
        folder = Path(name)
        try:
            lists = _lists(iso, place, repository, folder)
            packages, answers_to = _packages(repository, lists["primary"])
        except (repository.CreaterepoCError, OSError, KeyError) as fault:
            raise MediumError(f"{iso.name}: its repodata is damaged", f"{place or '/'}: {fault}") from fault
        groups, group_names = _groups(iso.name, lists["group"]) if "group" in lists else ((), frozenset())
    return Contents(packages, groups, answers_to, group_names)


def _lists(iso: Iso, place: str, repository: Any, folder: Path) -> dict[str, Path]:
    """The unpacked lists of packages and, where there is one, of groups.

    The other lists (files, change logs, the same as databases) are large, and not needed.
    """
    with iso.file(f"{place}{_INDEX}") as opened:
        (folder / "repomd.xml").write_bytes(opened.read(_SMALL))
    index = repository.Repomd()
    repository.xml_parse_repomd(str(folder / "repomd.xml"), index)
    places = {record.type: record.location_href for record in index.records}
    groups = min((kind for kind in places if _GROUPS.fullmatch(kind)), key=len, default=None)
    wanted = {"primary": (places["primary"], LARGEST_PRIMARY)}
    if groups is not None:
        wanted["group"] = (places[groups], LARGEST_GROUPS)
    found = {}
    for kind, (href, most) in wanted.items():
        packed = folder / f"{kind}.packed"
        iso.copy_out(f"{place}/{href}", packed)
        found[kind] = folder / f"{kind}.xml"
        unpack(packed, found[kind], most, f"{iso.name}: {place}/{href}")
    return found


def _packages(repository: Any, primary: Path) -> tuple[tuple[str, ...], frozenset[str]]:
    names: set[str] = set()
    answers_to: set[str] = set()

    def note(package: Any) -> None:
        version = f"{package.name}-{package.version}"
        release = f"{version}-{package.release}"
        names.add(package.name)
        answers_to.update((package.name, version, release))
        answers_to.update((f"{package.name}.{package.arch}", f"{release}.{package.arch}"))
        answers_to.update(provided[0] for provided in package.provides)

    repository.xml_parse_primary(str(primary), pkgcb=note, do_files=False)
    return tuple(sorted(names)), frozenset(answers_to)


def _groups(name: str, path: Path) -> tuple[tuple[str, ...], frozenset[str]]:
    """Ids out of comps.xml; and ids and names together."""
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except ElementTree.ParseError as fault:
        raise MediumError(f"{name}: its list of package groups is damaged", details=str(fault)) from fault
    entries = [entry for kind in ("group", "environment") for entry in root.iter(kind)]
    ids = {entry.findtext("id") or "" for entry in entries} - {""}
    names = {said.text or "" for entry in entries for said in entry.findall("name")} - {""}
    return tuple(sorted(ids)), frozenset(ids | names)


def unpack(packed: Path, target: Path, most: int, shown: str) -> None:
    """Unpack a list, whatever it is packed with; one that is not packed is copied.

    Args:
        most: bytes that may come out of it.
        shown: the list, for people.

    Raises:
        MediumError: it is damaged, or more comes out.
        HostError: it is packed with zstd, and zstd is not installed.
    """
    with packed.open("rb") as file:
        magic = file.read(6)
        file.seek(0)
        if magic.startswith(_ZSTD):
            _unpack_zstd(packed, target, most, shown)
            return
        size = 0
        try:
            with target.open("wb") as out:
                for piece in _pieces(file, magic):
                    size += len(piece)
                    if size > most:
                        raise _too_large(shown, most)
                    out.write(piece)
        except (zlib.error, lzma.LZMAError, OSError, EOFError) as fault:
            raise MediumError(f"{shown} is damaged", details=str(fault)) from fault


def _pieces(file: BinaryIO, magic: bytes) -> Iterator[bytes]:
    """The unpacked content, at most a MiB at a time: a small file may hold a great deal of nothing."""
    if magic.startswith(_GZIP):
        yield from _inflated(file)
    elif magic == _XZ:
        yield from _drained(file, lzma.LZMADecompressor(memlimit=_MEMORY))
    elif magic.startswith(_BZIP):
        yield from _drained(file, bz2.BZ2Decompressor())
    else:
        while piece := file.read(_CHUNK):
            yield piece


def _inflated(file: BinaryIO) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    while not unpacker.eof:
        given = unpacker.unconsumed_tail or file.read(_CHUNK)
        if not given:
            raise EOFError("it ends too early")
        yield unpacker.decompress(given, _CHUNK)


def _drained(file: BinaryIO, unpacker: lzma.LZMADecompressor | bz2.BZ2Decompressor) -> Iterator[bytes]:
    while not unpacker.eof:
        given = file.read(_CHUNK) if unpacker.needs_input else b""
        if unpacker.needs_input and not given:
            raise EOFError("it ends too early")
        yield unpacker.decompress(given, _CHUNK)


def _unpack_zstd(packed: Path, target: Path, most: int, shown: str) -> None:
    process.find("zstd")
    # The kernel ends it at the limit: no program has to be believed. What was written until then is gone.
    words: list[str | Path] = ["prlimit", f"--fsize={most}", "zstd", "-q", "-d", "-o", target, "--", packed]
    done = process.run(words, check=False, timeout=600)
    if os.strerror(errno.EFBIG) in done.stderr or done.status == -signal.SIGXFSZ:
        raise _too_large(shown, most)
    if done.status != 0:
        raise MediumError(f"{shown} is damaged", details=done.said, output=done.said)


def _too_large(shown: str, most: int) -> MediumError:
    return MediumError(f"{shown} is larger than {most >> 20} MiB unpacked: no list of packages is")


def _library() -> Any:
    """createrepo_c, loaded late (it is large) and without its complaint about hosts that have no rpm."""
    with tempfile.TemporaryDirectory(prefix="builder-rpm-") as folder:
        before = os.environ.get("RPM_CONFIGDIR")
        (Path(folder) / "rpmrc").touch()
        os.environ["RPM_CONFIGDIR"] = folder
        try:
            return importlib.import_module("createrepo_c")
        finally:
            if before is None:
                del os.environ["RPM_CONFIGDIR"]
            else:
                os.environ["RPM_CONFIGDIR"] = before
