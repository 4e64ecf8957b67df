"""Mismatches of kickstart, medium and machine are found without starting anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from builder.errors import HostError
from builder.iso.repodata import Contents
from builder.kickstart import parse, preflight
from builder.kickstart.preflight import Room
from builder.pipeline.pipelines import PROVISIONED, STAGES
from builder.settings import Settings
from builder.stage import Stage
from builder.stages import install, machine_inputs, verify

pytestmark = pytest.mark.unit

ROOM = Room(memory=2 << 30, disk=8 << 30, firmware="bios")
UEFI = Room(memory=2 << 30, disk=8 << 30, firmware="uefi")
MEDIUM = Contents(
    packages=("bash", "chrony", "kernel"),
    groups=("core", "minimal"),
    answers_to=frozenset({"bash", "bash.x86_64", "bash-4.2.46", "chrony", "kernel", "kernel-3.10.0", "/bin/sh"}),
    group_names=frozenset({"core", "Core", "minimal", "Minimal Install"}),
)
GOOD = """\
text
cdrom
ignoredisk --only-use=disk/by-id/*BUILDER-SYSTEM
clearpart --all --initlabel
reqpart
part / --fstype=xfs --size=2048 --grow
poweroff
%packages
@core
chrony
-iwl*firmware
%end
%post
url is no command here
part /nowhere --size=99999
%end
"""


def faults(text: str, room: Room = ROOM, medium: Contents | None = MEDIUM) -> list[str]:
    return [found.text for found in preflight.check(parse.read(text), medium, room)]


def test_a_kickstart_that_fits_has_no_fault() -> None:
    assert faults(GOOD) == []
    assert faults(GOOD, UEFI) == []


@pytest.mark.parametrize(
    "name",
    [
        "chrony",
        "bash.x86_64",
        "bash-4.2.46",
        "kern*",
        "/bin/sh",
        "@Core",
        "@CORE",
        "@^minimal",
        "@^MINIMAL",
        "@^Minimal Install",
    ],
)
def test_what_the_medium_answers_to_is_found(name: str) -> None:
    assert faults(GOOD.replace("\nchrony\n", f"\n{name}\n")) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("chroni", "line 10: package chroni is not on the medium; did you mean chrony?"),
        ("gnome*", "line 10: package gnome* is not on the medium"),
        ("@cor", "line 10: group cor is not on the medium; did you mean core?"),
        ("@^server", "line 10: environment server is not on the medium"),
    ],
)
def test_what_is_not_on_the_medium_is_named_with_its_line(name: str, said: str) -> None:
    assert faults(GOOD.replace("\nchrony\n", f"\n{name}\n")) == [said]


def test_missing_packages_may_be_ignored_and_a_medium_may_list_none() -> None:
    text = GOOD.replace("\nchrony\n", "\nchroni\n")
    assert faults(text.replace("%packages", "%packages --ignoremissing")) == []
    assert faults(text, medium=None) == []


def test_all_faults_are_told_at_once() -> None:
    text = GOOD.replace("\nchrony\n", "\nchroni\nbasch\n").replace("--size=2048", "--size=9000")
    assert len(faults(text, Room(256 << 20, 8 << 30, "bios"))) == 4


@pytest.mark.parametrize(
    ("memory", "swap", "fits"), [(519, False, False), (520, False, True), (319, True, False), (320, True, True)]
)
def test_memory(memory: int, swap: bool, fits: bool) -> None:
    text = GOOD + ("part swap --size=512\n" if swap else "")
    found = faults(text, Room(memory << 20, 8 << 30, "bios"))
    assert (found == []) is fits
    assert all("machine.memory" in fault for fault in found)


def test_partitions_and_disk() -> None:
    assert faults(GOOD.replace("2048", "8190")) == []
    (said,) = faults(GOOD.replace("2048", "8191"))
    assert said.startswith("disk.size is 8192 MiB: the partitions take 8193 MiB: / 8191 MiB (line 6)")
    (said,) = faults(GOOD.replace("2048", "8190"), UEFI)
    assert said.endswith("/boot/efi 200 MiB")


def test_volumes_have_to_fit_into_their_group() -> None:
    lvm = "part pv.1 --size=4096 {}\nvolgroup vg pv.1\nlogvol / --vgname=vg --name=root --size {}\n"
    head = GOOD.replace("part / --fstype=xfs --size=2048 --grow\n", "")
    assert faults(head + lvm.format("", 4096)) == []
    (said,) = faults(head + lvm.format("", 5000))
    assert said == (
        "line 17: the volumes of vg take 5000 MiB, its partitions have 4096 MiB: make pv.1 larger, or let it --grow"
    )
    assert faults(head + lvm.format("--grow", 5000)) == []
    assert "disk.size" in faults(head + lvm.format("--grow", 9000))[0]


@pytest.mark.parametrize("options", ["--pesize=4096 pv.1", "--pesize 4096 pv.1", "pv.1 --pesize=4096"])
def test_options_of_a_group_are_no_volumes_of_it(options: str) -> None:
    head = GOOD.replace("part / --fstype=xfs --size=2048 --grow\n", "")
    lvm = f"part pv.1 --size=1 --grow\nvolgroup vg {options}\nlogvol / --vgname=vg --name=root --size="
    assert faults(f"{head}{lvm}4096\n") == []
    assert "disk.size" in faults(f"{head}{lvm}9000\n")[0]


def test_a_group_of_several_needs_but_one_that_grows() -> None:
    head = GOOD.replace(
        "part / --fstype=xfs --size=2048 --grow\n", "part pv.1 --size=3000\npart pv.2 --size=1 --grow\n"
    )
    lvm = "volgroup vg pv.1 pv.2\nlogvol / --vgname=vg --name=root --size="
    assert faults(f"{head}{lvm}8000\n") == []
    assert "pv.2 6000 MiB" in faults(f"{head}{lvm}9000\n")[0]


def test_a_thin_volume_lies_in_its_pool() -> None:
    head = GOOD.replace("part / --fstype=xfs --size=2048 --grow\n", "part pv.1 --size=5000\nvolgroup vg pv.1\n")
    pool = "logvol none --vgname=vg --thinpool --name=pool --size=4500\n"
    thin = "logvol / --vgname=vg --thin --poolname=pool --name=root --size=4500\n"
    assert faults(head + pool + thin) == []


def test_uefi_needs_a_partition_of_its_own() -> None:
    text = GOOD.replace("reqpart\n", "")
    assert faults(text) == []
    assert "/boot/efi" in faults(text, UEFI)[0]
    assert faults(text + "part /boot/efi --fstype=efi --size=200\n", UEFI) == []


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("url --url=http://mirror.invalid/os", 2),
        ("nfs --server=s --dir=/d", 2),
        ("cdrom\nrepo --name=x --baseurl=http://mirror.invalid/x", 1),
        ("cdrom\n%include http://mirror.invalid/more.cfg", 1),
        ("", 1),
        ("harddrive --partition=sdb1 --dir=/", 1),
    ],
)
def test_what_would_need_a_network(line: str, count: int) -> None:
    found = faults(GOOD.replace("cdrom", line))
    assert len(found) == count
    assert all("network" in fault or "`cdrom`" in fault for fault in found)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("clearpart --all", "everything on every disk of the machine"),
        ("clearpart --all\nignoredisk --only-use=vda,vdb", "everything on the disks vda,vdb"),
        ("clearpart --all --drives=sda", "everything on the disks sda"),
        ("clearpart --all\nignoredisk --drives=sdb", "everything on every disk of the machine except sdb"),
        ("clearpart --linux", "Linux partitions of every disk of the machine"),
        ("clearpart --list=sda2,sda3", "the partitions sda2,sda3"),
        ("clearpart --none", "no partition; free space of every disk of the machine is used"),
        ("clearpart --initlabel --drives=sda", "no partition; free space of the disks sda is used"),
        ("autopart", "no partition; free space of every disk of the machine is used"),
    ],
)
def test_which_disks_a_kickstart_clears(lines: str, said: str) -> None:
    assert parse.read(lines).erases == said


def test_what_an_included_file_may_say_is_not_missed() -> None:
    text = "%include /tmp/made-by-pre.cfg\npoweroff\n"
    assert faults(text, Room(400 << 20, 8 << 30, "uefi")) == []
    assert faults("poweroff\n", UEFI) != []


@pytest.mark.parametrize("more", ["", "clearpart --all\n"])
def test_what_an_included_file_may_clear_is_not_hidden(more: str) -> None:
    said = parse.read(f"{more}%include /tmp/part.cfg\n").erases
    assert said.endswith("; and what /tmp/part.cfg says, which only the installer sees")


def test_comments_quotes_and_spaces() -> None:
    read = parse.read("# part / --size=1\npartition '/' --size 7 # --size=8\nlang 'unclosed\n%packages\n#x\n")
    (part,) = read.all("part")
    assert (part.line, part.words, part.option("size")) == (2, ("/", "--size", "7"), "7")
    assert read.wanted == ()


def test_the_shipped_kickstart_fits_the_shipped_recipe() -> None:
    template = Path(__file__).parents[2] / "kickstarts" / "centos7-minimal.ks.j2"
    read = parse.read(template.read_text())
    # The template's own lines, outside its snippets, are commands already.
    assert {command.name for command in read.commands} >= {"cdrom", "clearpart", "reqpart", "part", "poweroff"}


@pytest.mark.parametrize(
    ("text", "room", "cause"),
    [
        (GOOD.replace("\nchrony\n", "\nchroni\n"), ROOM, "missing package"),
        (GOOD.replace("@core", "@cor"), ROOM, "missing group"),
        (GOOD.replace("--size=2048", "--size=9000"), ROOM, "disk too small"),
        (GOOD, Room(memory=256 << 20, disk=8 << 30, firmware="bios"), "low memory"),
    ],
)
def test_what_is_found_has_the_same_name_as_in_the_installer(text: str, room: Room, cause: str) -> None:
    (found,) = preflight.check(parse.read(text), MEDIUM, room)
    assert found.cause == cause


def test_no_room_and_no_qemu_img_are_found_before_the_first_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(tmp_path, (), ())
    settings.store.mkdir()
    given = install.InstallInputs(
        vcpus=1, memory=1 << 30, firmware="bios", devices="virtio", machine="q35", disk_size=1 << 20
    )
    assert install.STAGE.preflight is not None
    install.STAGE.preflight(given, settings)
    with pytest.raises(HostError, match="GiB free, and the disk to install to needs"):
        install.STAGE.preflight(given.model_copy(update={"disk_size": 1 << 60}), settings)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "apt-get").touch(mode=0o755)
    with pytest.raises(HostError, match="qemu-img is not installed") as caught:
        install.STAGE.preflight(given, settings)
    assert caught.value.hint == "apt-get install qemu-utils"


@pytest.mark.parametrize("stages", [STAGES, PROVISIONED])
def test_a_fault_in_the_answers_is_found_before_a_medium_is_fetched(stages: tuple[Stage[Any], ...]) -> None:
    names = [stage.name for stage in stages]
    assert names.index("kickstart") < names.index("fetch")


@pytest.mark.parametrize(
    ("mode", "uri", "brief"),
    [
        ("bridge", "qemu:///session", r"network\.mode: bridge needs qemu:///system"),
        ("bridge", "qemu:///system", "this host has no bridge br-absent"),
    ],
)
def test_a_network_that_this_host_lacks_is_found_before_the_first_stage(
    tmp_path: Path, mode: str, uri: str, brief: str
) -> None:
    given = machine_inputs.VerifyInputs(
        vcpus=1, memory=1 << 30, firmware="bios", devices="virtio", machine="q35", checks=(), network_name="br-absent"
    )
    assert verify.STAGE.preflight is not None
    verify.STAGE.preflight(given, Settings(tmp_path, (), (), connect=uri))
    with pytest.raises(HostError, match=brief):
        verify.STAGE.preflight(given.model_copy(update={"network": mode}), Settings(tmp_path, (), (), connect=uri))


def test_what_is_included_among_the_packages_is_no_package() -> None:
    text = GOOD.replace("\nchrony\n", "\n%include /tmp/more\n")
    assert faults(text) == []
    assert not parse.read(text).complete
