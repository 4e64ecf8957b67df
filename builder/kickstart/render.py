"""Kickstart templates: collected with what they include, checked, rendered, and the result linted.

Invariant: a kickstart is rendered from template texts and variables alone, the same bytes every time; see `sandbox` for
what a template may do.

Values were checked by `builder.recipe` before they come here, so that none can break out of its line.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta

from builder.errors import HostError, RecipeError
from builder.kickstart import sandbox
from builder.recipe import text_faults
from builder.settings import inside
from builder.system import process

# What builder gives a template beside the recipe's variables.
OWN_VARIABLES = frozenset({"root_crypt", "disk_serial", "token", "parts"})

# Seconds to wait for a rendering on a busy host; what it may use of the processor is less.
LONGEST = 120.0
PROGRAM = (sys.executable, "-P", "-m", sandbox.__name__)
RAW = "what is not meant for the template engine goes between {% raw %} and {% endraw %}"


def collect(template: str, search: Sequence[Path]) -> dict[str, str]:
    """The template and everything it includes, as texts by name.

    Args:
        template: file name in one of the `search` folders, e.g. `centos7-minimal.ks.j2`.
        search: first match wins, for every included file anew.

    Raises:
        RecipeError: a file is missing (near names are given), or the syntax is wrong (with file and line).
    """
    texts: dict[str, str] = {}
    wanted = [template]
    environment = sandbox.environment()
    while wanted:
        name = wanted.pop()
        if name in texts:
            continue
        texts[name] = _read(name, search)
        try:
            _refuse_shell_lengths(environment, name, texts[name])
            parsed = environment.parse(texts[name])
        except jinja2.TemplateSyntaxError as error:
            raise RecipeError(f"kickstarts/{name}:{error.lineno}: {error.message}", hint=RAW) from None
        except RecursionError:
            raise RecipeError(f"kickstarts/{name} is nested too deeply") from None
        wanted += [found for found in jinja2.meta.find_referenced_templates(parsed) if found]
    return texts


def _refuse_shell_lengths(environment: jinja2.Environment, name: str, text: str) -> None:
    """Refuse `${#…}`: for Jinja `{#` opens a comment, which swallows all up to the next `#}`.

    Raises:
        RecipeError: with file and line of the first one outside a raw block.
    """
    before = ""
    for line, kind, value in environment.lex(text):
        if kind == "comment_begin" and before.endswith("$"):
            found = f"kickstarts/{name}:{line}: ${{# would open a comment of the template"
            raise RecipeError(found, text.splitlines()[line - 1].strip(), RAW)
        before = value


def _read(name: str, search: Sequence[Path]) -> str:
    outside: list[Path] = []
    for folder in search:
        path = folder / name
        # A name such as ../../etc/passwd leaves the folder, and so may a link.
        if inside(folder, name) is None:
            outside.append(path)
        elif path.is_file():
            try:
                # DOS line endings become plain ones here.
                text = path.read_text(encoding="utf-8")
            except UnicodeDecodeError as fault:
                line = path.read_bytes()[: fault.start].count(b"\n") + 1
                raise RecipeError(f"{path}:{line}: not UTF-8", str(fault), "save the template as UTF-8") from None
            _require_plain(text, path)
            return text
    for path in outside:
        if path.exists():
            raise RecipeError(
                f"no kickstart template {name}: it leads out of its folder", str(path), "copy the file there"
            )
    known = sorted({found.name for folder in search for found in folder.glob("*.ks.j2")})
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"templates found: {', '.join(known) or 'none'}"
    raise RecipeError(f"no kickstart template {name}", f"looked in {', '.join(map(str, search))}", hint)


def variables_of(texts: Mapping[str, str]) -> frozenset[str]:
    """Names of the variables that the template texts want from a recipe.

    Args:
        texts: by name; the first is the one that errors name.

    Raises:
        RecipeError: finding them takes too long or too much memory.
        HostError: the process for it cannot be started.
    """
    entry = next(iter(texts), "")
    return _variables(_told(entry, _ask(entry, {"texts": dict(texts), "entry": None, "names": True})))


def _variables(answer: Mapping[str, Any]) -> frozenset[str]:
    # A loop variable or a `set` of one file is declared there, and never asked of the recipe.
    return frozenset(answer["variables"]) - OWN_VARIABLES


def check_variables(texts: Mapping[str, str], given: Mapping[str, object]) -> None:
    """Say which variables are unknown or missing.

    Raises:
        RecipeError: naming each of them, with a near name where there is one.
    """
    _require_wanted(variables_of(texts), given)


def _require_wanted(wanted: frozenset[str], given: Mapping[str, object]) -> None:
    lines = []
    for name in sorted(set(given) - wanted):
        near = difflib.get_close_matches(name, wanted, n=1)
        lines.append(
            f"kickstart.vars.{name} is not used by the template" + (f"; did you mean {near[0]}?" if near else "")
        )
    lines += [f"kickstart.vars.{name} is needed by the template" for name in sorted(wanted - set(given))]
    if lines:
        raise RecipeError("the recipe's variables do not fit its template", "\n".join(lines))


def render(
    texts: Mapping[str, str],
    entry: str,
    variables: Mapping[str, object],
    *,
    given: Mapping[str, object] | None = None,
) -> str:
    """Render the template `entry`, which may include the other `texts`.

    Args:
        given: those of the variables that a recipe gave; they have to be the ones that the template wants, as
            `check_variables` has it.

    Raises:
        RecipeError: a variable is missing or the template fails, with its file and line; or it takes too long or too
            much memory.
        HostError: the process for it cannot be started.
    """
    wanted = {"texts": dict(texts), "entry": entry, "variables": dict(variables), "names": given is not None}
    answer = _ask(entry, wanted)
    if given is not None and "variables" in answer:
        _require_wanted(_variables(answer), given)
    return str(_told(entry, answer)["text"])


def _ask(entry: str, wanted: Mapping[str, object]) -> dict[str, Any]:
    """Have the process for templates do something, and return what it answers, a fault of the template, too."""
    request = json.dumps({**wanted, "seconds": sandbox.SECONDS})
    done = process.run(PROGRAM, stdin=request, check=False, timeout=LONGEST, error=RecipeError)
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        if done.status >= 0 and "MemoryError" not in done.stderr:
            raise HostError("the process that renders templates cannot be started", done.error_text) from None
        limits = f"{sandbox.SECONDS} s of processor time and {sandbox.MEMORY >> 20} MiB"
        hint = "is there a loop or a number without a bound in it?"
        raise RecipeError(f"kickstarts/{entry} takes more than {limits} to render", done.error_text, hint) from None
    return answer


def _told(entry: str, answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the answer, unless it is a fault, which is raised."""
    if "why" in answer:
        raise RecipeError(f"{answer['where'] or f'kickstarts/{entry}'}: {answer['why']}", hint=RAW)
    return answer


def _require_plain(text: str, path: Path) -> None:
    if fault := text_faults.of_kickstart(text):
        raise RecipeError(f"{path} {fault.what}", fault.why, fault.command(path))
