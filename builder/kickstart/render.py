"""Render a kickstart from template texts and variables alone, the same bytes every time, and lint it.

Values were checked by `builder.recipe` before they come here, so that none can break out of its line.
"""

from __future__ import annotations

import difflib
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jinja2
import jinja2.meta

from builder.errors import RecipeError
from builder.releases import DEFAULT, RELEASES, Release
from builder.system import process

# What builder gives a template beside the recipe's variables.
OWN_VARIABLES = frozenset({"root_crypt", "disk_serial", "token"})


@dataclass(frozen=True)
class Finding:
    """One remark of the kickstart checker; `line` is None when it named none."""

    line: int | None
    severity: Literal["error", "warning"]
    message: str

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return f"{where}{self.message}"


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
    environment = jinja2.Environment()
    while wanted:
        name = wanted.pop()
        if name in texts:
            continue
        texts[name] = _read(name, search)
        try:
            parsed = environment.parse(texts[name])
        except jinja2.TemplateSyntaxError as error:
            raise RecipeError(f"kickstarts/{name}:{error.lineno}: {error.message}") from None
        wanted += [found for found in jinja2.meta.find_referenced_templates(parsed) if found]
    return texts


def _read(name: str, search: Sequence[Path]) -> str:
    for folder in search:
        path = folder / name
        # A name such as ../../etc/passwd leaves the folder.
        if path.resolve().is_relative_to(folder.resolve()) and path.is_file():
            try:
                return path.read_text(encoding="utf-8")
            except UnicodeDecodeError as fault:
                line = path.read_bytes()[: fault.start].count(b"\n") + 1
                raise RecipeError(f"{path}:{line}: not UTF-8", str(fault), "save the template as UTF-8") from None
    known = sorted({found.name for folder in search for found in folder.glob("*.ks.j2")})
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"templates found: {', '.join(known) or 'none'}"
    raise RecipeError(f"no kickstart template {name}", f"looked in {', '.join(map(str, search))}", hint)


def variables_of(texts: Mapping[str, str]) -> frozenset[str]:
    """Names of the variables that the template texts want from a recipe."""
    environment = jinja2.Environment()
    names = {name for text in texts.values() for name in jinja2.meta.find_undeclared_variables(environment.parse(text))}
    # A loop variable or a `set` of one file is declared there, and never asked of the recipe.
    return frozenset(names) - OWN_VARIABLES


def check_variables(texts: Mapping[str, str], given: Mapping[str, object]) -> None:
    """Say which variables are unknown or missing.

    Raises:
        RecipeError: naming each of them, with a near name where there is one.
    """
    wanted = variables_of(texts)
    lines = []
    for name in sorted(set(given) - wanted):
        near = difflib.get_close_matches(name, wanted, n=1)
        lines.append(
            f"kickstart.vars.{name} is not used by the template" + (f"; did you mean {near[0]}?" if near else "")
        )
    lines += [f"kickstart.vars.{name} is needed by the template" for name in sorted(wanted - set(given))]
    if lines:
        raise RecipeError("the recipe's variables do not fit its template", "\n".join(lines))


def render(texts: Mapping[str, str], entry: str, variables: Mapping[str, object]) -> str:
    """Render the template `entry`, which may include the other `texts`.

    Raises:
        RecipeError: a variable is missing or the template fails, with its file and line.
    """
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(dict(texts)),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    try:
        return environment.get_template(entry).render(dict(variables))
    except jinja2.TemplateError as error:
        raise RecipeError(f"kickstarts/{entry} cannot be rendered", str(error)) from None


def load(path: Path) -> str:
    """Read a kickstart as it is.

    Raises:
        RecipeError: it cannot be read, or is not UTF-8 text.
    """
    try:
        # In binary, so that DOS line endings are not hidden.
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise RecipeError(f"cannot read {path}", str(reason)) from None


def lint(text: str, release: Release = RELEASES[DEFAULT]) -> list[Finding]:
    """What `ksvalidator` says of a kickstart for this release, errors and warnings kept apart.

    pykickstart exits 1 on mere deprecations too, so its words are sorted here. It is GPL and therefore run as a
    program, never imported.
    """
    with tempfile.TemporaryDirectory(prefix="builder-lint-") as folder:
        file = Path(folder) / "ks.cfg"
        file.write_text(text, encoding="utf-8")
        beside = Path(sys.executable).with_name("ksvalidator")
        program = beside if beside.exists() else Path("ksvalidator")
        # It makes a copy of its own, with the hash of the password, and forgets it: it goes with our folder.
        done = process.run([program, "-v", release.handler, file], check=False, timeout=60, env={"TMPDIR": folder})
    said = f"{done.stdout}\n{done.stderr}"
    found = [*_errors(said, release), *_warnings(said)]
    return sorted(found, key=lambda finding: (finding.line or 0, finding.severity))


_ERROR = re.compile(
    r"The following problem occurred on line (\d+) of the kickstart file:\s*\n\s*\n(.+?)\n\s*(?:\n|$)", re.S
)
_DEPRECATED = re.compile(r"^(?:.*Warning: )?(Ignoring deprecated .*? on line (\d+):.*|.*deprecated.*)$", re.M)


def _errors(said: str, release: Release) -> list[Finding]:
    found = []
    for match in _ERROR.finditer(said + "\n\n"):
        message = " ".join(match[2].split())
        unknown = re.fullmatch(r"Unknown command: (\S+)", message)
        if unknown is None or unknown[1] not in release.accepted:
            found.append(Finding(int(match[1]), "error", message))
    return found


def _warnings(said: str) -> list[Finding]:
    found = []
    for match in _DEPRECATED.finditer(said):
        message = re.sub(r" on line \d+(?=:)", "", match[1])
        found.append(Finding(int(match[2]) if match[2] else None, "warning", message))
    return found
