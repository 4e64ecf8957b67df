"""The package lists of an install medium: which repositories it has, and what can be installed from them.

Up to EL7 there is one repository, in the root folder. From EL8 on there are several (`BaseOS`, `AppStream`, `minimal`);
`.treeinfo` names them, and the installer takes those that it names. A network-install medium has none.
Sources: Anaconda rhel-9, data/anaconda.conf (`enabled_repositories_from_treeinfo`); productmd, the format of
`.treeinfo`; createrepo_c, the names and compressions of the lists.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from builder.errors import BuilderError, MediumError
from builder.iso.image import Iso
from builder.iso.unpack import unpack
from builder.system import process

_INDEX = "/repodata/repomd.xml"
# Bytes of an index (those of DVDs have some thousand), and of a list as it is on the medium.
_INDEX_SIZE, _SMALL = 1 << 20, 64 << 20
# Bytes of a list, unpacked. The largest known one of packages (AppStream) has some 100 MB, one of groups 2 MB.
LARGEST_PRIMARY, LARGEST_GROUPS = 256 << 20, 16 << 20
# comps.xml has three levels; each that is open costs memory.
_DEEPEST = 100
# Repositories that are looked for; a DVD has two or three.
_MOST_REPOSITORIES = 32
# Reads a list of packages, and may take so many seconds.
PROGRAM = (sys.executable, "-P", "-m", "builder.iso.package_names")
_LONGEST = 600.0
# The list of groups as it is, or packed; a medium may have it both ways.
_GROUP_LISTS = re.compile(r"group(_(gz|xz|zst|bz2))?")


@dataclass(frozen=True)
class Contents:
    """Packages that a medium offers.

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
    """Read the packages that a medium offers; None where it has no repository.

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
    with tempfile.TemporaryDirectory(prefix="builder-repodata-") as folder:
        try:
            lists = _lists(iso, place, Path(folder))
            names, answers_to = _packages(lists["primary"])
            ids, group_names = _groups(lists["group"]) if "group" in lists else ((), frozenset())
        except (BuilderError, MemoryError):
            raise
        except Exception as fault:
            # XML that is none, or lacks what has to be in it.
            why = f"{place or '/'}: {str(fault) or type(fault).__name__}"
            raise MediumError(f"{iso.name}: its repodata is damaged", why) from fault
    return Contents(tuple(sorted(names)), ids, answers_to, group_names)


def _lists(iso: Iso, place: str, folder: Path) -> dict[str, Path]:
    """The lists of packages and, where there is one, of groups, as files that are not compressed.

    The other lists (files, change logs, the same as databases) are large, and not needed.
    """
    lists = {}
    _copy_small(iso, f"{place}{_INDEX}", folder / "repomd.xml", _INDEX_SIZE)
    places = {
        record.attrib["type"]: location.attrib["href"]
        for record in ElementTree.parse(folder / "repomd.xml").iterfind("{*}data")
        if (location := record.find("{*}location")) is not None
    }
    groups = min((kind for kind in places if _GROUP_LISTS.fullmatch(kind)), key=len, default="group")
    for name, kind, limit in (("primary", "primary", LARGEST_PRIMARY), ("group", groups, LARGEST_GROUPS)):
        if kind in places:
            _copy_small(iso, f"{place}/{places[kind]}", folder / "packed", _SMALL)
            lists[name] = folder / f"{name}.xml"
            unpack(folder / "packed", lists[name], limit)
    return lists


def _copy_small(iso: Iso, path: str, target: Path, most: int) -> None:
    with iso.file(path) as opened:
        data = opened.read(most + 1)
    if len(data) > most:
        raise MediumError(f"{iso.name}: {path} is larger than {most >> 20} MiB")
    target.write_bytes(data)


def _packages(primary: Path) -> tuple[frozenset[str], frozenset[str]]:
    """Names of packages, and all that they may be asked for by."""
    # Without its own configuration, librpm complains on hosts that have no rpm.
    (primary.parent / "rpmrc").touch()
    env = {"RPM_CONFIGDIR": str(primary.parent)}
    done = process.run((*PROGRAM, primary), check=False, timeout=_LONGEST, error=MediumError, env=env)
    if done.status != 0:
        raise ValueError(done.error_text or f"its reader ended with {done.status}")
    answer = json.loads(done.stdout)
    return frozenset(answer["names"]), frozenset(answer["answers_to"])


def _groups(comps: Path) -> tuple[tuple[str, ...], frozenset[str]]:
    """Ids out of comps.xml; and ids and names together."""
    found = _Groups()
    # A tree of all elements would take ten times the size of the file.
    parser = ElementTree.XMLParser(target=found)
    with comps.open("rb") as file:
        while data := file.read(1 << 20):
            parser.feed(data)
    parser.close()
    return tuple(sorted(found.ids)), frozenset(found.ids | found.names)


class _Groups:
    """Collects ids and names of groups and environments while comps.xml is parsed."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.names: set[str] = set()
        self._open: list[str] = []
        self._text: list[str] = []

    def start(self, tag: str, _attributes: object) -> None:
        if len(self._open) > _DEEPEST:
            raise ValueError("elements are nested too deeply")
        self._open.append(tag)
        self._text.clear()

    def data(self, text: str) -> None:
        self._text.append(text)

    def end(self, tag: str) -> None:
        self._open.pop()
        text = "".join(self._text)
        if text and self._open[-1:] in (["group"], ["environment"]) and tag in ("id", "name"):
            (self.ids if tag == "id" else self.names).add(text)
        self._text.clear()

    def close(self) -> None:
        """There is nothing to hand out."""
