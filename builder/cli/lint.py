"""The command `builder kickstart lint`: it needs none of what builds images, so it loads none of that."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from builder import releases
from builder.cli.options import Json, Release, parse_release
from builder.cli.output import emit
from builder.errors import RecipeError
from builder.kickstart import parse
from builder.kickstart.lint import lint as lint_kickstart


def lint(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A rendered kickstart.")],
    release: Release = releases.DEFAULT,
    as_json: Json = False,
) -> None:
    """Check a kickstart as its installer reads it; errors exit 2."""
    chosen = parse_release(release)
    if not file.exists():
        hint = f"for the kickstart of a pipeline: builder kickstart render {file.name} > ks.cfg"
        raise RecipeError(f"there is no file {file}", hint=hint)
    beside = {path.name for path in file.absolute().parent.iterdir()} if file.is_file() else ()
    findings = lint_kickstart(parse.load(file), chosen, beside=beside)
    facts = [{"line": finding.line, "severity": finding.severity, "message": finding.message} for finding in findings]
    text = [f"{file}:{finding.line or 0}: {finding.severity}: {finding.message}" for finding in findings]
    emit(facts, text, as_json)
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(RecipeError.exit_code)
