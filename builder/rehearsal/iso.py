"""Assemble a rehearsal ISO in the shape of a vendor's; its application id says that it is not the vendor's.

The shape (`shapes.py`) says what is where and how it is pressed: volume id, boot images for BIOS and UEFI, an implanted
md5, and a default menu entry that checks it, as lorax makes them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from builder.errors import HostError
from builder.rehearsal import initrd, menus, press, repositories
from builder.rehearsal.repositories import STAMP
from builder.rehearsal.shapes import SHAPES, Shape, facts
from builder.releases import Name
from builder.system.packages import hint

# What the shapes share, by name.
SQUASHFS, PACKAGES = "squashfs.img", "packages"
KERNEL, INITRD = "images/pxeboot/vmlinuz", "images/pxeboot/initrd.img"


def treeinfo(shape: Shape) -> str:
    """`.treeinfo`: what the medium is, and where its repositories are."""
    variants = [(name, folder) for name, folder in shape.repositories if name]
    name = f"{shape.title} {shape.version}" if variants else f"{shape.title}-{shape.version}"
    lines = ["[general]", f"name = {name}", f"family = {shape.title}", f"timestamp = {STAMP}.26"]
    lines += [f"variant = {variants[0][0]}" if variants else "variant =", f"version = {shape.version}"]
    lines += ["packagedir =", "arch = x86_64", ""]
    for uid, folder in variants:
        packages = f"{folder}/Packages" if folder else "Packages"
        lines += [f"[variant-{uid}]", f"id = {uid}", f"name = {uid}", f"packages = {packages}"]
        lines += [f"repository = {folder or '.'}", "type = variant", f"uid = {uid}", ""]
    lines += ["[stage2]", f"mainimage = {shape.stage2}", ""]
    lines += ["[images-x86_64]", f"kernel = {KERNEL}", f"initrd = {INITRD}", ""]
    return "\n".join(lines)


def _info(root: Path, shape: Shape) -> None:
    (root / ".discinfo").write_text(f"{STAMP}.26\n{shape.long_version}\nx86_64\n")
    (root / ".treeinfo").write_text(treeinfo(shape))
    (root / "EULA").write_text(
        f"This is a rehearsal of a {shape.title} {shape.version} install medium, put together by builder from the\n"
        "packages of the machine it was built on. It has none of the vendor's programs. Each package keeps the\n"
        "licence of its own.\n"
    )


def _boot(root: Path, shape: Shape) -> None:
    press.grub_uefi(root, menus.grub_cfg(shape, shape.grub_loads))
    if shape.layout == "grub2":
        press.grub_bios(root, menus.grub_cfg(shape, ("linux", "initrd")))
    else:
        press.isolinux(root, menus.isolinux_cfg(shape), KERNEL, INITRD)


def _packages(root: Path, shape: Shape, debs: Iterable[Path]) -> None:
    folder = root / shape.repositories[-1][1] / "Packages"
    folder.mkdir(parents=True)
    for deb in debs:
        shutil.copyfile(deb, folder / deb.name)


def _repodata(root: Path, work: Path, shape: Shape, table: dict[str, Any]) -> None:
    """Every known name, in the first repository those of the squashfs, in the last one those of the packages."""
    version = (shape.long_version, "rehearsal")
    names = {*table["always"], *table["more"], *(name for group in table["groups"].values() for name in group)}
    folders = [root / folder for _, folder in shape.repositories]
    files: list[dict[str, Path]] = [{} for _ in folders]
    for name in names:
        package = table["debs"].get(name)
        found = next((folders[-1] / "Packages").glob(f"{package}_*.deb")) if package else root / shape.stage2
        files[-1 if package else 0][name] = found
    groups = ("comps.xml", repositories.comps(table))
    for number, folder in enumerate(folders):
        repositories.write(folder, work, files[number], groups if number == 0 else None, version)


def tools(shape: Shape) -> None:
    """Look for the boot loaders of a shape before the long part starts.

    Raises:
        HostError: a file is missing; the hint has the command that brings it.
    """
    missing = [str(path) for path in (*press.NEEDS[shape.layout], press.GRUB_UEFI / "linux.mod") if not path.exists()]
    if missing:
        raise HostError(f"missing on this host: {', '.join(missing)}", hint=hint(*missing))


def assemble(base: Path, release: Name, tables: Path, work: Path, out: Path) -> None:
    """Make the ISO at `out`.

    Args:
        base: what all shapes share (`medium.build_base`).
        tables: the folder of the tables of names.
        work: a folder with nothing of ours in it yet.

    Raises:
        HostError: a program is missing or fails.
    """
    shape, root = SHAPES[release], work / "iso"
    table = json.loads((tables / shape.table).read_text())
    for place, name in ((shape.stage2, SQUASHFS), (KERNEL, "vmlinuz"), (INITRD, "initrd.img")):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(base / name, root / place)
    initrd.append(root / INITRD, {"release": facts(release).encode()})
    _info(root, shape)
    _boot(root, shape)
    _packages(root, shape, sorted((base / PACKAGES).iterdir()))
    _repodata(root, work, shape, table)
    for path in sorted(root.rglob("*")):
        os.utime(path, (STAMP, STAMP))
    press.press(root, out, shape)
