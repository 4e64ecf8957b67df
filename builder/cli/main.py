"""The program `builder`: its options, its commands, and how it ends.

Invariant: errors end here and nowhere else; each becomes one message and one exit code.
0 done · 1 internal error · 2 bad recipe or usage · 3 host · 4 medium · 5 install · 6 verification · 7 publishing ·
8 guest unreachable · 9 KVM required and absent · 10 nightly builds failed in several ways · 130 interrupted.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from builder import __version__
from builder.cli.commands import CommandGroup
from builder.cli.output import display_path, print_json, print_lines
from builder.cli.state import State
from builder.errors import BuilderError, HostError, Interrupted, of_os_error
from builder.system.signals import one_interrupt
from builder.system.streams import silence
from builder.system.umask import readable_by_all

# Without markup mode typer prints help without rich, whose import alone would take half the time that --help has.
app = typer.Typer(
    name="builder",
    cls=CommandGroup,
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(value: bool) -> None:
    if value:
        print_lines([f"builder {__version__}"])
        raise typer.Exit


@app.callback()
def builder(
    ctx: typer.Context,
    artifacts: Annotated[
        Path | None,
        typer.Option(
            envvar="BUILDER_ARTIFACTS",
            metavar="DIR",
            help="Where images, runs and the store are kept: the host's directory (host prepare), else ./artifacts.",
        ),
    ] = None,
    version: Annotated[  # noqa: ARG001 (its callback does it)
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Build golden VM images from an install ISO and a kickstart, and prove that they work."""
    try:
        Path.cwd()
    except OSError as error:
        raise HostError(f"the working directory cannot be used: {error.strerror}", hint="cd to another one") from None
    ctx.ensure_object(State).locate(artifacts)


def main() -> int:
    """Run the command line; returns the exit code."""
    state = State()
    try:
        with readable_by_all(), one_interrupt():
            app(prog_name="builder", obj=state)
        return 0
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except (BuilderError, Interrupted, KeyboardInterrupt) as error:
        return _report(error, state)
    except OSError as error:
        return _report(of_os_error(error) or _broken(error, state), state)
    except Exception as error:
        return _report(_broken(error, state), state)
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                silence(stream.fileno())


def _report(error: BuilderError | Interrupted | KeyboardInterrupt, state: State) -> int:
    """Write what happened to standard error, and with `--json` to standard output as a document."""
    # Not at the head: --help and --version need none of it.
    from builder import console

    evidence = state.evidence
    shown = str(display_path(evidence)) if evidence else ""
    facts = {"stage": state.failed_stage, "evidence": str(evidence) if evidence else None}
    if not (state.as_json and _print_error({**_as_dict(error), **facts})):
        colour = console.colourful(sys.stderr)
        try:
            width = shutil.get_terminal_size().columns if sys.stderr.isatty() else 0
            sys.stderr.write("\n".join(console.error_lines(error, shown, colour=colour, width=width)) + "\n")
        except OSError:
            silence(sys.stderr.fileno())
    return getattr(error, "exit_code", Interrupted.exit_code)


def _print_error(facts: dict[str, object]) -> bool:
    """Write an error as the one JSON document; false if that is impossible, as on a full disk."""
    try:
        print_json({"error": facts})
    except HostError:
        return False
    return True


def _as_dict(error: BuilderError | Interrupted | KeyboardInterrupt) -> dict[str, object]:
    if isinstance(error, BuilderError):
        # Also what failed before a run began has a cause that a program may act on.
        from builder.diagnosis.classify import diagnose

        return diagnose(error).as_dict()
    code = Interrupted.exit_code
    return {"kind": "interrupted", "exit_code": code, "brief": "interrupted", "details": str(error), "hint": ""}


def _broken(error: Exception, state: State) -> BuilderError:
    """An error that nobody foresaw, with the file that holds its traceback."""
    text = "".join(traceback.format_exception(error))
    # Two may break within a second.
    name = f"crash-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}.log"
    for folder in (state.artifacts, Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / name).open("x", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError:
            continue
        where = f"this is a bug; the traceback is in {display_path(folder / name)}"
        return BuilderError(f"internal error: {type(error).__name__} ({where})", str(error))
    return BuilderError(f"internal error: {type(error).__name__} (this is a bug)", text)
