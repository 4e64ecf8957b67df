"""The files that hold private keys on a disk: on real file systems, with the real dpkg and rpm."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.errors import VerifyError
from builder.guest.ssh import Reply
from builder.stages import key_owners
from builder.stages.key_owners import KeyOwner, Layout
from builder.stages.secret_scan import FoundKey, scan

KEY = b"-----BEGIN RSA PRIVATE KEY-----\n" + b"MIIEogIBAAKCAQEA6yCv+BLrRP/dMPBXJWK21c0aqxIX6JkODL4K+zlyEURt8/Wp\n" * 20
MIB = 1 << 20
needs_loop = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/loop-control").exists(), reason="needs root and loop devices"
)


def run(*words: str | Path, **environment: str) -> str:
    environment = {**os.environ, **environment}
    return subprocess.run(words, check=True, capture_output=True, text=True, env=environment).stdout


class Here:
    """This machine as the guest, with a home and so an RPM database of its own."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 120.0) -> Reply:
        environment = {"HOME": str(self._home), "PATH": "/usr/bin"}
        words = ["sh", "-c", command]
        done = subprocess.run(words, input=stdin, capture_output=True, timeout=timeout, env=environment, check=False)
        return Reply(done.returncode, done.stdout.decode(), done.stderr.decode())


@dataclass(frozen=True)
class Disk:
    """A disk with an ext4 file system that is mounted here."""

    file: Path
    root: Path
    home: Path

    def owners(self, *allowed: str) -> list[KeyOwner]:
        """Who owns the keys on it, from the raw disk and the mounted file system together."""
        run("sync", "-f", self.root)
        keys = scan(self.file, password="none", crypt="none").keys
        session = Here(self.home)
        layout = Layout.parse(session.run(key_owners.LAYOUT).out, str(self.root))
        script = key_owners.script(layout, keys, key_owners.EVERYTHING)
        output = session.run("sh -s", stdin=script.encode()).out
        return list(key_owners.owners(layout, keys, output, allowed))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    file, root, home = tmp_path / "disk.raw", tmp_path / "a root", tmp_path / "home"
    file.touch()
    os.truncate(file, 32 * MIB)
    root.mkdir()
    home.mkdir()
    (home / ".rpmmacros").write_text(f"%_dbpath {home}/db\n%_topdir {home}/build\n")
    run("mkfs.ext4", "-q", file)
    node = run("losetup", "--find", "--show", file).strip()
    try:
        run("mount", node, root)
        try:
            yield Disk(file, root, home)
        finally:
            run("umount", root)
    finally:
        run("losetup", "--detach", node)


SPEC = """\
Name: toy
Version: 1
Release: 2
Summary: toy
License: MIT
BuildArch: noarch
%define _binary_payload w0.gzdio
%description
toy
%install
mkdir -p '%{{buildroot}}{folder}'
for name in good.so changed.so exempt.so ghost.pem; do cp {key} '%{{buildroot}}{folder}'/$name; done
%files
"{folder}/good.so"
"{folder}/changed.so"
%verify(not md5 filedigest size mtime) "{folder}/exempt.so"
%ghost "{folder}/ghost.pem"
"""


@needs_loop
def test_files_of_an_rpm_are_harmless_as_long_as_they_are_what_it_brought(disk: Disk, tmp_path: Path) -> None:
    """A key in the first bytes of a sector, where a whole file of the disk begins, is as harmless as elsewhere."""
    lib = disk.root / "usr"
    (tmp_path / "key").write_bytes(KEY)
    (tmp_path / "toy.spec").write_text(SPEC.format(folder=lib, key=tmp_path / "key"))
    home = str(disk.home)
    run("rpmbuild", "-bb", "--quiet", tmp_path / "toy.spec", HOME=home)
    package = disk.home / "build/RPMS/noarch/toy-1-2.noarch.rpm"
    run("rpm", "-i", "--nodeps", package, HOME=home)
    for name in ("changed.so", "exempt.so"):
        with (lib / name).open("ab") as file:
            file.write(b"more")
    (lib / "ghost.pem").write_bytes(KEY + b"made here")
    owners = {Path(one.path).name: one for one in disk.owners()}
    assert owners.keys() == {"good.so", "changed.so", "exempt.so", "ghost.pem"}
    assert {one.package for one in owners.values()} == {"toy-1-2.noarch"}
    assert [name for name, one in owners.items() if one.harmless] == ["good.so"]
    assert owners["good.so"].offset % 512 == 0
    assert str(owners["changed.so"]).startswith(
        f"{lib}/changed.so: is not what its package brought: toy-1-2.noarch (private"
    )


@needs_loop
def test_files_without_a_package_are_named_unless_they_are_allowed(disk: Disk) -> None:
    (disk.root / "root").mkdir()
    (disk.root / "app").mkdir()
    secret, inside, named = disk.root / "root/it's a key.pem", disk.root / "root/bundle", disk.root / "app/dev.pem"
    secret.write_bytes(KEY)
    inside.write_bytes(b"x" * 9000 + KEY + b"y" * 70000)
    named.write_bytes(KEY)
    os.link(secret, disk.root / "app/linked.pem")
    owners = disk.owners(str(named), f"{disk.root}/ap")
    assert {one.path for one in owners if one.allowed} == {str(named)}
    assert {one.path for one in owners if not one.harmless} - {f"{disk.root}/app/linked.pem"} <= {
        str(secret),
        str(inside),
    }
    assert len(owners) == 3
    assert all(one.harmless for one in disk.owners(f"{disk.root}/app", f"{disk.root}/root"))
    assert str(owners[0]).endswith(f"no package owns it (private key at byte {owners[0].offset} of the disk)")


