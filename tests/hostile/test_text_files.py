"""Scripts and kickstarts with a byte order mark or line endings of DOS, refused before anything is started."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.errors import RecipeError
from builder.recipe import provision_files, text_faults
from tests.command import RECIPE, Ran, builder

__all__ = ["builder"]

KICKSTART = "text\ncdrom\nlang en_US.UTF-8\nkeyboard us\ntimezone UTC\nrootpw --lock\nautopart\npoweroff\n"
BOM = "\ufeff".encode()
SCRIPTS = {
    b"#!/bin/sh\necho a\n": "",
    b"#!/usr/bin/python3\nprint(1)\r\n": "",
    b"\x7fELF\x00\r\n": "",
    b"echo a\n": "",
    b"": "",
    b"#!/bin/sh\r\necho a\r\n": "DOS",
    b"#!/usr/bin/env python3\r\nprint(1)\r\n": "DOS",
    b"#!/bin/bash -e\necho a\r\n": "DOS",
    b"#! /usr/bin/env bash\necho a\nexit\r": "DOS",
    b"echo a\r\n": "DOS",
    BOM + b"#!/bin/sh\necho a\n": "byte order mark",
    BOM + b"#!/bin/sh\r\necho a\r\n": "byte order mark",
}


def repaired(path: Path, hint: str, folder: Path = Path("/")) -> bytes:
    """What the command of a hint, given in a folder, makes of a file."""
    assert shlex.split(hint)[-1] == str(path)
    subprocess.run(["sh", "-c", hint], check=True, cwd=folder)
    return (folder / path).read_bytes()


@pytest.mark.parametrize("data", SCRIPTS)
def test_scripts_that_a_guest_could_not_start(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "set up.sh"
    path.write_bytes(data)
    if not SCRIPTS[data]:
        provision_files.check_scripts([path.name], [tmp_path])
        return
    with pytest.raises(RecipeError, match=SCRIPTS[data]) as refused:
        provision_files.check_scripts([path.name], [tmp_path])
    assert str(path) in refused.value.brief
    if text_faults.of_script(repaired(path, refused.value.hint)) is not None:
        # Both faults: the second one is next.
        with pytest.raises(RecipeError, match="DOS") as refused:
            provision_files.check_scripts([path.name], [tmp_path])
        assert text_faults.of_script(repaired(path, refused.value.hint)) is None


def test_plan_says_it(tmp_path: Path, builder: Callable[..., Ran]) -> None:
    for folder in ("pipelines", "provision", "kickstarts"):
        (tmp_path / folder).mkdir()
    text = RECIPE.format(sha="ab" * 32) + "provision:\n  scripts: [setup.sh]\n"
    (tmp_path / "pipelines" / "small.yaml").write_text(text)
    template = tmp_path / "kickstarts" / "small.ks.j2"
    template.write_text(f"{KICKSTART}# {{{{ timezone }}}} {{{{ token }}}} {{{{ root_crypt }}}}\n")
    (tmp_path / "provision" / "setup.sh").write_bytes(b"#!/bin/sh\r\n")
    done = builder("plan", "small")
    assert (done.returncode, "setup.sh has DOS line endings" in done.stderr) == (2, True)
    (tmp_path / "provision" / "setup.sh").write_bytes(b"#!/bin/sh\n")
    template.write_bytes(BOM + template.read_bytes())
    done = builder("plan", "small")
    assert (done.returncode, "small.ks.j2 starts with a byte order mark" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("data", "message"), [(BOM, "starts with a byte order mark"), (b"\r\n", "has DOS line endings")]
)
def test_lint_says_what_inject_says(tmp_path: Path, builder: Callable[..., Ran], data: bytes, message: str) -> None:
    path = tmp_path / "a.ks"
    path.write_bytes(data + KICKSTART.encode())
    (tmp_path / "medium.iso").touch()
    assert builder("kickstart", "lint", "a.ks").returncode == 2
    done = builder("media", "inject", "medium.iso", "--kickstart=a.ks", "--output=b")
    assert (done.returncode, f"a.ks {message}" in done.stderr) == (2, True)
    hint = done.stderr.partition("hint: ")[2].strip()
    assert repaired(Path("a.ks"), hint, tmp_path).strip() == KICKSTART.encode().strip()
    assert builder("kickstart", "lint", "a.ks").returncode == 0
