"""A prepared host needs nothing more; restored, it keeps nothing of it. The libvirt daemon is the test's own."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Literal

import pytest

from builder.host import distro, prepare
from builder.host.journal import Journal
from builder.host.undo import restore
from builder.system import host_facts
from builder.vm import daemon
from tests.host.conftest import FOREIGN, World


def test_prepare_twice_and_restore(equipped: World, tmp_path: Path) -> None:
    host, _ = equipped
    host.run("sh", "-c", "ssh-keygen -q -A; echo UseDNS yes >> /etc/ssh/sshd_config")
    words = ["--iso-dir", tmp_path / "kvm/iso", "--store-dir", tmp_path / "kvm/store"]
    before = host.files()

    dry = host.builder("host", "prepare", *words, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert f"make the directory {tmp_path}/kvm/iso" in dry.stdout
    assert f'+store = "{tmp_path}/kvm/store"' in dry.stdout
    assert host.files() == before
    assert not (tmp_path / "kvm").exists()

    first = host.builder("host", "prepare", *words)
    assert first.returncode == 0, first.stderr
    pools = host.run("virsh", "-c", "qemu:///system", "pool-list", "--all", "--name", "--persistent").stdout.split()
    assert sorted(pools) == ["iso", "store"]
    # As recorded by `host prepare`, with nothing said on the command line or in the environment.
    recorded = functools.partial(host.builder, BUILDER_ARTIFACTS="")
    rows = {row["name"]: row for row in json.loads(recorded("host", "check", "--json").stdout)["rows"]}
    assert rows["directories"]["found"] == f"store {tmp_path}/kvm/store, media {tmp_path}/kvm/iso"
    assert rows["sshd"]["found"] == "UseDNS no"
    listed = recorded("images", "list")
    assert (listed.returncode, listed.stdout) == (0, "no images\n")

    settled = host.files()
    second = host.builder("host", "prepare", *words)
    assert (second.returncode, second.stdout, second.stderr) == (0, "nothing to do\n", "")
    assert host.files() == settled

    assert host.builder("host", "restore").returncode == 0
    assert {name: text for name, text in host.files().items() if "libvirt" not in name} == before
    assert host.run("virsh", "-c", "qemu:///system", "pool-list", "--all", "--name").stdout.split() == []
    assert not (tmp_path / "kvm").exists()


def test_what_others_changed_since_is_left(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    kept, file = tmp_path / "kept", tmp_path / "new" / "file"
    kept.write_text("before")
    kept.chmod(0o640)
    journal.replace_file(kept, "after")
    journal.replace_file(file, "made")
    kept.write_text("by somebody else")
    said: list[str] = []
    left = restore(journal, packages=False, note=said.append)
    assert [entry["path"] for entry in left] == [str(kept)]
    assert not file.parent.exists()
    assert "was changed since" in "".join(said)
    kept.write_text("after")
    assert restore(journal, packages=False, note=said.append) == []
    assert (kept.read_text(), kept.stat().st_mode & 0o777) == ("before", 0o640)


def test_a_change_that_a_crash_prevented_is_undone_too(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    file = tmp_path / "file"
    file.write_text("before")
    backup = tmp_path / "backup"
    backup.write_text("before")
    journal.record("file", path=str(file), backup=str(backup), sha256="of what was never written", then=None)
    journal.record("directory", path=str(tmp_path / "never made"))
    with journal.path.open("a") as torn:
        torn.write('{"kind": "fi')
    assert restore(journal, packages=False, note=lambda _: None) == []
    assert file.read_text() == "before"


def test_kvm_is_opened_to_qemus_user_and_closed_again(
    kvm_of_others: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, rule, udev = kvm_of_others, tmp_path / "rules.d" / "99-builder-kvm.rules", tmp_path / "control"
    user = host_facts.qemu_user()
    assert user is not None
    monkeypatch.setattr(prepare, "KVM", device)
    monkeypatch.setattr(prepare, "KVM_RULE", rule)
    monkeypatch.setattr(prepare, "UDEV", udev)
    shown = [f"$ chgrp kvm {device}", f"$ chmod g+rw {device}"]
    # In the group already; without udev nothing is kept.
    assert [list(step.details) for step in prepare.kvm_access()] == [shown]
    udev.touch()
    steps = list(prepare.kvm_access())
    assert [step.details[0] for step in steps] == [
        '+SUBSYSTEM=="misc", KERNEL=="kvm", GROUP="kvm", MODE="0660"',
        shown[0],
    ]
    journal = Journal(tmp_path / "journal")
    for step in steps:
        step.do(journal)
    assert host_facts.kvm_access(*user, device) == "opens"
    assert list(prepare.kvm_access()) == []
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "udevadm").write_text("#!/bin/sh\n")
    (tmp_path / "udevadm").chmod(0o755)
    # What somebody else made of it since, stays.
    device.chmod(0o666)
    assert [entry["kind"] for entry in restore(journal, packages=False, note=lambda _: None)] == ["device"]
    assert not rule.exists()
    device.chmod(0o660)
    assert restore(journal, packages=False, note=lambda _: None) == []
    status = device.stat()
    assert (status.st_gid, status.st_mode & 0o777) == (FOREIGN, 0o640)


def test_sshd_keeps_its_file_when_it_refuses_the_new_one(equipped: World, tmp_path: Path) -> None:
    host, _ = equipped
    host.run("sh", "-c", "printf 'UseDNS yes\\nNoSuchOption yes\\n' >> /etc/ssh/sshd_config")
    before = host.files()["ssh/sshd_config"]
    words = ["--iso-dir", tmp_path / "kvm/iso", "--store-dir", tmp_path / "kvm/store"]
    done = host.builder("host", "prepare", *words)
    assert done.returncode == 3
    assert "sshd refuses" in done.stderr
    assert host.files()["ssh/sshd_config"] == before
    assert not any(".builder" in name for name in host.files())


SYSTEMCTL = """\
#!/bin/sh
echo "$*" >> {log}
case "$1" in
cat) test -e "{folder}/../there/$2";;
get-default) cat {folder}/default;;
set-default) echo "$2" > {folder}/default;;
is-enabled) test -e "{folder}/$2" && echo enabled || echo disabled;;
is-active) test -e "{folder}/$2" && echo active || echo inactive;;
enable) touch "{folder}/$3";;
disable) rm -f "{folder}/$2";;
esac
"""


def test_services_and_the_desktop_of_a_host_with_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, log = tmp_path / "units", tmp_path / "log"
    folder.mkdir()
    (folder / "default").write_text("multi-user.target\n")
    (tmp_path / "systemctl").write_text(SYSTEMCTL.format(folder=folder, log=log))
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(prepare, "DISPLAY_MANAGER", folder / "display-manager.service")
    debian = distro.System("d", "apt", True)

    def steps() -> list[prepare.PrepareStep]:
        return [*prepare.services(debian), *prepare.desktop(debian)]

    names = {"apt": "libvirtd.socket", "dnf": "virtqemud.socket"}
    there = tmp_path / "there"
    there.mkdir()

    def first(manager: Literal["apt", "dnf"]) -> str:
        return next(prepare.services(distro.System("", manager, True))).details[0].rpartition(" ")[2]

    assert {"apt": first("apt"), "dnf": first("dnf")} == names
    # Both installed: RHEL 8 enables the one, RHEL 9 the many.
    for name in (*daemon.MONOLITHIC, *daemon.MODULAR):
        (there / name).touch()
    assert first("dnf") == "libvirtd.socket"
    (folder / "virtqemud.socket").touch()
    assert first("dnf") == "virtnetworkd.socket"
    (folder / "virtqemud.socket").unlink()
    for name in set(daemon.MODULAR) - set(daemon.MONOLITHIC):
        (there / name).unlink()

    planned = steps()
    assert [step.details[0] for step in planned] == [
        "$ systemctl enable --now libvirtd.socket",
        "$ systemctl enable --now virtlogd.socket",
        "$ systemctl set-default graphical.target",
    ]
    assert "no display manager is installed" in planned[-1].details[1]
    journal = Journal(tmp_path / "journal")
    for step in planned:
        step.do(journal)
    assert (folder / "default").read_text() == "graphical.target\n"
    assert steps() == []
    assert restore(journal, packages=False, note=lambda _: None) == []
    assert (folder / "default").read_text() == "multi-user.target\n"
    assert sorted(path.name for path in folder.iterdir()) == ["default"]
