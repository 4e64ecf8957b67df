"""Every release's shipped recipe becomes a proved image on its own rehearsal medium, by one firmware or the other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from builder.rehearsal.shapes import SHAPES
from builder.releases import Name
from tests.conftest import Rehearsal
from tests.e2e.conftest import Person

pytestmark = [pytest.mark.e2e, pytest.mark.vm, pytest.mark.slow]


@pytest.mark.timeout(2400)
@pytest.mark.parametrize(
    ("recipe", "release", "firmware", "delivery"),
    [
        ("rocky8-minimal", "el8", "uefi", "seed"),
        ("rocky9-minimal", "el9", "bios", "seed"),
        ("rocky9-minimal", "el9", "uefi", "remaster"),
        ("almalinux10-minimal", "el10", "bios", "remaster"),
        ("fedora-server", "fedora", "uefi", "seed"),
    ],
)
def test_a_proved_image(
    person: Person, rehearsal_of: Rehearsal, recipe: str, release: Name, firmware: str, delivery: str
) -> None:
    medium = person.folder / f"{release}.iso"
    if not medium.exists():
        shutil.copyfile(rehearsal_of(release), medium)
        medium.chmod(0o444)
    words = ["--set", f"machine.firmware={firmware}", "--set", f"media.delivery={delivery}"]
    done = person.run("--artifacts", release, "run", recipe, "--media", medium.name, *words, "--json", timeout=2300)
    assert done.returncode == 0, done.stderr[-4000:]
    made = json.loads(done.stdout)
    assert made["name"] == f"{recipe}-rehearsal"
    manifest = json.loads((Path(made["image"]["disk"]).parent / "manifest.json").read_text())
    twins = manifest["verified"]["twins"]
    assert {one["release"] for one in twins.values()} == {SHAPES[release].system}
    assert twins["twin-a"]["machine_id"] != twins["twin-b"]["machine_id"]
