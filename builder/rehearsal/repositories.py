"""The repositories of a rehearsal medium: metadata in which the names of the vendor's packages can be looked up."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STAMP = 1603729576  # the date of the vendor's own tree: nothing here may depend on the time of building
Version = tuple[str, str]


def comps(table: dict[str, Any]) -> str:
    """The group file: what `@core` and `@^minimal` are."""
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', "<comps>"]
    for group, names in table["groups"].items():
        lines += ["  <group>", f"    <id>{group}</id>", f"    <name>{group.title()}</name>"]
        lines += ["    <description>Smallest possible installation</description>", "    <default>false</default>"]
        lines += ["    <uservisible>false</uservisible>", "    <packagelist>"]
        lines += [f'      <packagereq type="mandatory">{name}</packagereq>' for name in names]
        lines += ["    </packagelist>", "  </group>"]
    for name, groups in table["environments"].items():
        lines += ["  <environment>", f"    <id>{name}</id>", "    <name>Minimal Install</name>"]
        lines += ["    <description>Basic functionality.</description>", "    <display_order>3</display_order>"]
        lines += ["    <grouplist>", *(f"      <groupid>{group}</groupid>" for group in groups), "    </grouplist>"]
        lines += ["  </environment>"]
    return "\n".join([*lines, "</comps>", ""])


@contextmanager
def _createrepo(work: Path) -> Iterator[Any]:
    """The createrepo_c library. Its librpm complains on standard error where the host has no rpm: give it a home."""
    home = work / "rpm"
    home.mkdir(exist_ok=True)
    for name in ("rpmrc", "macros"):
        (home / name).touch()
    before = os.environ.get("RPM_CONFIGDIR")
    os.environ["RPM_CONFIGDIR"] = str(home)
    try:
        import createrepo_c

        yield createrepo_c
    finally:
        if before is None:
            del os.environ["RPM_CONFIGDIR"]
        else:
            os.environ["RPM_CONFIGDIR"] = before


def _package(createrepo_c: Any, name: str, file: Path, folder: Path, version: Version) -> Any:
    """A record of the metadata: real place and size of the file that brings the name."""
    package = createrepo_c.Package()
    package.name, package.arch, package.epoch = name, "x86_64", "0"
    package.version, package.release = version
    package.summary = package.description = f"{name}, as the rehearsal medium has it"
    package.rpm_license, package.rpm_group, package.rpm_vendor = "various", "Unspecified", "builder rehearsal"
    package.checksum_type = "sha256"
    package.location_href = os.path.relpath(file, folder)
    package.pkgId = hashlib.sha256(f"{name} {package.location_href}".encode()).hexdigest()
    package.size_package = package.size_installed = package.size_archive = file.stat().st_size
    package.time_file = package.time_build = STAMP
    package.provides = [(name, "EQ", "0", *version, False)]
    return package


def write(
    folder: Path, work: Path, files: Mapping[str, Path], groups: tuple[str, str] | None, version: Version
) -> None:
    """Write `folder`/repodata; its files are named by their sha256.

    Args:
        files: the file of the medium that brings each name.
        groups: name and text of the group file.
        version: version and release of all.
    """
    target = folder / "repodata"
    target.mkdir(parents=True)
    with _createrepo(work) as createrepo_c:
        repomd = createrepo_c.Repomd()
        repomd.set_revision(str(STAMP))
        openers = {
            "primary": createrepo_c.PrimaryXmlFile,
            "filelists": createrepo_c.FilelistsXmlFile,
            "other": createrepo_c.OtherXmlFile,
        }
        packages = [_package(createrepo_c, name, file, folder, version) for name, file in sorted(files.items())]
        for kind, opener in openers.items():
            path = target / f"{kind}.xml"
            file = opener(str(path), createrepo_c.NO_COMPRESSION)
            file.set_num_of_pkgs(len(packages))
            for package in packages:
                file.add_pkg(package)
            file.close()
            _record(createrepo_c, repomd, kind, _packed(path))
            path.unlink()
        if groups is not None:
            text = target / groups[0]
            text.write_text(groups[1])
            _record(createrepo_c, repomd, "group_gz", _packed(text))
            _record(createrepo_c, repomd, "group", text)
        (target / "repomd.xml").write_text(repomd.xml_dump())


def _packed(path: Path) -> Path:
    packed = path.with_name(f"{path.name}.gz")
    packed.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    return packed


def _record(createrepo_c: Any, repomd: Any, kind: str, path: Path) -> None:
    record = createrepo_c.RepomdRecord(kind, str(path))
    record.fill(createrepo_c.SHA256)
    record.timestamp = STAMP
    record.rename_file()
    repomd.set_record(record)
