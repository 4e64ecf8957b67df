"""From one store to another through a registry, and root logs in: pushed, pulled, verified, cloned."""

from __future__ import annotations

import hashlib
import json
import secrets
import subprocess
from pathlib import Path
from typing import Any

import pytest

from builder import images
from tests.e2e.conftest import Person
from tests.registry.conftest import serving

pytestmark = [pytest.mark.e2e, pytest.mark.vm, pytest.mark.slow]
IMAGE = "centos7-minimal-rehearsal"


def test_a_clone_of_what_was_pushed_lets_root_in(person: Person, golden: Any, tmp_path: Path) -> None:
    name = f"far-{secrets.token_hex(3)}"
    second = ("--artifacts", "second")
    with serving(tmp_path / "registry") as registry:
        address = registry.address(":golden", f"golden/{IMAGE}")
        # Other tests may have published another version meanwhile.
        spec = f"{IMAGE}@{golden['image']['version']}"
        refused = person.run("images", "push", spec, address)
        assert (refused.returncode, "--allow-rehearsal" in refused.stderr) == (7, True)
        pushed = person.json("images", "push", spec, address, "--allow-rehearsal")
        assert pushed["tags"] == [golden["image"]["version"], "golden"]
        target = f"docker://{registry.host}/golden/{IMAGE}:golden"
        words = ["skopeo", "inspect", "--raw", "--tls-verify=false", target]
        raw = subprocess.run(words, check=True, capture_output=True).stdout
        assert pushed["digest"] == f"sha256:{hashlib.sha256(raw).hexdigest()}"
        assert person.run(*second, "images", "pull", address).returncode == 7
        try:
            (vm,) = person.json(*second, "clone", address, name, "--allow-rehearsal", "--wait", "--memory", "1GiB")
            assert (vm["image"], vm["version"]) == (IMAGE, golden["image"]["version"])
            done = person.run(*second, "vm", "ssh", name, "--", "id -u; hostname")
            assert done.stdout.split() == ["0", name], done.stderr
        finally:
            if json.loads(person.run(*second, "vm", "list", "--json").stdout):
                assert person.run(*second, "vm", "delete", name).returncode == 0
    there = images.load_image(person.folder / "second" / "images", IMAGE)
    assert (there.sha256, there.manifest["rehearsal"], there.manifest["architecture"]) == (
        golden["image"]["sha256"],
        True,
        "amd64",
    )
    (proof,) = person.json(*second, "images", "verify", IMAGE)
    assert proof["good"]
