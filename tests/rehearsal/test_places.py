"""Where the rehearsal's installer puts partitions, and which disks it leaves alone: as blivet 0.61 does."""

from __future__ import annotations

import functools

import pytest

from builder.rehearsal.installer import parse
from builder.rehearsal.installer.disk import decide, plan
from builder.rehearsal.installer.disk.decide import Machine
from builder.rehearsal.installer.disk.disks import Disk
from builder.rehearsal.installer.disk.layout import Request, StorageError

A = Disk("sda", 8192)
PLACES = [
    # What was asked for, in the order written; what the disk has then. blivet 0.61, partitionCompare.
    ("msdos", [Request("/", "xfs", 1000, grow=True), Request("", "swap", 500)], {1: "swap", 2: "/"}),
    ("msdos", [Request("", "swap", 500), Request("/data", "xfs", 2000)], {1: "/data", 2: "swap"}),
    ("msdos", [Request("/b", "xfs", 500), Request("/a", "xfs", 500)], {1: "/a", 2: "/b"}),
    ("msdos", [Request("/", "xfs", 900, grow=True), Request("/boot", "xfs", 9)], {1: "/boot", 2: "/"}),
    (
        "msdos",
        [Request("/a", "xfs", 500, grow=True, maxsize=600), Request("/b", "xfs", 500, grow=True)],
        {1: "/b", 2: "/a"},
    ),
    ("msdos", [Request("/a", "xfs", 900), Request("/b", "xfs", 9, primary=True)], {1: "/b", 2: "/a"}),
    ("msdos", [Request("/a", "xfs", 900), Request("/b", "xfs", 9, disk="sda")], {1: "/b", 2: "/a"}),
    # The fourth is in an extended partition, also when it is the last.
    ("msdos", [Request(f"/{name}", "xfs", 9) for name in "abcd"], {1: "/a", 2: "/b", 3: "/c", 5: "/d"}),
    ("msdos", [Request(f"/{name}", "xfs", 9, primary=True) for name in "abcd"], {1: "/a", 2: "/b", 3: "/c", 4: "/d"}),
    ("gpt", [Request(f"/{name}", "xfs", 9) for name in "abcde"], {1: "/a", 2: "/b", 3: "/c", 4: "/d", 5: "/e"}),
]


@pytest.mark.parametrize(("table", "wanted", "expected"), PLACES)
def test_partitions_come_in_the_order_of_blivet(table: str, wanted: list[Request], expected: dict[int, str]) -> None:
    made = plan.place(wanted, [A], table=table, boot="sda")
    assert {part.number: part.request.mount or part.request.fstype for part in made.partitions} == expected
    starts = [part.start for part in made.partitions]
    assert starts == sorted(starts)


@pytest.mark.parametrize(
    ("table", "efi", "large", "expected"),
    [
        ("msdos", False, False, ["/boot", "swap", "/"]),
        ("gpt", False, False, ["biosboot", "/boot", "swap", "/"]),
        ("gpt", True, False, ["/boot/efi", "/boot", "swap", "/"]),
        ("msdos", False, True, ["/boot", "swap", "/", "/home"]),
    ],
)
def test_root_comes_last_in_an_automatic_layout_without_home(
    table: str, efi: bool, large: bool, expected: list[str]
) -> None:
    disk = Disk("sda", 99999) if large else A
    machine = Machine(efi=efi, memory=1024, gpt=table == "gpt")
    made = decide.layout(parse.read("zerombr\nautopart --type=plain\n"), [disk], machine)
    assert [part.request.mount or part.request.fstype for part in made.partitions] == expected


@pytest.mark.parametrize("fifth", [True, False], ids=["primary", "logical"])
def test_none_comes_after_four_primary_partitions(fifth: bool) -> None:
    wanted = [Request(f"/{number}", "xfs", 9, primary=number < 4 or fifth) for number in range(5)]
    with pytest.raises(StorageError, match="Unable to allocate"):
        plan.place(wanted, [A], table="msdos", boot="sda")


USED = ("sdb1", "sdb2")


@pytest.mark.parametrize(
    ("command", "linux", "free"),
    [
        ("clearpart --all", (), True),
        ("clearpart --linux", USED, True),
        ("clearpart --linux", ("sdb1",), False),
        ("clearpart --linux", (), False),
        ("clearpart --list=sdb1,sdb2", (), True),
        ("clearpart --list=sdb1", USED, False),
        ("clearpart --list=sda1", USED, False),
        ("clearpart --none", USED, False),
        ("clearpart --linux --drives=sda", USED, False),
    ],
)
def test_a_disk_that_keeps_a_partition_is_left_alone(command: str, linux: tuple[str, ...], free: bool) -> None:
    used = Disk("sdb", 4096, (), "dos", True, (), USED, linux)
    ks = parse.read(f"zerombr\n{command} --initlabel\npart / --size=100 --grow\n")
    made = decide.layout(ks, [A, used], Machine(efi=False, memory=1024, gpt=False))
    assert made.disks == ("sda",)
    only = functools.partial(decide.layout, ks, [used], Machine(efi=False, memory=1024, gpt=False))
    if free:
        assert only().disks == ("sdb",)
        return
    with pytest.raises(StorageError, match=plan.NO_SPACE):
        only()
