"""What the first-boot unit does to partition tables: root takes what its disk gained, and nothing of anybody else's.

The script itself runs, on loop devices with real partition tables. Its programs are those on PATH, the test's own are
the system's: with another sfdisk in front of PATH (EL7's, built from util-linux 2.23.2) the same tests hold.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "kickstarts" / "snippets" / "grow-root.sh"
SYSTEM = {**os.environ, "PATH": f"/usr/sbin:/usr/bin:/sbin:/bin:{os.environ['PATH']}"}
MIB = 2048  # sectors
needs_loop = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/loop-control").exists(), reason="needs root and loop devices"
)
# ext4 grows for CAP_SYS_RESOURCE only (linux, fs/ext4/resize.c: ext4_resize_begin), which a container may lack.
RESIZES = bool(int(Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0], 16) & 1 << 24)
needs_xfs = pytest.mark.skipif(
    shutil.which("mkfs.xfs") is None or "xfs" not in Path("/proc/filesystems").read_text(),
    reason="xfsprogs is not installed, or this kernel has no XFS",
)
needs_parted = pytest.mark.skipif(shutil.which("parted") is None, reason="parted is not installed")
needs_lvm = pytest.mark.skipif(
    shutil.which("lvm") is None or "device-mapper" not in Path("/proc/devices").read_text(),
    reason="lvm2 is not installed, or this kernel has no device mapper",
)
pytestmark = needs_loop
# Of the partitions in the tables below, root is the one that is named by ROOT; the others hold noise.
DOS = "label: dos\n"
GPT = "label: gpt\n"
LAST = "1: start=2048, size=40960\n2: start=43008, size=61440, bootable\n"
BEHIND = f"{LAST}3: start=104448, size=20480\n"
# In the order of their numbers root is last; on the disk the third lies behind it.
BEHIND_BY_START = "1: start=2048, size=40960\n2: start=104448, size=20480\n3: start=43008, size=61440\n"
LAST_BY_START = "1: start=2048, size=40960\n2: start=63488, size=61440\n3: start=43008, size=20480\n"
EXTENDED_BEHIND = f"{LAST}3: start=104448, size=57344, type=5\n5: start=106496, size=20480\n"
LOGICAL = "1: start=2048, size=20480\n4: start=22528, size={}, type=5\n5: start=24576, size=20480\n"
LOGICAL_LAST = LOGICAL.format(139264) + "6: start=47104, size=61440\n"
LOGICAL_BEHIND = LOGICAL_LAST + "7: start=110592, size=20480\n"


def system(*words: object, given: str | None = None) -> str:
    """Run a program of the system, and take its output."""
    done = subprocess.run(list(map(str, words)), env=SYSTEM, input=given, text=True, capture_output=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout.strip()


@dataclass
class Disk:
    """A loop device with partitions.

    Args:
        mount: where the root file system is mounted.
        inside: words before a program that see it there. It is mounted in a name space of its own: any other that is
            made meanwhile would get a copy of the mount, and keep the partition in use.
        seen: the same place, for everybody else.
    """

    image: Path
    node: str
    mount: Path
    inside: tuple[str, ...]
    seen: Path

    def table(self) -> dict[int, tuple[int, int]]:
        """Start and size of each partition, in sectors, as the disk has them."""
        found = json.loads(system("sfdisk", "--json", self.image))["partitiontable"]["partitions"]
        return {int(part["node"].removeprefix(str(self.image))): (part["start"], part["size"]) for part in found}

    def known(self, number: int) -> int:
        """Size of a partition as the kernel knows it."""
        return int(Path(f"/sys/class/block/{Path(self.node).name}p{number}/size").read_text())

    def ends(self) -> tuple[bytes, bytes]:
        """The first and the last MiB, where partition tables are."""
        image = self.image.read_bytes()
        return image[: 1 << 20], image[-1 << 20 :]

    def become(self, mib: int) -> None:
        """Give the disk another size."""
        os.truncate(self.image, mib << 20)
        system("losetup", "--set-capacity", self.node)

    def run(self, *words: str) -> str:
        """Run the script under test, with the programs on PATH, and take what it prints."""
        done = subprocess.run(
            [*self.inside, "sh", SCRIPT, *words, self.mount],
            text=True,
            stdout=subprocess.PIPE,
            check=True,
            env=SYSTEM | _path(),
        )
        return done.stdout.strip()

    def grow(self, mib: int) -> None:
        """Run the script under test, and see that the file system has at least so many MiB now."""
        said = self.run()
        if not RESIZES and system(*self.inside, "findmnt", "-n", "-o", "FSTYPE", self.mount) == "ext4":
            assert re.search(r"root was not grown: resize2fs \S+ failed$", said)
            return
        found = os.statvfs(self.seen)
        assert (said, found.f_blocks * found.f_frsize >> 20 > mib) == ("", True)


def _path() -> dict[str, str]:
    return {"PATH": f"{os.environ['PATH']}:{SYSTEM['PATH']}"}


def attach(stack: ExitStack, folder: Path, table: str, size: int, sector: int = 512) -> Disk:
    """A disk of so many MiB with this table and noise in all of its partitions."""
    image, mount = folder / "disk", folder / "root"
    mount.mkdir()
    image.touch()
    os.truncate(image, size << 20)
    system("sfdisk", "-q", image, given=table)
    node = system("losetup", "--find", "--show", f"--sector-size={sector}", image)
    stack.callback(system, "losetup", "--detach", node)
    system("partx", "--add", node)
    stack.callback(system, "partx", "--delete", node)
    for entry in Path(f"/sys/class/block/{Path(node).name}").glob("*/partition"):
        if int((entry.parent / "size").read_text()) > 2:  # the extended partition is its first logical's link
            Path(f"/dev/{entry.parent.name}").write_bytes(os.urandom(256 << 10))
    words = ["unshare", "--mount", "sh", "-c", "echo; exec sleep infinity"]
    space = stack.enter_context(subprocess.Popen(words, stdout=subprocess.PIPE))
    stack.callback(space.kill)
    assert space.stdout is not None
    space.stdout.readline()
    inside = ("nsenter", f"--mount=/proc/{space.pid}/ns/mnt")
    return Disk(image, node, mount, inside, Path(f"/proc/{space.pid}/root{mount}"))


def plan_carry_over(stack: ExitStack, disk: Disk, device: str, *, kind: str = "ext4", record: bool = True) -> None:
    """Put a root file system on a device, and record the size of the disk."""
    make = ("mkfs.ext4", "-q", "-F") if kind == "ext4" else (f"mkfs.{kind}", "-f")
    system(*make, device)
    system(*disk.inside, "mount", device, disk.mount)
    stack.callback(system, *disk.inside, "umount", disk.mount)
    (disk.seen / "var/lib/builder").mkdir(parents=True)
    if record:
        assert disk.run("--record") == ""


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def others(disk: Disk, root: int) -> dict[int, bytes]:
    """The bytes of every partition but root's and the extended one's."""
    image = disk.image.read_bytes()
    return {
        number: image[start * 512 : (start + size) * 512]
        for number, (start, size) in disk.table().items()
        if number != root and not (number == 4 and size > 100000)
    }


def made(stack: ExitStack, folder: Path, table: str, root: int) -> Disk:
    disk = attach(stack, folder, table, 80)
    plan_carry_over(stack, disk, f"{disk.node}p{root}")
    return disk


def gpt(table: str, root: int, name: str) -> object:
    return pytest.param(GPT + table.replace(", bootable", ""), root, id=f"gpt, {name}", marks=needs_parted)


@pytest.mark.parametrize(
    ("table", "root"),
    [
        pytest.param(DOS + LAST, 2, id="dos"),
        pytest.param(DOS + LAST_BY_START, 2, id="dos, last by start only"),
        gpt(LAST_BY_START, 2, "last by start only"),
    ],
)
def test_the_last_partition_takes_what_the_disk_gained(table: str, root: int, tmp_path: Path, stack: ExitStack) -> None:
    disk = made(stack, tmp_path, table, root)
    before, noise = disk.table(), others(disk, root)
    (disk.seen / "kept").write_text("kept")
    disk.become(200)
    disk.grow(120)
    after = disk.table()
    start, size = after.pop(root)
    assert start == before.pop(root)[0]
    assert 198 * MIB <= start + size <= 200 * MIB
    assert disk.known(root) == size
    assert after == before
    assert others(disk, root) == noise
    assert (disk.seen / "kept").read_text() == "kept"
    # The second time there is nothing to do.
    before = disk.table()
    disk.grow(120)
    assert disk.table() == before


@pytest.mark.parametrize(
    ("table", "root"),
    [
        pytest.param(DOS + BEHIND, 2, id="dos"),
        pytest.param(DOS + BEHIND_BY_START, 3, id="dos, by start"),
        pytest.param(DOS + EXTENDED_BEHIND, 2, id="dos, an extended one"),
        pytest.param(DOS + LOGICAL_BEHIND, 6, id="dos, a logical one"),
        gpt(BEHIND_BY_START, 3, "by start"),
    ],
)
def test_a_partition_behind_root_is_not_touched(table: str, root: int, tmp_path: Path, stack: ExitStack) -> None:
    disk = made(stack, tmp_path, table, root)
    before, noise = disk.table(), others(disk, root)
    disk.become(200)
    said = disk.run()
    assert re.fullmatch(
        r"the disk of root is larger, but root was not grown: /dev/loop\S+ lies behind /dev/loop\S+", said
    )
    assert (disk.table(), disk.known(root), others(disk, root)) == (before, before[root][1], noise)
    # The next boot says it again.
    assert disk.run() == said


def test_the_last_logical_partition_grows_with_the_extended_one(tmp_path: Path, stack: ExitStack) -> None:
    disk = made(stack, tmp_path, DOS + LOGICAL_LAST, 6)
    before, noise = disk.table(), others(disk, 6)
    disk.become(200)
    disk.grow(120)
    after = disk.table()
    assert {number: start for number, (start, _) in after.items()} == {n: start for n, (start, _) in before.items()}
    for number in (4, 6):
        assert sum(after[number]) == 200 * MIB
    assert (after[1], after[5]) == (before[1], before[5])
    assert others(disk, 6) == noise


@pytest.mark.parametrize(
    ("table", "root"), [pytest.param(DOS + LAST, 2, id="dos, space left free"), gpt(BEHIND, 2, "behind")]
)
def test_a_disk_of_the_same_size_is_not_touched(table: str, root: int, tmp_path: Path, stack: ExitStack) -> None:
    disk = made(stack, tmp_path, table, root)
    before = disk.ends(), others(disk, root)
    assert disk.run() == ""
    assert (disk.ends(), others(disk, root)) == before


def test_without_a_record_a_disk_that_is_full_is_not_touched(tmp_path: Path, stack: ExitStack) -> None:
    disk = attach(stack, tmp_path, DOS + "start=2048, size=161792", 80)
    plan_carry_over(stack, disk, f"{disk.node}p1", record=False)
    before = disk.ends()
    assert disk.run() == ""
    assert disk.ends() == before


@needs_xfs
def test_xfs_grows(tmp_path: Path, stack: ExitStack) -> None:
    # mkfs.xfs makes no file system below 300 MiB.
    disk = attach(stack, tmp_path, DOS + "start=2048, size=655360", 330)
    plan_carry_over(stack, disk, f"{disk.node}p1", kind="xfs")
    disk.become(600)
    disk.grow(500)
    assert sum(disk.table()[1]) == 600 * MIB


def test_a_file_system_that_was_not_reached_is_grown_by_the_next_boot(tmp_path: Path, stack: ExitStack) -> None:
    """The power fails between the partition and its file system."""
    disk = made(stack, tmp_path, DOS + LAST, 2)
    disk.become(200)
    system("sfdisk", "--no-reread", "--force", "-N", "2", disk.node, given=f"43008,{200 * MIB - 43008}\n")
    system("partx", "--update", "--nr", "2", disk.node)
    disk.grow(120)


def test_large_sectors_are_refused(tmp_path: Path, stack: ExitStack) -> None:
    disk = attach(stack, tmp_path, DOS + "start=256, size=10240", 80, sector=4096)
    plan_carry_over(stack, disk, f"{disk.node}p1")
    before = disk.ends()[0]
    disk.become(200)
    assert "are not of 512 bytes" in disk.run()
    assert disk.ends()[0] == before


def test_a_table_of_msdos_ends_at_2_tib(tmp_path: Path, stack: ExitStack) -> None:
    disk = made(stack, tmp_path, DOS + LAST, 2)
    disk.become(3 << 20)
    disk.run()
    start, size = disk.table()[2]
    assert start + size == 2**32 - MIB
    # What is behind it cannot be had, and nothing is cut off.
    disk.become(4 << 20)
    assert "ends at 2 TiB" in disk.run()
    assert disk.table()[2] == (start, size)


@needs_lvm
@pytest.mark.parametrize(("table", "grows"), [(LAST, True), (BEHIND, False)], ids=["last", "behind"])
def test_a_volume_grows_with_the_last_physical_volume(
    table: str, grows: bool, tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = attach(stack, tmp_path, DOS + table, 80)
    (tmp_path / "lvm").mkdir()
    (tmp_path / "lvm/lvm.conf").write_text(
        f'devices {{ use_devicesfile=0 filter=["a|^{disk.node}p|","r|.*|"] }}\nbackup {{ backup=0 archive=0 }}\n'
    )
    monkeypatch.setitem(SYSTEM, "LVM_SYSTEM_DIR", str(tmp_path / "lvm"))
    group = f"builder-test-{time.time_ns()}"
    system("vgcreate", "-y", "-s", "4m", group, f"{disk.node}p2")
    # Two of seven extents stay free: they are not root's.
    system("lvcreate", "-y", "-l", "5", "-n", "root", group)
    stack.callback(system, "vgchange", "-an", group)
    before, noise = disk.table(), others(disk, 2)
    plan_carry_over(stack, disk, f"/dev/{group}/root")
    disk.become(200)
    said = disk.run()
    found = [int(word) for word in system("vgs", "--noheadings", "-o", "vg_free_count,vg_extent_count", group).split()]
    assert others(disk, 2) == noise
    if grows:
        assert said == "" or not RESIZES
        assert found[0] == 2
        assert found[1] > 40
    else:
        assert "lies behind" in said
        assert found == [2, 7]
        assert disk.table() == before
