"""The template engine for texts that a recipe brings: its environment, and the program that renders them.

Invariant: a template computes text and nothing else. Attributes that lead to Python itself are refused by Jinja's
sandbox, and a process of its own with limits of the kernel renders it: whatever it does, it ends soon and small. The
same process lists a template's variables, for Jinja computes constants (`9**9**9`) on the way to them.
"""

from __future__ import annotations

import json
import resource
import sys
import traceback
from collections.abc import Mapping
from typing import Any

import jinja2
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

# Templates are named so in errors.
PREFIX = "kickstarts/"
# Bytes of address space and seconds of processor time for one rendering: a kickstart takes 0.1 s.
MEMORY = 512 << 20
SECONDS = 10


def environment(texts: Mapping[str, str] | None = None) -> jinja2.Environment:
    """Make an environment; `texts` are the templates by name."""
    known = texts or {}

    def load(name: str) -> tuple[str, str, None] | None:
        return (known[name], PREFIX + name, None) if name in known else None

    return ImmutableSandboxedEnvironment(
        loader=jinja2.FunctionLoader(load),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )


def fault_of(error: Exception) -> dict[str, str]:
    """Describe what went wrong in a template: its file and line, and a text for people."""
    where = ""
    if isinstance(error, jinja2.TemplateSyntaxError):
        where = f"{PREFIX}{error.name}:{error.lineno}" if error.name else ""
    else:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(PREFIX)]
        where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    texts = {
        MemoryError: f"it takes more than {MEMORY >> 20} MiB of memory",
        RecursionError: "it is nested too deeply, or includes itself",
    }
    known = next((text for kind, text in texts.items() if isinstance(error, kind)), "")
    return {"where": where, "why": known or str(error) or type(error).__name__}


def variables_of(texts: Mapping[str, str]) -> list[str]:
    """Return the names that the templates expect to be given, sorted."""
    trees = [environment().parse(text) for text in texts.values()]
    return sorted({name for tree in trees for name in jinja2.meta.find_undeclared_variables(tree)})


def _answer(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The names of variables where they are asked for, and the text that was asked for or why there is none."""
    names = {"variables": variables_of(wanted["texts"])} if wanted["names"] else {}
    if wanted["entry"] is None:
        return names
    try:
        text = environment(wanted["texts"]).get_template(wanted["entry"]).render(wanted["variables"])
    except Exception as error:
        return {**names, **fault_of(error)}
    return {**names, "text": text}


def main() -> int:
    """Do what standard input asks for, and write the names of variables, the text or the fault as JSON.

    `entry` is the template to render, or None; `names` asks for the variables of all texts.
    """
    wanted = json.load(sys.stdin)
    # Before anything of the template runs; a core file would hold the password's hash.
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CPU, wanted["seconds"]),
    ):
        resource.setrlimit(kind, (most, most))
    try:
        written = json.dumps(_answer(wanted))
    except Exception as error:
        written = json.dumps(fault_of(error))
    sys.stdout.write(written)
    return 0


if __name__ == "__main__":
    sys.exit(main())
