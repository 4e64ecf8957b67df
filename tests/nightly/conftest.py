"""A folder with toy recipes, and nightly runs in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

TOY = Path(__file__).with_name("toy_builder.py")
RECIPE = """\
name: {name}
media:
  sources: [{{sha256: "{sha256}", urls: ["http://127.0.0.1:9/toy.iso"]}}]
kickstart: {{template: {name}.ks.j2, vars: {vars}}}
{more}
"""


@dataclass(frozen=True)
class Place:
    """A folder in which toy images are built."""

    folder: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    def recipe(self, name: str, more: str = "", **values: Any) -> None:
        """Write a recipe; `values` are its kickstart's variables."""
        given = {"hostname": name, **values}
        template = "text\nreqpart\n" + "".join(f"# {{{{ {one} }}}}\n" for one in given)
        (self.folder / "kickstarts" / f"{name}.ks.j2").write_text(template)
        text = RECIPE.format(name=name, sha256="0" * 64, vars=json.dumps(given), more=more)
        (self.folder / "pipelines" / f"{name}.yaml").write_text(text)

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-P", str(TOY), *words]

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "HOME": str(self.folder),
            "COLUMNS": "80",
            "PYTHONDONTWRITEBYTECODE": "1",
            **self.variables,
        }

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def night(self, *words: str, code: int = 0) -> dict[str, Any]:
        """A night's document; it must end with this exit code."""
        done = self.run("--artifacts", str(self.artifacts), "nightly", *words, "--json")
        assert done.returncode == code, done.stderr[-4000:]
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def diary(self) -> list[str]:
        path = self.artifacts / "diary"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def place(tmp_path: Path) -> Place:
    for name in ("pipelines", "kickstarts"):
        (tmp_path / name).mkdir()
    return Place(tmp_path)


def verdicts(night: dict[str, Any]) -> dict[str, str]:
    """Verdict by name."""
    return {result["name"]: result["verdict"] for result in night["results"]}
