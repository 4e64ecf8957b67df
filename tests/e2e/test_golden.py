"""The main job, from install medium to golden image, and what is reported about it afterwards."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from builder import images
from builder.provenance import sbom_check
from builder.system import retry
from builder.vm import qemu_img
from tests.e2e.conftest import Person

pytestmark = [pytest.mark.e2e, pytest.mark.vm, pytest.mark.timeout(1500)]
STAGES = ["kickstart", "fetch", "remaster", "install", "seal", "verify", "publish"]
NAME = "centos7-minimal-rehearsal"


def test_every_stage_ran_and_the_image_stands(person: Person, golden: Any) -> None:
    assert golden["name"] == NAME
    assert golden["built"] == STAGES
    path = Path(golden["image"]["disk"])
    qemu_img.check(path)
    assert qemu_img.info(path, "qcow2").backing is None
    sums = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=path.parent, capture_output=True, check=False)
    assert sums.returncode == 0, sums.stdout
    assert (path.parent.parent / "latest").resolve() == path.parent


def test_manifest_holds_every_input_and_no_secret(person: Person, golden: Any) -> None:
    path = Path(golden["image"]["disk"])
    manifest = json.loads((path.parent / "manifest.json").read_text())
    assert manifest["rehearsal"] is True
    assert set(manifest["stages"]) == set(STAGES) - {"publish"}
    assert all(len(stage["digest"]) == 64 for stage in manifest["stages"].values())
    twins = manifest["verified"]["twins"]
    for name in ("machine_id", "hostname", "mac"):
        assert twins["twin-a"][name] != twins["twin-b"][name]
    assert not set(twins["twin-a"]["host_keys"]) & set(twins["twin-b"]["host_keys"])
    # The self-test constants of libgnutls are on every Debian.
    (kept,) = manifest["verified"]["private_keys"]
    assert "/libgnutls.so." in kept["path"]
    assert kept["source"].startswith("libgnutls")
    assert kept["keys"] > 0
    store = person.folder / "artifacts" / ".store"
    password = next((store / "secrets").glob("*.password")).read_text().strip()
    for written in [path.parent, *(person.folder / "artifacts" / "runs").iterdir()]:
        for file in (file for file in written.rglob("*") if file.is_file() and file.suffix != ".qcow2"):
            data = file.read_bytes()
            assert password.encode() not in data, file
            assert b"$6$" not in data, file


def test_bill_of_materials_and_provenance_are_beside_the_image(person: Person, golden: Any) -> None:
    path = Path(golden["image"]["disk"]).parent
    bill = (path / images.SBOM).read_bytes()
    assert sbom_check.fault(bill, golden["image"]["sha256"]) is None
    manifest = json.loads((path / images.MANIFEST).read_text())
    packages = set(manifest["verified"]["twins"]["twin-a"]["packages"])
    assert {f"{one['name']} {one['version']}" for one in json.loads(bill)["components"]} == packages
    envelope = json.loads((path / images.PROVENANCE).read_bytes())
    assert envelope["signatures"] == []
    text = base64.b64decode(envelope["payload"]).decode()
    password = next((person.folder / "artifacts" / ".store" / "secrets").glob("*.password")).read_text().strip()
    assert password not in text
    assert "$6$" not in text
    told = json.loads(text)
    made_from = told["predicate"]["buildDefinition"]["resolvedDependencies"]
    materials = {one["name"]: one["digest"]["sha256"] for one in made_from}
    assert manifest["stages"]["fetch"]["inputs"]["sha256"] in materials.values()
    assert {"kickstart.cfg", "recipes/centos7-minimal"} <= materials.keys()
    (proof,) = person.json("images", "verify", NAME)
    assert proof["good"]
    assert [line.split(" (")[0] for line in proof["skipped"]] == [f"{images.PROVENANCE}: nobody signed it"]


def test_what_holds_the_hash_is_gone_once_it_is_sealed(person: Person, golden: Any) -> None:
    objects = person.folder / "artifacts" / ".store" / "objects"
    left = {json.loads((path / "stage.json").read_text())["stage"] for path in objects.iterdir()}
    # test_clone leaves a warm state where both run in one session.
    assert left - {"warm"} == {"fetch", "seal", "verify", "publish"}


def test_second_run_has_nothing_to_do(person: Person, golden: Any) -> None:
    again = person.json("run", "centos7-minimal", "--media", "medium.iso")
    assert again["built"] == []
    assert again["image"] == golden["image"]
    assert {row["action"] for row in again["stages"]} <= {"reuse", "not needed"}


def test_a_changed_variable_is_named_and_the_medium_reused(person: Person, golden: Any) -> None:
    changed = ["--media", "medium.iso", "--set", "kickstart.vars.timezone=Europe/Berlin"]
    rows = {row["stage"]: row for row in person.json("plan", "centos7-minimal", *changed)["stages"]}
    assert rows["fetch"]["action"] == "reuse"
    assert {name for name, row in rows.items() if row["action"] == "run"} == set(STAGES) - {"fetch"}
    assert "timezone" in rows["kickstart"]["reason"]


def test_another_file_that_may_hold_keys_is_a_matter_of_the_proof_alone(person: Person, golden: Any) -> None:
    changed = ["--media", "medium.iso", "--set", "verify.allow_private_keys=[/opt/app/dev.pem]"]
    rows = {row["stage"]: row for row in person.json("plan", "centos7-minimal", *changed)["stages"]}
    assert [name for name, row in rows.items() if row["action"] == "run"] == ["verify", "publish"]
    assert "allow_private_keys" in rows["verify"]["reason"]


def test_an_image_over_its_budget_fails_and_the_published_one_stands(person: Person, golden: Any) -> None:
    words = ["run", "centos7-minimal", "--media", "medium.iso", "--set", "budget.packages=5", "--json"]
    done = person.run(*words)
    assert done.returncode == 6, done.stderr
    told = json.loads(done.stdout)
    assert told["error"]["brief"] == "the image exceeds its budget: packages"
    assert person.json("images", "show", NAME)["version"] == golden["image"]["version"]
    # Nothing was built again to find it out, and a budget that suffices publishes the same version.
    assert person.json(*words[:-2], "budget.packages=5000")["built"] == ["publish"]
    assert person.json("run", "centos7-minimal", "--media", "medium.iso")["image"] == golden["image"]


# Publishes an empty disk as a version of an image (folder, name), a year older than it is.
OLDER = """\
import json, sys
from pathlib import Path
from builder import images
from builder.vm import qemu_img
folder, name = Path(sys.argv[1]), sys.argv[2]
qemu_img.create(folder / "older.qcow2", 1 << 20, "qcow2")
made = images.publish(folder / "images", name, {f"{name}.qcow2": folder / "older.qcow2"}, {})
path = made.path / images.MANIFEST
told = json.loads(path.read_bytes()) | {"created": "2020-01-01T00:00:00+00:00"}
path.chmod(0o644)
path.write_text(json.dumps(told))
print(made.version)
"""


def test_a_version_that_was_rolled_back_from_waits_for_its_release(person: Person, golden: Any) -> None:
    artifacts, version = person.folder / "artifacts", golden["image"]["version"]
    unchanged = ["run", "centos7-minimal", "--media", "medium.iso"]
    script = [*person.command()[:-2], "-c", OLDER, str(artifacts), NAME]
    older = subprocess.run(
        script, cwd=person.folder, env=person.environment, capture_output=True, text=True, check=True
    ).stdout.strip()

    def latest() -> str:
        return str((artifacts / "images" / NAME / "latest").readlink())

    assert person.json(*unchanged)["built"] == ["publish"]
    assert latest() == version
    assert person.json("images", "rollback", NAME)["held_version"] == version
    assert latest() == older
    assert person.json(*unchanged)["built"] == []
    assert latest() == older
    assert person.json("images", "release", NAME)["latest"]
    assert latest() == version
    removed = person.json("images", "prune", NAME, "--keep", "1")["removed"]
    assert [one["version"] for one in removed] == [older]


def test_a_rehearsal_never_answers_to_the_real_name(person: Person, golden: Any) -> None:
    done = person.run("images", "show", "centos7-minimal")
    assert done.returncode == 7
    assert NAME in done.stderr


def wait_for(process: subprocess.Popen[bytes], log: Path, words: str, within: float = 180) -> None:
    """Until the run has said the words."""

    def said() -> bool | None:
        return True if words in log.read_text(errors="replace") or process.poll() is not None else None

    retry.until(said, within=within, every=0.1)
    assert words in log.read_text(errors="replace"), log.read_text(errors="replace")[-3000:]


def machines_of(person: Person) -> list[int]:
    """QEMU processes that run from this person's store (under qemu:///system they belong to another user)."""
    word = str(person.folder).encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if b"qemu-system" in line.split(b"\0")[0] and word in line:
            found.append(int(entry.name))
    return found


