"""Rehearsal media of all releases, pressed around a payload that is not started: they are what vendors' media are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from builder.iso import boot_menu, inspect
from builder.iso import remaster as iso_remaster
from builder.kickstart import parse, preflight
from builder.kickstart.preflight import Room
from builder.rehearsal import iso, medium, packages, shapes
from builder.rehearsal.installer.release import facts
from builder.rehearsal.shapes import SHAPES
from builder.releases import RELEASES, Name, of_version
from builder.system.process import run
from tests.conftest import Silent

pytestmark = pytest.mark.unit
NAMES: tuple[Name, ...] = get_args(Name)
KICKSTART = """cdrom
part / --size=1
%packages
@core
@^{environment}
chrony
parted
xfsprogs
dracut-config-generic
tree
%end
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all shapes share, with nothing in it that runs."""
    folder = tmp_path_factory.mktemp("base")
    for number, (name, size) in enumerate({"squashfs.img": 300_000, "vmlinuz": 66_000, "initrd.img": 130_001}.items()):
        (folder / name).write_bytes(bytes([number + 1]) * size)
    (folder / iso.PACKAGES).mkdir()
    for name in packages.OPTIONAL:
        (folder / iso.PACKAGES / f"{name}_1_amd64.deb").write_bytes(name.encode())
    return folder


@pytest.fixture(scope="module")
def media(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Name, Path]:
    """A medium of each release."""
    folder = tmp_path_factory.mktemp("media")
    (folder / "work").mkdir()
    for name in NAMES:
        medium.press(base, name, folder / f"{name}.iso", work=folder / "work", progress=Silent())
    assert list((folder / "work").iterdir()) == []
    return {name: folder / f"{name}.iso" for name in NAMES}


def test_every_release_has_a_shape() -> None:
    assert SHAPES.keys() == RELEASES.keys() == facts.RELEASES.keys()


@pytest.mark.parametrize("name", NAMES)
def test_a_medium_is_what_the_vendors_is_and_says_that_it_is_not(name: Name, media: dict[Name, Path]) -> None:
    found = inspect.inspect(media[name], md5=True, packages=True)
    assert found.volume_id == SHAPES[name].volume_id
    assert of_version(found.version) == RELEASES[name]
    preflight.require_release(found, RELEASES[name])
    assert (found.is_rehearsal, found.md5_verdict, found.joliet, found.names) == (True, "good", True, "rock ridge")
    assert [entry.platform for entry in found.boot] == ["bios", "uefi"]
    assert (found.mbr, found.gpt) == (True, True)
    assert found.groups is not None
    assert "core" in found.groups


@pytest.mark.parametrize("name", NAMES)
def test_shipped_kickstarts_find_their_packages(name: Name, media: dict[Name, Path]) -> None:
    environment = "minimal" if name == "el7" else "minimal-environment"
    text = KICKSTART.format(environment=environment)
    room = Room(4 << 30, 10 << 30, "bios", release=RELEASES[name], rehearsal=True)
    preflight.require(text, media[name], room)
    (missing,) = preflight.packages(parse.read("%packages\nno-such-package\n%end\n"), inspect.contents(media[name]))
    assert "no-such-package is not on the medium" in missing.text


@pytest.mark.parametrize("name", NAMES)
def test_the_menu_names_the_medium_and_takes_a_kickstart(name: Name, media: dict[Name, Path], tmp_path: Path) -> None:
    argument = f"inst.ks=hd:LABEL={boot_menu.label_argument(SHAPES[name].volume_id)}:/ks.cfg"
    made = iso_remaster.remaster(
        media[name], tmp_path / "new.iso", kickstart=b"text\n", beside={}, kernel_args=(argument,), menu="unattended"
    )
    facts_of = inspect.inspect(made.output, md5=True)
    assert (facts_of.md5_verdict, facts_of.gpt) == ("good", True)
    assert inspect.read_file(made.output, "/ks.cfg") == b"text\n"
    place = "/boot/grub2/grub.cfg" if SHAPES[name].layout == "grub2" else "/isolinux/isolinux.cfg"
    assert argument.encode() in inspect.read_file(made.output, place)


@pytest.mark.parametrize("name", NAMES)
def test_installer_and_initramfs_learn_the_release_from_the_medium(name: Name, media: dict[Name, Path]) -> None:
    shape, data = SHAPES[name], inspect.read_file(media[name], f"/{iso.INITRD}")
    start = data.index(b"070701")
    assert (start % 4, data[130_001:start]) == (0, b"\0" * (start - 130_001))
    assert shapes.facts(name).encode() in data
    product = facts.product(shapes.facts(name))
    assert (product.release.name, product.version, product.table) == (name, shape.version, shape.table)
    assert product.release.handler == RELEASES[name].handler
    assert (product.release.esp, product.release.patched) == (RELEASES[name].efi_partition, RELEASES[name].own_checker)
    here = Path(medium.__file__).parent
    assert (here / "boot" / f"words-{shape.words}").is_file()
    assert (here / shape.table).is_file()
    assert all((here / "target" / tree).is_dir() for tree in product.release.trees)
    script = f". {here}/boot/words-{shape.words}\nsay_timeout\nsay_no_boot\n"
    said = re.sub(r"dracut-initqueue\[300\]: ", "", run(["sh", "-c", script]).stdout).splitlines()
    ours = [*product.release.words.timeout, *product.release.words.no_boot]
    # Which hook is waited for differs.
    assert [line for line in said if "hooks/" not in line] == [line for line in ours if "hooks/" not in line]
