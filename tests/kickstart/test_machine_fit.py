"""What a kickstart asks of the machine is compared in the first second: before a download, before a machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.errors import Cause, RecipeError
from builder.kickstart import machine_fit, parse
from builder.kickstart.preflight import Room
from builder.pipeline import build
from builder.settings import Settings

pytestmark = pytest.mark.unit

SERIAL = "BUILDER-SYSTEM"
ROOM = Room(memory=2 << 30, disk=8 << 30, firmware="bios")
RECIPE = """\
name: toy
media:
  sources:
    - sha256: {sha}
      urls: [http://mirror.invalid/toy.iso]
kickstart: {{template: toy.ks.j2}}
machine: {{memory: 1GiB, firmware: bios}}
disk: {{size: 4GiB}}
"""


def faults(line: str) -> list[str]:
    return [found.text for found in machine_fit.disks(parse.read(f"text\n{line}\n"), SERIAL)]


@pytest.mark.parametrize(
    "line",
    [
        "ignoredisk --only-use=sda",
        "ignoredisk --only-use=/dev/sda",
        "ignoredisk --only-use=disk/by-id/*BUILDER-SYSTEM",
        "ignoredisk --only-use=disk/by-id/scsi-0QEMU_QEMU_HARDDISK_BUILDER-SYSTEM",
        "ignoredisk --only-use=disk/by-path/pci-0000:00:1f.2-ata-1",
        "ignoredisk --only-use=vda|sda",
        "ignoredisk --only-use=sd*",
        "ignoredisk --only-use=$disk",
        "clearpart --list=sda",
        "clearpart --all --drives=sda",
        "clearpart --all --initlabel",
        "part / --size=1000 --ondisk=sda",
        "bootloader --boot-drive=sda --driveorder=vda,sda",
    ],
)
def test_names_that_may_be_the_disk(line: str) -> None:
    assert faults(line) == []


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("ignoredisk --only-use=vda", "vda"),
        ("ignoredisk --only-use sda,sdb", "sdb"),
        ("ignoredisk --drives=sdb", "sdb"),
        ("ignoredisk --only-use=vd*", "vd*"),
        ("ignoredisk --only-use=hda|vda|nvme0n1", "hda|vda|nvme0n1"),
        ("ignoredisk --only-use=disk/by-id/ata-WDC_WD10-1234", "disk/by-id/ata-WDC_WD10-1234"),
        ("clearpart --all --drives=vda", "vda"),
        ("part / --size=1000 --ondisk=/dev/nvme0n1", "/dev/nvme0n1"),
        ("bootloader --boot-drive=hda", "hda"),
    ],
)
def test_a_disk_that_the_machine_does_not_have(line: str, name: str) -> None:
    (found,) = faults(line)
    assert found.startswith("line 2: `")
    assert f"the machine has no disk {name}; its one disk is sda" in found


@pytest.mark.parametrize("name", ["sda2", "/dev/sda1", "LABEL=root"])
def test_a_new_disk_has_no_partitions_to_clear(name: str) -> None:
    (found,) = faults(f"clearpart --list={name}")
    assert found.endswith(f"the machine's one disk is new, it has no {name}; write `clearpart --all`")


@pytest.mark.parametrize(
    ("text", "said", "cause"),
    [
        ("ignoredisk --only-use=vda\n", "the machine has no disk vda", None),
        ("part / --size=5000\n", "disk.size is 4096 MiB: the partitions take 5002 MiB", Cause.DISK_TOO_SMALL),
        ("part / --size=1000\n", "", None),
    ],
)
@pytest.mark.parametrize("peek", [True, False], ids=["plan", "run"])
def test_said_before_anything_is_started(
    tmp_path: Path, text: str, said: str, cause: Cause | None, *, peek: bool
) -> None:
    for name, content in {"pipelines/toy.yaml": RECIPE.format(sha="ab" * 32), "kickstarts/toy.ks.j2": text}.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(content)
    settings = Settings(tmp_path / "artifacts", (tmp_path / "pipelines",), (tmp_path / "kickstarts",))
    if not said:
        assert build.prepare("toy", {}, None, (), settings, peek=peek).plan
        return
    with pytest.raises(RecipeError, match=said) as caught:
        build.prepare("toy", {}, None, (), settings, peek=peek)
    assert caught.value.diagnosis.cause is cause
    assert not (tmp_path / "artifacts").exists()


def test_memory_below_what_the_installer_needs() -> None:
    with pytest.raises(RecipeError, match=r"machine\.memory is 256 MiB"):
        machine_fit.require("part / --size=1000\n", Room(256 << 20, 8 << 30, "bios"), SERIAL)
    with pytest.raises(RecipeError, match="does not fit the machine") as caught:
        machine_fit.require("ignoredisk --only-use=vda\npart / --size=9000\n", ROOM, SERIAL)
    assert len(caught.value.details.splitlines()) == 2
