"""Small media of Enterprise Linux 8 and later: repositories of their own, and what `.treeinfo` says of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from builder.system.process import run
from tests.fakes import vendor

# Everything that kickstarts/el-minimal.ks.j2 asks for.
PACKAGES = ("chrony", "dracut-config-generic", "parted", "xfsprogs")
ENDINGS = {"": "", "gzip": ".gz", "xz": ".xz", "zstd": ".zst", "bzip2": ".bz2"}


def treeinfo(name: str, version: str, variants: Mapping[str, str]) -> str:
    """As productmd writes it: one section a variant, its repository as a path from the root."""
    lines = ["[general]", f"name = {name}", f"family = {name.rpartition(' ')[0]}", f"version = {version}"]
    lines += ["arch = x86_64", "", "[stage2]", "mainimage = images/install.img", ""]
    lines += ["[tree]", "arch = x86_64", f"variants = {','.join(variants)}", ""]
    for variant, folder in variants.items():
        lines += [f"[variant-{variant}]", f"id = {variant}", f"packages = {folder}/Packages", f"repository = {folder}"]
    return "\n".join([*lines, ""])


def repository(folder: Path, names: Sequence[str], packed: str = "", *, groups: bool = True) -> None:
    """A repository whose lists are packed by this program."""
    vendor.repodata(folder, names)
    place = folder / "repodata"
    if packed:
        for name in ("primary.xml", "comps.xml"):
            data = run([packed, "-q", "-f", "-k", place / name]).stdout
            assert data == ""
            (place / name).unlink()
    kind = {"": "group", "gzip": "group_gz", "xz": "group_xz", "zstd": "group_zst", "bzip2": "group"}[packed]
    sums = [
        (data, f"{name}{ENDINGS[packed]}")
        for data, name in (("primary", "primary.xml"), (kind, "comps.xml"))
        if groups or data == "primary"
    ]
    records = "".join(
        f'<data type="{data}"><checksum type="sha256">{hashlib.sha256((place / name).read_bytes()).hexdigest()}'
        f'</checksum><location href="repodata/{name}"/></data>'
        for data, name in sums
    )
    (place / "repomd.xml").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n<repomd xmlns="http://linux.duke.edu/metadata/repo">'
        f"<revision>1</revision>{records}</repomd>\n"
    )


def press(folder: Path, iso: Path, label: str = "Rocky-9-8-x86_64-dvd") -> Path:
    """The ISO of a tree, with a checksum implanted; nothing boots from it."""
    run(["genisoimage", "-quiet", "-R", "-J", "-joliet-long", "-V", label, "-o", iso, folder])
    run(["implantisomd5", "--force", iso])
    return iso


def dvd(folder: Path, *, name: str = "Rocky Linux 9.8", version: str = "9.8", packed: str = "") -> Path:
    """A medium with `BaseOS/` and `AppStream/`."""
    tree = folder / "tree"
    (tree / "images/pxeboot").mkdir(parents=True)
    for file in ("vmlinuz", "initrd.img"):
        (tree / "images/pxeboot" / file).write_bytes(file.encode() * 1000)
    repository(tree / "BaseOS", ["bash", *PACKAGES], packed)
    repository(tree / "AppStream", ["nginx"], packed, groups=False)
    (tree / ".treeinfo").write_text(treeinfo(name, version, {"BaseOS": "BaseOS", "AppStream": "./AppStream/"}))
    return press(tree, folder / "dvd.iso")
