"""The package lists of media: where `.treeinfo` has them, and however they are packed."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.errors import MediumError, RecipeError
from builder.iso import inspect
from builder.kickstart import preflight
from builder.kickstart.preflight import Room
from builder.releases import RELEASES
from tests.fakes import el, vendor

KICKSTART = "cdrom\nreqpart\npart / --size=2048 --grow\npoweroff\n%packages\n@core\nnginx\n%end\n"
ROOM = Room(2 << 30, 10 << 30, "bios", release=RELEASES["el9"])


@pytest.mark.parametrize("packed", el.ENDINGS)
def test_the_repositories_of_treeinfo_are_read_as_one(tmp_path: Path, packed: str) -> None:
    medium = el.dvd(tmp_path, packed=packed)
    facts = inspect.inspect(medium, packages=True)
    assert facts.packages == tuple(sorted(["bash", *el.PACKAGES, "nginx"]))
    assert facts.groups == ("core", "minimal")
    preflight.require(KICKSTART, medium, ROOM)
    with pytest.raises(RecipeError, match="package nginz is not on the medium; did you mean nginx"):
        preflight.require(KICKSTART.replace("nginx", "nginz"), medium, ROOM)


def test_a_repository_that_treeinfo_does_not_name_is_none_to_the_installer(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    el.repository(tree / "BaseOS", ["bash"])
    el.repository(tree / "Extra", ["hidden"])
    variants = {"BaseOS": "BaseOS", "AppStream": "AppStream", "Evil": "../BaseOS", "Far": "http://mirror.invalid/x"}
    (tree / ".treeinfo").write_text(el.treeinfo("Rocky Linux 9.8", "9.8", variants))
    assert inspect.inspect(el.press(tree, tmp_path / "a.iso"), packages=True).packages == ("bash",)


def test_the_minimal_iso_of_rocky_linux(tmp_path: Path) -> None:
    """Its packages are in a folder of that name, which the section `general` names, too."""
    tree = tmp_path / "tree"
    el.repository(tree / "minimal", ["bash"])
    text = el.treeinfo("Rocky Linux Minimal", "9.7", {}).replace("[general]\n", "[general]\nrepository = Minimal\n")
    (tree / ".treeinfo").write_text(text)
    assert inspect.inspect(el.press(tree, tmp_path / "a.iso"), packages=True).packages == ("bash",)


def test_the_root_is_a_repository_of_its_own(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    el.repository(tree, ["bash"])
    (tree / ".treeinfo").write_text(el.treeinfo("Fedora 44", "44", {"Server": "."}))
    assert inspect.inspect(el.press(tree, tmp_path / "a.iso"), packages=True).packages == ("bash",)


def test_a_boot_iso_is_named_as_what_it_is(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / ".treeinfo").write_text(el.treeinfo("Rocky Linux 9.8", "9.8", {"BaseOS": "BaseOS"}))
    medium = el.press(tree, tmp_path / "boot.iso")
    assert inspect.inspect(medium, packages=True).packages is None
    with pytest.raises(MediumError, match="is a network-install medium, no packages") as caught:
        preflight.require(KICKSTART, medium, ROOM)
    assert "nginx" in caught.value.details
    # Where nothing is asked of it, there is nothing to refuse.
    preflight.require(KICKSTART.partition("%packages")[0], medium, ROOM)


@pytest.mark.parametrize("packed", ["gzip", "xz", "zstd", "bzip2"])
def test_a_list_that_is_cut_off_is_damaged(tmp_path: Path, packed: str) -> None:
    tree = tmp_path / "tree"
    el.repository(tree, ["bash"], packed)
    broken = tree / "repodata" / f"primary.xml{el.ENDINGS[packed]}"
    broken.write_bytes(broken.read_bytes()[:-20])
    with pytest.raises(MediumError, match="damaged"):
        inspect.inspect(el.press(tree, tmp_path / "a.iso"), packages=True)


def test_media_of_el7_are_read_as_before(tmp_path: Path) -> None:
    vendor.repodata(tmp_path / "tree", ["bash"])
    (tmp_path / "tree" / ".treeinfo").write_text(vendor.TREEINFO)
    facts = inspect.inspect(el.press(tmp_path / "tree", tmp_path / "a.iso"), packages=True)
    assert (facts.packages, facts.groups) == (("bash",), ("core", "minimal"))