@needs_loop
def test_what_no_file_holds_is_reported_with_its_place(disk: Disk) -> None:
    """Deleted, and deleted with its blocks preallocated for a file that was never written."""
    deleted = disk.root / "deleted.pem"
    deleted.write_bytes(KEY)
    (before,) = disk.owners()
    assert before.path == str(deleted)
    deleted.unlink()
    (after,) = disk.owners("/")
    assert (after.path, after.offset, after.harmless) == ("", before.offset, False)
    assert str(after) == f"a private key at byte {before.offset} of the disk: in no file (deleted, or in free space)"
    free = os.statvfs(disk.root)
    run("fallocate", "-l", str(free.f_bavail * free.f_frsize), disk.root / "journal")
    assert disk.owners(str(disk.root)) == [after]


def test_a_file_of_a_debian_package_is_harmless(tmp_path: Path) -> None:
    """By its path, whichever of the two that a merged /usr gives it the package has."""
    listed = run("dpkg-query", "-L", "libc6").splitlines()
    library = next(path for path in listed if path.endswith("/libc.so.6"))
    for path in {library.removeprefix("/usr"), f"/usr{library.removeprefix('/usr')}", "/etc/bash.bashrc"}:
        words = Here(tmp_path).run(f"{key_owners.FUNCTIONS}\nowner {path}").out.split()
        assert (words[0], words[-1]) == ("from", path)
    stranger = tmp_path / "stranger"
    stranger.write_bytes(KEY)
    assert Here(tmp_path).run(f"{key_owners.FUNCTIONS}\nowner {stranger}").out == ""


# EL7 with autopart: /boot of its own, a volume group with a root of two pieces. From `dmsetup table` and sysfs.
EL7 = """\
mount 18 40 0:18 / /sys rw,nosuid - sysfs sysfs rw
mount 40 0 253:0 / / rw,relatime - xfs /dev/mapper/centos-root rw
mount 60 40 8:1 / /boot\\040of\\040mine rw,relatime - xfs /dev/sda1 rw
mount 61 40 11:0 / /mnt ro - iso9660 /dev/sr0 ro
mount 62 40 253:0 /var /srv/var rw - xfs /dev/mapper/centos-root rw
mapped 253:0 0 1000 linear 8:2 22048
mapped 253:0 1000 5000 linear 8:2 2048
mapped 253:1 0 9 crypt aes-xts-plain64 :64:logon:x 0 8:2 40000
disk 8:0
partition 8:1 8:0 2048 2097152
partition 8:2 8:0 2099200 14678016
disk 11:0
"""


@pytest.mark.parametrize(
    ("sector", "point", "inside"),
    [
        (0, None, 0),
        (2048, "/boot of mine", 0),
        (2099199, "/boot of mine", 2097151),
        (2099200, None, 0),
        (2099200 + 22048, "/", 0),
        (2099200 + 2048, "/", 1000),
        (2099200 + 2048 + 4999, "/", 5999),
        (2099200 + 2048 + 5000, None, 0),
        (2099200 + 40000, None, 0),
    ],
)
def test_a_byte_is_found_below_partitions_and_volumes(sector: int, point: str | None, inside: int) -> None:
    places = list(Layout.parse(EL7).places(sector * 512 + 7))
    assert places == ([(point, inside * 512 + 7)] if point else [])


def test_a_file_system_that_is_on_no_known_device_owns_nothing() -> None:
    """Btrfs has devices of its own making."""
    facts = "mount 40 0 0:33 / / rw - btrfs /dev/sda1 rw\ndisk 8:0\npartition 8:1 8:0 2048 99999\n"
    assert list(Layout.parse(facts).places(4096 * 512)) == []


class Answering:
    """A guest that gives one answer to everything."""

    def __init__(self, status: int, out: str) -> None:
        self._reply = Reply(status, out, "the reason")

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 120.0) -> Reply:
        del command, stdin, timeout
        return self._reply


@pytest.mark.parametrize(
    ("status", "out", "brief"),
    [
        (0, "mount 1 0 8:1 / / rw\n", "broke off in the copy"),
        (127, "end of the answer\n", "broke off in the copy"),
        (0, "no filefrag\nend of the answer\n", "cannot find the files that hold 1 private keys"),
    ],
)
def test_no_answer_is_not_taken_for_one(status: int, out: str, brief: str) -> None:
    key = FoundKey(0, "-----BEGIN RSA PRIVATE KEY-----")
    with pytest.raises(VerifyError, match=brief) as caught:
        key_owners.trace(Answering(status, out), [key], [])
    assert caught.value.details


@pytest.mark.parametrize(
    "facts",
    [
        "mount 1 0 8:1 / / rw\ndisk 8:0\npartition 8:1 8:0 many few\n",
        # Each lies below the other.
        "mount 1 0 253:0 / / rw\nmapped 253:0 0 8 linear 253:1 0\nmapped 253:1 0 8 linear 253:0 0\n",
    ],
)
def test_a_guest_that_talks_nonsense_is_refused(facts: str) -> None:
    key = FoundKey(0, "-----BEGIN RSA PRIVATE KEY-----")
    with pytest.raises(VerifyError, match="the copy's list of block devices cannot be read"):
        key_owners.trace(Answering(0, f"{facts}end of the answer\n"), [key], [])


def test_a_disk_without_keys_asks_nothing() -> None:
    assert key_owners.trace(Answering(127, ""), [], []) == ()
