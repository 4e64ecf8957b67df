"""Facts about a host are looked up on a host, real or made of files."""

from __future__ import annotations

import os
import pwd
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import settings
from builder.errors import HostError, KvmError
from builder.system import host_facts
from builder.system.host_facts import choose_accel

PLAIN = "processor\t: 0\nflags\t\t: fpu sse2 hypervisor\naddress sizes\t: 48 bits physical, 48 bits virtual\n"

NOBODY = (pwd.getpwnam("nobody").pw_uid, pwd.getpwnam("nobody").pw_gid)
FOREIGN = 12345
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs devices, and to become another user")


@pytest.fixture
def cpuinfo(tmp_path: Path) -> Path:
    path = tmp_path / "cpuinfo"
    path.write_text(PLAIN.replace("hypervisor", "svm"))
    return path


@pytest.fixture
def foreign() -> Iterator[Path]:
    """A device that opens for root and one group; not below tmp_path, which others may not pass."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as top:
        Path(top).chmod(0o711)
        device = Path(top, "device")
        os.mknod(device, stat.S_IFCHR, os.makedev(1, 3))
        os.chown(device, 0, FOREIGN)
        device.chmod(0o660)
        yield device


def without(cpuinfo: Path) -> Path:
    cpuinfo.write_text(PLAIN)
    return cpuinfo


NULL = Path(os.devnull)


def test_kvm_where_all_agree(cpuinfo: Path) -> None:
    assert choose_accel("auto", False, ["qemu", "kvm"], cpuinfo=cpuinfo, device=NULL).name == "kvm"


def test_no_flag_no_kvm_even_if_the_device_opens(cpuinfo: Path) -> None:
    accel = choose_accel("auto", False, ["qemu", "kvm"], cpuinfo=without(cpuinfo), device=NULL)
    assert accel == host_facts.Accel("tcg", "the CPU shows neither vmx nor svm")


def test_no_device_no_kvm(cpuinfo: Path, tmp_path: Path) -> None:
    accel = choose_accel("auto", False, ["qemu", "kvm"], cpuinfo=cpuinfo, device=tmp_path / "kvm")
    assert accel.name == "tcg"
    assert "does not open" in accel.why


def test_libvirt_without_kvm(cpuinfo: Path) -> None:
    assert choose_accel("auto", False, ["qemu"], cpuinfo=cpuinfo, device=NULL).why == "libvirt does not offer it"


@needs_root
def test_kvm_that_qemus_user_cannot_open(cpuinfo: Path, foreign: Path) -> None:
    accel = choose_accel("auto", False, ["qemu", "kvm"], NOBODY, cpuinfo=cpuinfo, device=foreign)
    assert accel == host_facts.Accel("tcg", f"QEMU's user nobody cannot open {foreign}")


@needs_root
def test_access_is_what_the_kernel_grants(foreign: Path) -> None:
    assert host_facts.kvm_access(0, 0, foreign) == "opens"
    assert host_facts.kvm_access(*NOBODY, foreign) == "denied"
    assert host_facts.kvm_access(NOBODY[0], FOREIGN, foreign) == "opens"
    assert host_facts.kvm_access(*NOBODY, foreign.with_name("none")) is None
    foreign.unlink()
    # A number that no driver has.
    os.mknod(foreign, stat.S_IFCHR, os.makedev(240, 77))
    foreign.chmod(0o666)
    assert host_facts.kvm_access(*NOBODY, foreign) == "broken"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ('user = "nobody"\n', NOBODY),
        ('#user = "root"\n  user="+65534"  # nobody\ngroup = "+12"\n', (65534, 12)),
        ('user = "nobody"\ngroup = "daemon"\n', (65534, 1)),
        ('user = "no-such-user"\n', None),
    ],
)
def test_qemus_user_is_that_of_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: tuple[int, int] | None
) -> None:
    monkeypatch.setattr(host_facts, "QEMU_USERS", ("no-such-user",))
    conf = tmp_path / "qemu.conf"
    assert host_facts.qemu_user(conf) is None
    conf.write_text(text)
    assert host_facts.qemu_user(conf) == expected
    monkeypatch.setattr(host_facts, "QEMU_USERS", ("no-such-user", "nobody"))
    assert host_facts.qemu_user(tmp_path / "none") == NOBODY


@pytest.mark.parametrize(("wanted", "required"), [("auto", True), ("kvm", False), ("tcg", True)])
def test_required_kvm_that_is_missing_is_its_own_fault(cpuinfo: Path, wanted: settings.Accel, required: bool) -> None:
    with pytest.raises(KvmError) as caught:
        choose_accel(wanted, required, ["qemu"], cpuinfo=without(cpuinfo), device=NULL)
    assert caught.value.exit_code == 9
    assert caught.value.hint


def test_a_choice_by_name_is_taken_at_its_word(cpuinfo: Path) -> None:
    assert choose_accel("kvm", False, ["kvm"], cpuinfo=cpuinfo, device=NULL) == host_facts.Accel("kvm", "asked for")
    doubted = choose_accel("kvm", False, ["kvm"], cpuinfo=without(cpuinfo), device=NULL)
    assert (doubted.name, "although the CPU shows neither vmx nor svm" in doubted.why) == ("kvm", True)
    assert choose_accel("tcg", False, ["kvm"], cpuinfo=cpuinfo, device=NULL).name == "tcg"


def test_physical_address_bits(cpuinfo: Path) -> None:
    assert host_facts.phys_bits(cpuinfo) == 48
    cpuinfo.write_text("nothing\n")
    assert host_facts.phys_bits(cpuinfo) == 0


def test_space_that_is_missing_is_told(tmp_path: Path) -> None:
    host_facts.require_space(tmp_path, 1, "nothing")
    with pytest.raises(HostError, match=r"the disk needs 1048576\.0 GiB"):
        host_facts.require_space(tmp_path, 1 << 50, "the disk")


@needs_root
class TestReach:
    @pytest.fixture
    def tree(self) -> Iterator[Path]:
        # Not tmp_path: pytest closes the directories above it to every other user.
        with tempfile.TemporaryDirectory(dir="/var/tmp") as top:
            Path(top).chmod(0o711)
            tree = Path(top, "in")
            tree.mkdir(mode=0o755)
            (tree / "base").touch(mode=0o444)
            yield tree

    def test_open_tree(self, tree: Path) -> None:
        host_facts.require_reach(65534, 65534, [tree / "base"], [tree / "disk"])

    def test_closed_directory_is_named(self, tree: Path) -> None:
        tree.chmod(0o700)
        with pytest.raises(HostError) as caught:
            host_facts.require_reach(65534, 65534, [], [tree / "disk"])
        assert f"chmod o+x {tree}" in caught.value.hint

    def test_closed_file_is_named(self, tree: Path) -> None:
        (tree / "base").chmod(0o400)
        with pytest.raises(HostError) as caught:
            host_facts.require_reach(65534, 65534, [tree / "base"], [])
        assert f"chmod o+r {tree / 'base'}" in caught.value.hint

    def test_another_way_in_counts(self, tree: Path) -> None:
        tree.chmod(0o750)
        os.chown(tree, 0, 65534)
        host_facts.require_reach(65534, 65534, [tree / "base"], [])

    def test_a_user_that_has_no_name(self, tree: Path) -> None:
        host_facts.require_reach(54321, 54321, [tree / "base"], [])
