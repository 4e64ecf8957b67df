"""The table of commands agrees with the help texts of the commands."""

from __future__ import annotations

import inspect

import pytest
from typer.testing import CliRunner

from builder.cli import main
from builder.cli.commands import COMMANDS, CliCommand, Group

pytestmark = pytest.mark.unit


def every_command() -> dict[str, CliCommand]:
    """All commands by the words that start them."""
    table: dict[str, CliCommand] = {}
    for name, entry in COMMANDS.items():
        inner = entry.commands.items() if isinstance(entry, Group) else ()
        table |= {name: entry} if isinstance(entry, CliCommand) else {f"{name} {other}": one for other, one in inner}
    return table


EVERY = every_command()


@pytest.mark.parametrize("words", [*EVERY, "", *(name for name, entry in COMMANDS.items() if isinstance(entry, Group))])
def test_help_fits_80_columns(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = CliRunner().invoke(main.app, [*words.split(), "--help"], prog_name="builder")
    assert done.exit_code == 0
    assert done.stdout.startswith(f"Usage: builder {words}".rstrip())
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "..." not in done.stdout.partition("Commands:")[2]


@pytest.mark.parametrize("words", EVERY)
def test_the_summary_is_the_first_line_of_the_docstring(words: str) -> None:
    function = EVERY[words].function
    assert EVERY[words].summary == (inspect.getdoc(function) or "").splitlines()[0]


def test_an_option_that_was_renamed_names_its_successor() -> None:
    done = CliRunner().invoke(main.app, ["plan", "small", "--fresh", "verify"], prog_name="builder")
    assert str(done.exception) == "--fresh is now called --rebuild"
    assert getattr(done.exception, "hint", "") == "write --rebuild verify"


def test_a_command_that_is_misspelt_is_guessed() -> None:
    done = CliRunner().invoke(main.app, ["images", "rolback"], prog_name="builder")
    assert (done.exit_code, "Did you mean 'rollback'?" in done.output) == (2, True)
