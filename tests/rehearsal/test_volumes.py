"""Volume groups and logical volumes as the rehearsal's installer plans them: as blivet 0.61 and Anaconda 7 do.

Sources: blivet rhel7-branch, partitioning.py (growLVM, lvCompare, doAutoPartition), devices/lvm.py (size, extents);
Anaconda 21.48.22.159, installclass.py (setDefaultPartitioning), kickstart.py (VolGroupData, LogVolData), bootloader.py.
"""

from __future__ import annotations

import pytest

from builder.rehearsal.installer import boot, bootargs, parse
from builder.rehearsal.installer.disk import decide, plan, volumes
from builder.rehearsal.installer.disk.decide import Machine
from builder.rehearsal.installer.disk.disks import Disk
from builder.rehearsal.installer.disk.layout import Layout, StorageError

HEAD = "zerombr\npart /boot --fstype=xfs --size=512\npart pv.01 --size=1 --grow\nvolgroup vg pv.01\n"
# What the volumes of HEAD share on a disk of 8 GiB: less /boot, the label and the first MiB of the volume itself.
EXTENTS = (8192 - 1 - 512 - 1) // 4


def layout(text: str, *sizes: int, memory: int = 1024, efi: bool = False) -> Layout:
    disks = [Disk(f"sd{letter}", size) for letter, size in zip("abc", sizes or (8192,), strict=False)]
    return decide.layout(parse.read(text), disks, Machine(efi=efi, memory=memory, gpt=False))


def extents(made: Layout) -> dict[str, int]:
    return {volume.name: volume.extents for volume in made.volumes}


def logvol(place: str, name: str, rest: str, group: str = "vg") -> str:
    return f"logvol {place} --vgname={group} --name={name} {rest}\n"


def test_autopart_without_a_type_makes_volumes() -> None:
    made = layout("zerombr\nautopart\n", 40 << 10)
    assert [(part.request.mount, part.request.fstype) for part in made.partitions] == [("/boot", "xfs"), ("", "lvmpv")]
    (group,) = made.groups
    assert (group.name, group.extent) == ("centos", 4096)
    assert [volume.node for volume in made.volumes] == ["/dev/mapper/centos-root", "/dev/mapper/centos-swap"]
    room = ((40 << 10) - 1 - 1024 - 1) // 4
    assert extents(made) == {"root": room - 512, "swap": 512}
    assert plan.check(made, efi=False, memory=1024) == ([], [])
    assert {group.name for group in layout("zerombr\nautopart --type=plain\n").groups} == set()


@pytest.mark.parametrize(("size", "home"), [((50 << 10) + 1026, False), ((50 << 10) + 1027, True)])
def test_home_comes_with_a_group_of_50_gib(size: int, home: bool) -> None:
    """The label, /boot, and what does not fill an extent are not the group's."""
    made = layout("zerombr\nautopart\n", size + 3)
    assert ("home" in extents(made)) is (made.physical(made.groups[0])[0].size - 1 >= 50 << 10)
    assert ("home" in extents(layout("zerombr\nautopart --nohome\n", size + 3))) is False


def test_home_and_root_grow_by_their_sizes_and_root_is_never_larger_than_50_gib() -> None:
    made = extents(layout("zerombr\nautopart\n", 60 << 10))
    room = ((60 << 10) - 1 - 1024 - 1) // 4
    assert made["swap"] == 512
    assert sum(made.values()) == room
    # The free extents go to root (256) and home (125) in this proportion.
    grown = (room - 512 - 256 - 125) * 256 // 381
    assert made["root"] == 256 + grown + 1  # and the one that is left over
    assert extents(layout("zerombr\nautopart\n", 200 << 10))["root"] == (50 << 10) // 4


def test_the_group_of_autopart_bears_the_host_name() -> None:
    made = layout("zerombr\nautopart\nnetwork --hostname=Web-1.example.com\n", 20 << 10)
    assert made.groups[0].name == "centos_web-1"
    assert made.volumes[0].node == "/dev/mapper/centos_web--1-root"


