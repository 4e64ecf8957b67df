"""Fixtures of the unit tests: a folder with pipelines, and builder as a program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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


@pytest.fixture
def builder(tmp_path: Path) -> Callable[..., Ran]:
    """Run `python -m builder` in `tmp_path`, 80 columns wide, with nothing of the caller's settings."""

    def run(*words: str, **environment: str) -> Ran:
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        source = Path(__file__).parents[2]
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "builder", *words],
            cwd=tmp_path,
            env={
                **kept,
                "COLUMNS": "80",
                "HOME": str(home),
                "XDG_CONFIG_DIRS": str(home),
                # Below pytest's directory, which is closed to others, root would be sent elsewhere.
                "BUILDER_ARTIFACTS": "artifacts",
                "PYTHONPATH": str(source),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Ran(done.args, done.returncode, done.stdout, done.stderr)

    return run
