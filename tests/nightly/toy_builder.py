"""The whole command line of builder over stages that write a few bytes: `python -P toy_builder.py nightly …`.

The variables of its recipe control a toy build: `behave` is one of the words in `_install` or anything else, `size` the
image's bytes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from builder import images
from builder.cli import main as command_line
from builder.cli import run as run_command
from builder.errors import InstallError, MediumError
from builder.nightly import worker
from builder.pipeline import pipelines
from builder.recipe.build_spec import BuildSpec
from builder.stage import Inputs, Job, Stage
from builder.stages import publish
from builder.store.objects import recorded
from tests.fakes.qcow2 import qcow2
from tests.nightly.pictures import red_square
from tests.rewording import rewrite_all

# An escape code and a character that the terminal emulator raises on, bytes that are no text, heaped marks.
HOSTILE = (
    b"\x1b[?1m"
    + "\u3042\rx\r\n".encode()
    + b"\xff\xed\xb0\x80\x00\x1b]0;"
    + "a\u0301\u0301".encode() * 999
    + b"\x07\r\n"
)


class Named(Inputs):
    """Under which name."""

    name: str


class KickstartInputs(Inputs):
    """What decides the toy image."""

    vars: dict[str, Any]
    firmware: str


class Nothing(Inputs):
    """No inputs of its own."""


def _kickstart(job: Job[Any]) -> None:
    (job.out / "kickstart.json").write_text(job.inputs.model_dump_json())


def _diary(job: Job[Any], text: str) -> None:
    """One line, appended in one write, so that many builds may do it."""
    handle = os.open(job.paths.artifacts / "diary", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{text}\n".encode())
    os.close(handle)


def _install(job: Job[Any]) -> None:
    given = json.loads((job.needs["kickstart"] / "kickstart.json").read_text())["vars"]
    behave = given.get("behave", "")
    _diary(job, f"{os.getpid()} {os.getpgrp()} {given.get('hostname')} {behave}")
    job.progress.note("a <b>note</b>")
    match behave:
        case "fail":
            (job.evidence / "console.log").write_bytes(b"booting\r\n<script>alert(1)</script>\r\nPane is dead\r\n")
            (job.evidence / "screenshot.png").write_bytes(red_square())
            raise InstallError("the installer ended by itself", "Pane is dead\n]]> \x1b[31m", "see the console")
        case "hostile":
            (job.evidence / "console.log").write_bytes(HOSTILE + b"Pane is dead\r\n")
            raise InstallError("the installer ended by itself", "no such file: /x/\udcff", "see the console")
        case "raise":
            raise LookupError("a bug, \udcff")
        case "medium":
            raise MediumError("no mirror gave the install medium", "nothing answers", "--media FILE")
        case "wait" if not (job.paths.artifacts / "calm").exists():
            try:
                # Waits for a signal, or for the test to be calm: the test ends the night.
                for _ in range(600):
                    if not (job.paths.artifacts / "calm").exists():
                        threading.Event().wait(0.1)
            finally:
                _diary(job, "undone")
        case "environment":
            (job.paths.artifacts / "environment").write_text("\n".join(os.environ))
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
    (job.out / "disk").write_bytes(qcow2(str(sorted(given.items())).encode() * int(given.get("size", 10))))


def _publish(job: Job[Any]) -> None:
    name = job.inputs.name
    answers = json.loads((job.needs["kickstart"] / "kickstart.json").read_text())
    hostname = answers["vars"].get("hostname", "one")
    twin = {"boot_seconds": 10 + len(hostname), "packages": ["core 1", f"tree {len(hostname)}"], "release": "toy"}
    image = images.publish(
        job.paths.images,
        name,
        {f"{name}.qcow2": job.needs["install"] / "disk"},
        {"run": job.run_id, "verified": {"twins": {"twin-a": twin}}},
        {f"{name}.qcow2": recorded(job.needs["install"]).files["disk"].sha256 or ""},
    )
    record = {"name": image.name, "version": image.version, "path": str(image.disk), "sha256": image.sha256}
    (job.out / publish.FILE).write_text(json.dumps(record))


def _kickstart_inputs(spec: BuildSpec) -> KickstartInputs:
    return KickstartInputs(vars=dict(spec.recipe.kickstart.vars), firmware=spec.recipe.machine.firmware)


STAGES = (
    Stage("kickstart", 1, (), _kickstart_inputs, _kickstart, "write the kickstart"),
    Stage("install", 1, ("kickstart",), lambda _: Nothing(), _install, "install"),
    Stage(
        "publish",
        1,
        ("kickstart", "install"),
        lambda order: Named(name=order.name),
        _publish,
        "publish",
        why_stale=publish.why_stale,
    ),
)

if __name__ == "__main__":
    pipelines.STAGES = STAGES
    if os.environ.get("REWORDED"):
        rewrite_all()
    worker.BUILDER = (sys.executable, "-P", __file__)
    run_command._look_at_host = lambda *_: ""
    sys.exit(command_line.main())
