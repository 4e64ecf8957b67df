"""The wheel holds everything: installed alone into an empty environment, builder works in an empty folder."""

from __future__ import annotations

import email
import json
import os
import site
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.packaging.conftest import ROOT

SHARED = ("pipelines", "kickstarts", "keys")
Run = Callable[..., subprocess.CompletedProcess[str]]


def files(folder: Path) -> set[str]:
    """Every file below a folder that belongs to the project."""
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)) for path in found}


def test_every_file_is_in_it(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("builder/")}
    wanted = {f"builder/{name}" for name in files(ROOT / "builder")}
    wanted |= {f"builder/share/{kind}/{name}" for kind in SHARED for name in files(ROOT / kind)}
    assert held == wanted
    assert {"builder/py.typed", "builder/system/packages.txt", "builder/rehearsal/finish.sh"} <= held


def test_what_it_says_of_itself_is_public(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    name = next(name for name in archive.namelist() if name.endswith("/METADATA"))
    told = email.message_from_bytes(archive.read(name))
    assert told["License-Expression"] == "Apache-2.0 AND GPL-2.0-only"
    assert told.get_all("License-File") == ["LICENSE", "LICENSES/GPL-2.0-only.txt"]
    assert told["Author"] == "builder maintainers"
    assert told.get_all("Project-URL") is None
    assert "Typing :: Typed" in (told.get_all("Classifier") or ())


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty environment with the wheel; libraries come from that of the tests, builder itself does not."""
    folder = tmp_path_factory.mktemp("environment")
    quiet = {"capture_output": True, "check": True, "timeout": 120}
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], **quiet)  # type: ignore[call-overload]
    python = folder / "bin/python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel]
    subprocess.run(pip, **quiet)  # type: ignore[call-overload]
    (own,) = (folder / "lib").glob("python*/site-packages")
    # A folder that is named in a .pth file is searched, but .pth files in it (such as builder's own) do not count.
    (own / "libraries.pth").write_text("".join(f"{path}\n" for path in site.getsitepackages()))
    return folder


@pytest.fixture
def run(environment: Path) -> Iterator[Run]:
    """Run the program `builder` of that environment in an empty folder."""
    with tempfile.TemporaryDirectory() as name:
        empty = Path(name)

        def start(*words: str, program: str = "builder") -> subprocess.CompletedProcess[str]:
            # Beside the Python of the tests: ksvalidator.
            path = [environment / "bin", Path(sys.executable).parent, "/usr/sbin", "/usr/bin"]
            return subprocess.run(
                [environment / "bin" / program, *words],
                cwd=empty,
                env={
                    "PATH": os.pathsep.join(map(str, path)),
                    "HOME": name,
                    "XDG_CONFIG_DIRS": name,
                    "BUILDER_ARTIFACTS": "artifacts",
                },
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )

        yield start


def document(done: subprocess.CompletedProcess[str]) -> Any:
    """The JSON that a command printed."""
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def test_it_works_alone_in_an_empty_folder(environment: Path, run: Run) -> None:
    where = run("-c", "import builder; print(builder.__file__)", program="python").stdout
    assert Path(where).is_relative_to(environment)
    assert "centos7-minimal" in [each["name"] for each in document(run("pipelines", "--json"))]
    rendered = run("kickstart", "render", "centos7-minimal")
    assert (rendered.returncode, "%packages" in rendered.stdout) == (0, True), rendered.stderr
    planned = document(run("plan", "centos7-minimal", "--json"))
    assert [stage["action"] for stage in planned["stages"]] == ["run"] * 7
    checked = document(run("host", "check", "--json"))
    assert {"programs", "rehearsal"} <= {row["name"] for row in checked["rows"]}
