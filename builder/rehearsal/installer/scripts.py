# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""Run the scripts of a kickstart; the output is written at once, when all that a script started has ended."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import log, program
from .disk.storage import ROOT


class ScriptError(Exception):
    """A script with --erroronfail failed.

    Args:
        lineno: of its header in the kickstart.
        output: what it said.
    """

    def __init__(self, lineno: int, output: str) -> None:
        super().__init__(f"script at line {lineno}")
        self.lineno, self.output = lineno, output


def run(script: Any, root: Path | None) -> None:
    """Run one script.

    Args:
        root: the new root, for a script that is chrooted.

    Raises:
        ScriptError: it failed and asked for that to matter.
    """
    folder = (root or Path("/")) / "tmp"
    with tempfile.NamedTemporaryFile("w", prefix="ks-script-", dir=folder, delete=False) as file:
        file.write(script.script)
    path = Path(file.name)
    path.chmod(0o700)
    inside = f"/tmp/{path.name}"
    if script.logfile:
        where = (root or Path("/")) / str(script.logfile).lstrip("/")
        where.parent.mkdir(parents=True, exist_ok=True)
    else:
        where = Path("/tmp") / f"{path.name}.log"
    log.info("program", f"Running... {script.interp} {inside}")
    status, output = program.script(script.interp, inside, root)
    where.write_text(output)
    if output.strip():
        log.info("program", output.rstrip())
    path.unlink(missing_ok=True)
    if status != 0:
        log.error("anaconda", f"Error code {status} running the kickstart script at line {script.lineno}")
        if script.errorOnFail:
            raise ScriptError(script.lineno, output)


def run_all(scripts: list[Any], say: Callable[[str], None], title: str) -> None:
    """Run scripts of one kind in order; those marked for it in the new root.

    Raises:
        ScriptError: see `run`; later scripts do not run.
    """
    if not scripts:
        return
    say(title)
    for script in scripts:
        run(script, ROOT if script.inChroot else None)


def run_quietly(scripts: list[Any]) -> None:
    """Run what a kickstart has for a failure, in the installer's own root; no failure of it matters."""
    for script in scripts:
        try:
            run(script, None)
        except (ScriptError, OSError) as error:
            log.error("anaconda", str(error))


def copy_logs(nosave: frozenset[str], kickstart: Path) -> None:
    """Leave Anaconda's traces in the new system: this comes after the last %post, which so cannot remove them."""
    if "logs" not in nosave and not Path("/tmp/NOSAVE_LOGS").exists():
        folder = ROOT / "var/log/anaconda"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in Path("/tmp").glob("*.log"):
            shutil.copyfile(path, folder / path.name)
    if "input_ks" not in nosave and not Path("/tmp/NOSAVE_INPUT_KS").exists():
        shutil.copyfile(kickstart, ROOT / "root/original-ks.cfg")
        (ROOT / "root/original-ks.cfg").chmod(0o600)


def write_result(nosave: frozenset[str], kickstart: Path) -> None:
    """Leave the kickstart as it was carried out; it holds the password's hash."""
    if "output_ks" not in nosave:
        shutil.copyfile(kickstart, ROOT / "root/anaconda-ks.cfg")
        (ROOT / "root/anaconda-ks.cfg").chmod(0o600)
