"""The table of packages: read by builder and by the Makefile alike, for apt and for dnf."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from builder.errors import HostError
from builder.host import distro, prepare
from builder.system import packages, process
from tests.host.conftest import SOURCE

SECTIONS = {"base", "environment", "run", "rehearsal", "desktop", "selinux", "optional", "test", "bench"}
# Programs that the Makefile's rule needs beside those of the package manager.
SHELL = ("awk", "id")
DNF = """\
#!/bin/sh
echo "$*" >> {folder}/dnf.log
shift 3
printf '%s\\n' "$@" >> {folder}/installed
"""
RPM = """\
#!/bin/sh
for name; do :; done
exec grep -qx -e "$name" {folder}/installed
"""


@pytest.fixture
def redhat(tmp_path: Path) -> Path:
    """A folder for PATH with rpm and dnf; gcc is installed already."""
    for name in SHELL:
        found = shutil.which(name)
        assert found
        (tmp_path / name).symlink_to(found)
    found = shutil.which("grep")
    assert found
    for name, text in (("dnf", DNF), ("rpm", RPM.replace("grep", found))):
        (tmp_path / name).write_text(text.format(folder=tmp_path))
        (tmp_path / name).chmod(0o755)
    (tmp_path / "installed").write_text("gcc\n")
    return tmp_path


def make(*words: str, path: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("make")
    assert program
    return subprocess.run(
        [program, "--no-print-directory", *words],
        cwd=SOURCE,
        env={"PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_every_row_is_whole() -> None:
    assert {row.section for row in packages.table()} == SECTIONS
    assert [row for row in packages.table() if row.section == "run" and not (row.apt and row.dnf)] == []
    assert {"qemu-system-x86_64", "qemu-img", "uefi", "ssh"} <= set(packages.brought_by({"run"}))


def test_names_of_apt_are_known_to_apt() -> None:
    names = [row.apt for row in packages.table() if row.apt]
    known = subprocess.run(["apt-cache", "show", "--no-all-versions", *names], capture_output=True, text=True)
    assert [name for name in names if f"Package: {name}\n" not in known.stdout] == []


def test_programs_are_brought_by_the_package_that_is_named() -> None:
    # The daemons' own packages lack the accounts and the configuration.
    brought = {each: row.apt for row in packages.table() for each in row.brings if row.apt != "libvirt-daemon-system"}
    paths = {each: shutil.which(each, path="/usr/bin:/usr/sbin") for each in brought}
    # Of a merged /usr dpkg may know the other name only.
    names = [name for path in paths.values() if path for name in (path, path.removeprefix("/usr"))]
    owned = subprocess.run(["dpkg-query", "--search", *names], capture_output=True, text=True, check=False).stdout
    owners = {line.partition(": ")[2].rpartition("/")[2]: line.partition(":")[0] for line in owned.splitlines()}
    assert len(owners) > 30
    assert {each: brought[each] for each in owners} == owners


def test_a_missing_program_is_hinted_at_by_its_package(redhat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert packages.hint("fsck.fat", "uefi") == "apt-get install dosfstools ovmf"
    monkeypatch.setenv("PATH", str(redhat))
    assert packages.manager() == "dnf"
    with pytest.raises(HostError, match="qemu-img is not installed") as caught:
        process.find("qemu-img")
    assert caught.value.hint == "dnf install qemu-img"
    assert packages.hint("uefi", "ssh") == "dnf install edk2-ovmf openssh-clients"
    # RHEL has none of them, and only the distribution knows what brings others.
    assert packages.hint("isohybrid") == "install the packages that bring isohybrid"
    (redhat / "dnf").unlink()
    assert packages.hint("qemu-img") == "install the packages that bring qemu-img"


def test_install_lines_for_both_managers() -> None:
    wanted = ["qemu-img", "mcopy", "qemu-img"]
    assert distro.install_line(distro.System("d", "apt", True), wanted).endswith(" qemu-utils mtools")
    assert distro.install_line(distro.System("r", "dnf", True), wanted) == "dnf install -y qemu-img mtools"
    assert distro.install_line(distro.System("u", None, True), wanted) == "install qemu-utils mtools"


def test_installed_packages_are_found_by_dpkg() -> None:
    assert distro.missing_packages("apt", ["dpkg", "no-such-package", "make"]) == ["no-such-package"]


def test_make_and_host_prepare_install_the_same_packages(redhat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make("packages", path=str(redhat))
    assert (first.returncode, first.stderr) == (0, "")
    assert make("packages", path=str(redhat)).returncode == 0
    (line,) = (redhat / "dnf.log").read_text().splitlines()
    words = line.split()
    assert words[:3] == ["install", "-q", "-y"]
    assert {"libvirt-devel", "python3.12", "qemu-kvm", "edk2-ovmf"} <= set(words)
    assert not {"gcc", "-", "skopeo", "virt-manager"} & set(words)
    monkeypatch.setenv("PATH", str(redhat))
    wanted = packages.in_sections(prepare.SECTIONS, "dnf")
    assert ["gcc", *words[3:]] == wanted
    assert distro.missing_packages("dnf", wanted) == []


def test_make_names_what_an_ordinary_user_cannot_install(redhat: Path) -> None:
    (redhat / "id").unlink()
    (redhat / "id").write_text("#!/bin/sh\necho 1000\n")
    (redhat / "id").chmod(0o755)
    done = make("packages", path=str(redhat))
    assert done.returncode == 2
    assert "run as root: dnf install -q -y libvirt-devel pkgconf-pkg-config " in done.stderr
    assert not (redhat / "dnf.log").exists()


def test_make_leaves_other_distributions_alone(redhat: Path) -> None:
    (redhat / "dnf").unlink()
    done = make("packages", path=str(redhat))
    assert (done.returncode, "builder/system/packages.txt" in done.stderr) == (0, True)
