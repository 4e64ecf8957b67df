"""A host with Debian's packages and no checkout: the wheel and its dependencies make an image from both media."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.packaging.conftest import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.vm, pytest.mark.timeout(14400)]
NAME = "centos7-minimal-rehearsal"
# Nothing here is about time: a host that is busy with other machines may take longer than the recipe grants.
PATIENT = ("--set", "limits.install=2h", "--set", "limits.quiet=30m", "--set", "limits.boot=30m")


@pytest.fixture(scope="module")
def host(wheel: Path) -> Iterator[Path]:
    """A folder that QEMU's user reaches, with an environment in it that pip has made out of the wheel alone."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="builder-wheel-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        # The versions that are tested, without their hashes: pip knows none of the wheel.
        pinned = folder / "constraints.txt"
        pinned.write_text("\n".join(re.findall(r"^[\w.-]+==[\w.]+", (ROOT / "constraints.txt").read_text(), re.M)))
        subprocess.run([sys.executable, "-m", "venv", str(folder / "env")], check=True, timeout=120)
        pip: list[str | Path] = [folder / "env/bin/pip", "install", "--quiet", "-c", pinned, wheel]
        subprocess.run(pip, check=True, timeout=600)
        yield folder


def builder(host: Path, folder: Path, *words: str | Path) -> Any:
    """Run builder in a folder and return the document that it printed."""
    folder.mkdir(exist_ok=True)
    environment = {"PATH": f"{host}/env/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(host), "LANG": "C.UTF-8"}
    done = subprocess.run(
        [host / "env/bin/builder", "--artifacts", folder / "artifacts", *words, "--json"],
        cwd=folder,
        env=environment | {name: text for name, text in os.environ.items() if name == "XDG_RUNTIME_DIR"},
        capture_output=True,
        text=True,
        timeout=5400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def test_both_media_make_a_rehearsal(host: Path) -> None:
    here, there = host / "here", host / "there"
    made = builder(host, here, "run", "centos7-minimal", "--media", "rehearsal", *PATIENT)
    assert made["name"] == NAME
    # What was built for the run is written, not built again; another host takes it as what it is.
    medium = host / "medium.iso"
    written = builder(host, here, "media", "rehearsal", "--output", medium)
    assert (written["is_rehearsal"], written["file_size"]) == (True, medium.stat().st_size)
    carried = builder(host, there, "run", "centos7-minimal", "--media", medium, *PATIENT)
    assert carried["name"] == NAME
    manifest = json.loads((Path(carried["image"]["disk"]).parent / "manifest.json").read_text())
    assert manifest["rehearsal"] is True
    assert [each["name"] for each in builder(host, there, "images", "list")] == [NAME]
