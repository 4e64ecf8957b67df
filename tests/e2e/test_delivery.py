"""Both ways for the kickstart to reach the installer, on both firmwares: each gives a verified image."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from builder.vm import qemu_img
from tests.e2e.conftest import Person

IMAGE = "centos7-minimal"
pytestmark = [pytest.mark.e2e, pytest.mark.vm, pytest.mark.slow]


def told(path: Path) -> tuple[int, ...]:
    """What changes when a file is written to, given away or replaced; reading it and a second name change the rest."""
    facts = path.stat()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_mode, facts.st_uid, facts.st_gid


@pytest.mark.timeout(2400)
@pytest.mark.parametrize("firmware", ["bios", "uefi"])
@pytest.mark.parametrize("delivery", ["remaster", "seed"])
def test_a_verified_image(person: Person, rehearsal_iso: Path, firmware: str, delivery: str) -> None:
    medium = person.folder / "delivered.iso"
    if not medium.exists():
        shutil.copyfile(rehearsal_iso, medium)
        medium.chmod(0o444)
    before = told(medium)
    words = ["--set", f"machine.firmware={firmware}", "--set", f"media.delivery={delivery}"]
    done = person.run("--artifacts", "delivered", "run", IMAGE, "--media", medium.name, *words, "--json", timeout=2300)
    assert done.returncode == 0, done.stderr[-4000:]
    image = json.loads(done.stdout)["image"]
    qemu_img.check(Path(image["disk"]))
    manifest = json.loads((Path(image["disk"]).parent / "manifest.json").read_text())
    assert set(manifest["verified"]["twins"]) == {"twin-a", "twin-b"}
    assert told(medium) == before
    # Neither what holds the hash nor the variables of a firmware is left.
    store = person.folder / "delivered" / ".store"
    left = {json.loads((path / "stage.json").read_text())["stage"] for path in (store / "objects").iterdir()}
    assert not left & {"kickstart", "remaster", "install"}
    assert ("kernel" in left) or delivery == "remaster"
    assert list((store / "tmp").iterdir()) == []
    if (firmware, delivery) == ("uefi", "seed"):
        a_clone_answers(person)


def a_clone_answers(person: Person) -> None:
    """The image starts as a clone, by UEFI, with variables of its own that go with it."""
    words = ("--artifacts", "delivered")
    try:
        (made,) = person.json(*words, "clone", f"{IMAGE}-rehearsal", "delivered-uefi", "--wait")
        done = person.run(*words, "vm", "ssh", made["name"], "--", "test -d /sys/firmware/efi && hostname")
        assert done.stdout == "delivered-uefi\n", done.stderr
        assert (person.folder / "delivered/vms/delivered-uefi/nvram.fd").exists()
    finally:
        person.run(*words, "vm", "delete", "delivered-uefi")
    assert [path.name for path in (person.folder / "delivered/vms").iterdir()] == [".lock"]