def kill_in(person: Person, stage: str, *words: str) -> None:
    """Start a run, SIGKILL it while a machine of the stage runs, and see that nothing stays."""
    log = person.folder / f"killed-in-{stage}.log"
    process = person.start("run", "centos7-minimal", "--media", "medium.iso", *words, log=log)
    try:
        wait_for(process, log, f"{stage}: ")
        retry.until(lambda: machines_of(person) or None, within=60, every=0.1)
        assert machines_of(person)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    retry.until(lambda: None if machines_of(person) else True, within=5)
    assert machines_of(person) == []


def test_kill_9_in_verify_leaves_no_machine_and_the_published_image_as_it_was(person: Person, golden: Any) -> None:
    path = Path(golden["image"]["disk"])

    def state() -> tuple[int, ...]:
        """All but when it was read."""
        found = path.stat()
        return found.st_ino, found.st_mode, found.st_nlink, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    before = state()
    kill_in(person, "verify", "--rebuild", "verify")
    assert state() == before
    again = person.json("run", "centos7-minimal", "--media", "medium.iso")
    assert again["image"] == golden["image"]
    temporary = person.folder / "artifacts" / ".store" / "tmp"
    assert list(temporary.iterdir()) == []


def test_kill_9_in_install_as_root_leaves_nothing(root_person: Person, rehearsal_iso: Path) -> None:
    (root_person.folder / "medium.iso").symlink_to(rehearsal_iso)
    kill_in(root_person, "install", "--accel", "tcg")
    rows = root_person.json("plan", "centos7-minimal", "--media", "medium.iso")["stages"]
    actions = {row["stage"]: row["action"] for row in rows}
    # What was finished before the kill is not done again.
    assert [name for name in STAGES if actions[name] == "run"] == STAGES[3:]


def test_interrupt_in_install_undoes_everything(root_person: Person, rehearsal_iso: Path) -> None:
    log = root_person.folder / "interrupted.log"
    process = root_person.start("run", "centos7-minimal", "--media", str(rehearsal_iso), log=log)
    wait_for(process, log, "install: ")
    retry.until(lambda: machines_of(root_person) or None, within=60, every=0.1)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 130
    assert machines_of(root_person) == []
    assert list((root_person.folder / "artifacts" / ".store" / "tmp").iterdir()) == []
