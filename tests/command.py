"""Fixtures of the unit tests: a folder with pipelines, and builder's command line in this process or as a program."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder.cli import main

RECIPE = """\
name: small
media:
  sources:
    - sha256: {sha}
      urls: [http://mirror.invalid/small.iso]
kickstart:
  template: small.ks.j2
  vars:
    timezone: UTC
machine:
  memory: 1GiB
  firmware: bios
limits: {{install: 20m, quiet: 5m, boot: 2m}}
verify:
  checks:
    - {{name: it runs, run: "true"}}
publish:
  keep: 3
"""


@pytest.fixture
def recipe_text() -> str:
    """A recipe without a fault, named `small`."""
    return RECIPE.format(sha="ab" * 32)


@pytest.fixture
def pipelines(tmp_path: Path, recipe_text: str) -> Path:
    """A folder `pipelines` that holds `small.yaml`, inside `tmp_path`."""
    folder = tmp_path / "pipelines"
    folder.mkdir()
    (folder / "small.yaml").write_text(recipe_text)
    return folder


class Ran(subprocess.CompletedProcess[str]):
    """A finished builder with its two outputs."""

    def document(self) -> Any:
        """The one JSON document on standard output."""
        return json.loads(self.stdout)


def environment(tmp_path: Path, more: dict[str, str]) -> dict[str, str]:
    """The environment of a builder in `tmp_path`, 80 columns wide, with nothing of the caller's settings."""
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    return {
        **{name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ},
        "COLUMNS": "80",
        "HOME": str(home),
        "XDG_CONFIG_DIRS": str(home),
        # Below pytest's directory, which is closed to others, root would be sent elsewhere.
        "BUILDER_ARTIFACTS": "artifacts",
        "PYTHONPATH": str(Path(__file__).parents[1]),
        **more,
    }


@pytest.fixture
def builder(tmp_path: Path) -> Callable[..., Ran]:
    """Run builder's `main` in this process, in `tmp_path`."""

    def run(*words: str, **more: str) -> Ran:
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
        with pytest.MonkeyPatch.context() as patch:
            chosen = environment(tmp_path, more)
            for name in os.environ.keys() - chosen.keys():
                patch.delenv(name)
            for name, value in chosen.items():
                patch.setenv(name, value)
            patch.chdir(tmp_path)
            patch.setattr(sys, "argv", ["builder", *words])
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            code = main.main()
        return Ran(words, code, *(stream.buffer.getvalue().decode() for stream in (out, err)))

    return run


@pytest.fixture
def builder_process(tmp_path: Path) -> Callable[..., Ran]:
    """Run `python -m builder` in `tmp_path`."""

    def run(*words: str, **more: str) -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "builder", *words],
            cwd=tmp_path,
            env=environment(tmp_path, more),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Ran(done.args, done.returncode, done.stdout, done.stderr)

    return run