def test_every_disk_gets_a_physical_volume() -> None:
    made = layout("zerombr\nautopart\n", 20 << 10, 10 << 10)
    assert [part.node for part in made.physical(made.groups[0])] == ["/dev/sda2", "/dev/sdb1"]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (logvol("/", "root", "--size=2500"), {"root": 625}),
        # Rounded up to whole extents.
        (logvol("/", "root", "--size=2501"), {"root": 626}),
        (logvol("/", "root", "--size=1 --grow"), {"root": EXTENTS}),
        (logvol("/", "root", "--size=1000 --grow --maxsize=2002"), {"root": 500}),
        (logvol("/", "root", "--size=1000") + logvol("/srv", "srv", "--percent=50"), {"root": 250, "srv": 834}),
        (logvol("/srv", "srv", "--percent=100") + logvol("/", "root", "--size=1000"), {"srv": 1669, "root": 250}),
        # A tenth of the disk at most.
        (logvol("/", "root", "--size=1000") + logvol("swap", "swap", "--recommended"), {"root": 250, "swap": 205}),
        (
            logvol("/", "root", "--size=1000 --grow") + logvol("/srv", "srv", "--size=3000 --grow"),
            {"root": 250 + (EXTENTS - 1000) // 4, "srv": 750 + (EXTENTS - 1000) * 3 // 4 + 1},
        ),
        # A mount point belongs to the last that claims it.
        (logvol("/", "old", "--size=1000") + logvol("/", "root", "--size=2000"), {"root": 500}),
    ],
)
def test_sizes_of_volumes(lines: str, expected: dict[str, int]) -> None:
    assert extents(layout(HEAD + lines)) == expected


def test_a_group_keeps_what_is_reserved_and_has_extents_as_asked() -> None:
    text = HEAD.replace("volgroup vg pv.01", "volgroup vg --pesize=8192 --reserved-space=1000 pv.01")
    made = layout(text + logvol("/", "root", "--size=1 --grow"))
    assert extents(made) == {"root": (8192 - 514) // 8 - 125}
    assert made.volumes[0].size == 8 * extents(made)["root"]
    text = HEAD.replace("pv.01\n", "pv.01\n", 1).replace("volgroup vg", "volgroup vg --reserved-percent=20")
    assert extents(layout(text + logvol("/", "root", "--size=1 --grow"))) == {"root": EXTENTS - 384}


BAD = [
    ("volgroup w pv.02\n", 'Tried to use undefined partition "pv.02" in Volume Group specification'),
    ("volgroup vg pv.01\n", 'The volume group name "vg" is already in use.'),
    ("part pv.01 --size=9\n", 'PV partition "pv.01" is defined multiple times.'),
    (logvol("/", "root", "--size=9", "w"), 'No volume group exists with the name "w".'),
    (logvol("/", "a", "--size=9") + logvol("/b", "a", "--size=9"), 'Logical volume name "a" is already in use'),
    (logvol("/", "root", "--grow"), "No size given for logical volume."),
    (logvol("/", "root", "--size=3"), "must be larger than the volume group extent size"),
    ("volgroup w --pesize=5000 pv.01\n", "physical extent size"),
]


@pytest.mark.parametrize(("lines", "said"), BAD)
def test_a_kickstart_that_asks_for_the_impossible(lines: str, said: str) -> None:
    with pytest.raises(parse.KickstartError, match=said):
        layout(HEAD + lines)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (logvol("/", "root", "--size=9000"), "not enough space for LVM requests"),
        (
            logvol("/", "a", "--percent=60") + logvol("/b", "b", "--percent=60"),
            "percentages within a vg cannot exceed 100",
        ),
    ],
)
def test_volumes_that_do_not_fit(lines: str, said: str) -> None:
    with pytest.raises(StorageError, match=said):
        layout(HEAD + lines)


def test_the_boot_loader_reads_no_volume() -> None:
    made = layout(HEAD.replace("part /boot --fstype=xfs --size=512\n", "") + logvol("/", "root", "--size=1000"))
    assert plan.check(made, efi=False, memory=1024)[0] == ["/boot file system cannot be of type lvmlv"]
    assert plan.check(made, efi=False, memory=1024, loader=False)[0] == []


def test_the_kernel_line_names_root_and_swap() -> None:
    lines = logvol("/", "root", "--size=1000") + logvol("/srv", "srv", "--size=900") + logvol("swap", "s", "--size=90")
    words = volumes.kernel_words(layout(HEAD + lines))
    assert words == ["rd.lvm.lv=vg/root", "rd.lvm.lv=vg/s"]
    line = boot.kernel_line(bootargs.parse("console=ttyS0"), "audit=0", words[:1])
    assert line == "audit=0 rd.lvm.lv=vg/root console=ttyS0"


def test_a_partition_of_volumes_is_labelled_so() -> None:
    assert "2 : start=513MiB, size=7679MiB, type=8e" in plan.script(layout(HEAD), "sda")
