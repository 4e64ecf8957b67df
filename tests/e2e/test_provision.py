"""An image built on another one: provisioned, generalised, verified like its base, and cloned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builder.stages import secret_scan
from builder.store.secrets import StoredSecrets
from builder.store.store import Store
from builder.vm import qemu_img
from tests.e2e.conftest import Person

pytestmark = [pytest.mark.e2e, pytest.mark.vm, pytest.mark.slow]
RECIPE = """\
name: web
from: centos7-minimal
machine: {vcpus: 2, memory: 1GiB}
provision:
  files: [{source: motd, path: /etc/motd}]
  scripts: [web.sh]
verify:
  checks:
    - {name: provisioned, run: test -e /var/lib/web-was-here && grep -q welcome /etc/motd}
    - {name: nothing-of-the-first-boot, run: '! grep -rqs provision /etc/hostname /root/.ssh'}
"""
IMAGE = "web-rehearsal"


@pytest.fixture(scope="module")
def web(person: Person, golden: Any) -> Any:
    """What `builder run` says of the image built on the golden one."""
    for name, text in {
        "pipelines/web.yaml": RECIPE,
        "provision/motd": "welcome\n",
        "provision/web.sh": "#!/bin/sh\nset -e\ntouch /var/lib/web-was-here\n",
    }.items():
        path = person.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.parent.chmod(0o755)
        path.chmod(0o644)
    return person.json("run", "web", "--media", "rehearsal")


def test_a_provisioned_image_passes_the_same_gate(person: Person, golden: Any, web: Any) -> None:
    assert web["built"] == ["provision", "seal", "verify", "publish"]
    manifest = person.json("images", "show", IMAGE)["manifest"]
    assert manifest["booted_before_sealing"]
    assert manifest["stages"]["provision"]["inputs"]["base"][1] == golden["image"]["sha256"]
    twins = manifest["verified"]["twins"]
    assert all("provisioned" in twin["checks"] for twin in twins.values())
    assert len({twin["machine_id"] for twin in twins.values()}) == 2
    # The raw disk was searched: what the first boot made (host keys) is not even among freed blocks.
    assert "search" in manifest["stages"]["seal"]["ledger"]["seconds"]


def test_a_clone_of_it_passes_the_same_checks_and_its_base_holds_no_secret(
    person: Person, golden: Any, web: Any, tmp_path: Path
) -> None:
    checks = person.json("images", "show", IMAGE)["manifest"]["stages"]["verify"]["inputs"]["checks"]
    assert len(checks) == 2
    try:
        person.json("clone", IMAGE, "shop", "--wait")
        for name, command in checks:
            done = person.run("vm", "ssh", "shop", "--", command)
            assert done.returncode == 0, f"{name}: {done.stderr}"
        assert person.run("vm", "ssh", "shop", "--", "hostname").stdout == "shop\n"
    finally:
        assert person.run("vm", "delete", "shop").returncode == 0
    raw = tmp_path / "web.raw"
    qemu_img.convert(Path(web["image"]["disk"]), "qcow2", raw, "raw")
    secrets = StoredSecrets(Store(person.folder / "artifacts" / ".store"), "centos7-minimal", peek=True)
    found = secret_scan.scan(raw, password=secrets.root_password, crypt=secrets.root_crypt)
    assert found.leaks == ()
    # Those that are left belong to packages: the proof names their files.
    kept = person.json("images", "show", IMAGE)["manifest"]["verified"]["private_keys"]
    assert len(found.keys) == sum(file["keys"] for file in kept)
    assert not any("ssh_host" in file["path"] for file in kept)


def test_unchanged_nothing_is_done_and_a_changed_script_provisions_again(person: Person, web: Any) -> None:
    assert person.json("run", "web", "--media", "rehearsal")["built"] == []
    (person.folder / "provision" / "web.sh").write_text("#!/bin/sh\nexit 3\n")
    rows = {row["stage"]: row for row in person.json("plan", "web", "--media", "rehearsal")["stages"]}
    assert all(row["action"] == "run" for row in rows.values())
    done = person.run("run", "web", "--media", "rehearsal", "--json")
    assert done.returncode == 5
    assert json.loads(done.stdout)["error"]["brief"] == "provision: web.sh failed (exit status 3)"
    # The last good image stands.
    assert person.json("images", "show", IMAGE)["version"] == web["image"]["version"]
    assert Path(web["image"]["disk"]).exists()
