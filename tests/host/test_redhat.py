"""A host like RHEL 9, made of fakes: dnf, rpm, SELinux, qemu-kvm, modular daemons. It is never RHEL itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.host import check_storage, firmware, prepare
from builder.host.firmware import Uefi
from tests.fakes import redhat
from tests.host.conftest import SCREENS, Cell, cell

EMULATOR = "from builder.vm import networks; print(networks.emulator('qemu:///system'))"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Cell]:
    """Namespaces of such a host."""
    with cell(tmp_path) as made:
        made.run("sh", "-c", SCREENS.format(work=tmp_path))
        made.run("sh", "-c", redhat.write(tmp_path / "redhat", tmp_path))
        yield made


def rows(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """The rows of `host check --json` by name."""
    return {row["name"]: row for row in json.loads(done.stdout)["rows"]}


def test_prepare_twice_and_restore(host: Cell, tmp_path: Path) -> None:
    state = tmp_path / "redhat" / "state"
    words = ["--iso-dir", tmp_path / "kvm/iso", "--store-dir", tmp_path / "kvm/store"]
    found = rows(host.builder("host", "check", "--json"))
    assert found["system"]["found"].startswith("Red Hat Enterprise Linux 9.6 (Plow)")
    assert (found["programs"]["state"], found["qemu"]["found"]) == ("ok", redhat.QEMU_VERSION)
    assert found["firmware"]["found"] == "BIOS, UEFI (/usr/share/edk2/ovmf/OVMF_CODE.fd)"
    assert found["selinux"]["state"] == "warn"
    assert "virtqemud" in found["libvirt"]["found"]
    assert (found["rehearsal"]["state"], "--media FILE" in found["rehearsal"]["why"]) == ("info", True)

    first = host.builder("host", "prepare", *words)
    assert first.returncode == 0, first.stderr
    log = (state / "log").read_text()
    assert "dnf install -y gcc libvirt-devel " in log
    assert "policycoreutils-python-utils" in log
    assert [f"{name} --timeout 120" in log for name in ("virtqemud", "virtnetworkd", "virtstoraged")] == [True] * 3
    assert json.loads((state / "rules").read_text()) == {f"{tmp_path}/kvm(/.*)?": "virt_image_t"}
    for path in (tmp_path / "kvm", tmp_path / "kvm/iso", tmp_path / "kvm/store"):
        assert check_storage.labelled(check_storage.label_of(path)), path
    second = host.builder("host", "prepare", *words)
    assert (second.returncode, second.stdout, second.stderr) == (0, "nothing to do\n", "")

    found = rows(host.builder("host", "check", "--json", BUILDER_ARTIFACTS=""))
    assert found["selinux"] == {
        "name": "selinux",
        "state": "ok",
        "found": found["selinux"]["found"],
        "why": "",
        "fix": "",
    }
    assert found["pools"]["found"] == "iso, store"
    asked = host.run(sys.executable, "-c", EMULATOR)
    assert asked.stdout == "/usr/libexec/qemu-kvm\n"

    back = host.builder("host", "restore", "--packages")
    assert back.returncode == 0, back.stderr
    assert json.loads((state / "rules").read_text()) == {}
    assert (state / "installed").read_text() == ""
    assert not (tmp_path / "kvm").exists()


def test_a_rehearsal_medium_is_brought_from_elsewhere(host: Cell) -> None:
    done = host.builder("media", "rehearsal", "--output", "medium.iso")
    assert (done.returncode, "on such a host: builder media rehearsal --output FILE" in done.stderr) == (3, True)


def test_directories_without_a_type_of_their_own_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enforce = tmp_path / "enforce"
    monkeypatch.setattr(check_storage, "ENFORCE", enforce)
    request = prepare.PrepareOptions(tmp_path / "kvm/iso", tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    assert list(prepare.labels(request)) == []
    enforce.write_text("1")
    assert [step.details[0] for step in prepare.labels(request)] == [
        f"$ semanage fcontext -a -t virt_image_t '{tmp_path}/kvm(/.*)?'",
        f"$ restorecon -R {tmp_path}/kvm",
        f"$ semanage fcontext -a -t virt_image_t '{tmp_path}/elsewhere(/.*)?'",
        f"$ restorecon -R {tmp_path}/elsewhere",
    ]
    assert check_storage.labelled("system_u:object_r:virt_image_t:s0")
    assert not check_storage.labelled("unconfined_u:object_r:default_t:s0")


def test_firmware_is_found_by_its_descriptors(tmp_path: Path) -> None:
    distribution, administrator = tmp_path / "usr", tmp_path / "etc"
    for folder in (distribution, administrator):
        folder.mkdir()
    file = tmp_path / "OVMF.fd"

    def write(folder: Path, name: str, features: list[str], machine: str = "pc-q35-*") -> None:
        (folder / name).write_text(redhat.descriptor(str(file), features, machine))

    def found() -> list[Uefi]:
        return firmware.uefi((distribution, administrator, tmp_path / "missing"))

    write(distribution, "60-plain.json", [])
    assert found() == []  # the firmware itself is not there
    file.touch()
    write(distribution, "40-secure.json", ["secure-boot", "enrolled-keys"])
    write(distribution, "50-other.json", [], "pc-i440fx-*")
    (distribution / "10-damaged.json").write_text("[")
    (distribution / "20-odd.json").write_text('{"mapping": 1}')
    assert found() == [Uefi(file, usable=False), Uefi(file, usable=True)]
    # What the administrator has under the same name counts; an empty file hides.
    (administrator / "40-secure.json").touch()
    write(administrator, "60-plain.json", ["secure-boot"])
    assert found() == [Uefi(file, usable=False)]


def test_this_machine_has_firmware_that_libvirt_can_choose() -> None:
    usable = [each.file for each in firmware.uefi(firmware.directories()) if each.usable]
    assert [path.name for path in usable] == ["OVMF_CODE_4M.fd"]
