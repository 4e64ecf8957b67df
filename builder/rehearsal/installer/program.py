# SPDX-License-Identifier: GPL-2.0-only
# Part of the rehearsal installer, a program of its own that runs inside the rehearsal medium.
"""Run programs; every program the installer runs is run here, and its output goes to program.log."""

from __future__ import annotations

import os
import subprocess  # noqa: TID251 - a program of its own: builder's adapters are not in the guest
from collections.abc import Sequence
from pathlib import Path

from . import log


class ProgramError(Exception):
    """A program failed.

    Args:
        argv: what was run.
        status: its exit status.
        output: everything it said.
    """

    def __init__(self, argv: Sequence[str], status: int, output: str) -> None:
        super().__init__(f"{' '.join(argv)}: exit status {status}\n{output}".strip())
        self.argv, self.status, self.output = argv, status, output


def run(
    *argv: str,
    root: Path | None = None,
    stdin: str | None = None,
    check: bool = True,
    quiet: bool = False,
    stderr: bool = True,
) -> str:
    """Run a program to its end and return its output.

    Args:
        root: run it in this new root.
        stdin: given to the program; never logged.
        check: raise when it fails.
        quiet: do not log the command (it is asked over and over).
        stderr: return the error output too.

    Raises:
        ProgramError: it failed and `check` is set.
    """
    if not quiet:
        log.info("program", f"Running... {' '.join(argv)}")
    words = ["chroot", str(root), *argv] if root else list(argv)
    done = subprocess.run(
        words,
        input=stdin,
        stdin=None if stdin is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if stderr else subprocess.DEVNULL,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
        check=False,
    )
    if done.stdout.strip() and not quiet:
        log.info("program", done.stdout.rstrip())
    if done.returncode != 0 and check:
        raise ProgramError(argv, done.returncode, done.stdout)
    if done.returncode != 0 and not quiet:
        log.write("DEBUG", "program", f"Return code: {done.returncode}")
    return done.stdout


def script(interpreter: str, path: str, root: Path | None) -> tuple[int, str]:
    """Run a kickstart script; its status and output are known only when everything it started has ended."""
    words = ["chroot", str(root), *interpreter.split(), path] if root else [*interpreter.split(), path]
    done = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/",
        env={**os.environ, "ANA_INSTALL_PATH": "/mnt/sysimage"},
        check=False,
    )
    return done.returncode, done.stdout.decode("utf-8", "replace")


def shell() -> None:
    """An interactive shell on the console, until it is left."""
    subprocess.run(["/bin/bash"], check=False)
