"""The table of all commands, and the group that imports a command's module when that command runs.

Invariant: `--help` of `builder` and of its groups comes from the table alone; no module of a command is imported
for it (as pip does it with its `commands_dict`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from builder.errors import RecipeError

ORDER = "builder.order"  # of the options, in the `meta` of a command's context


@dataclass(frozen=True)
class CliCommand:
    """One command.

    Args:
        target: `module:function` in `builder.cli`.
        summary: first line of the function's docstring.
        renamed: options that have a new name: the old one is refused with a hint that names the new one.
    """

    target: str
    summary: str
    renamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def function(self) -> Callable[..., None]:
        """The function of this command; its module is imported here."""
        module, _, name = self.target.partition(":")
        function: Callable[..., None] = getattr(importlib.import_module(f"builder.cli.{module}"), name)
        return function


@dataclass(frozen=True)
class Group:
    """A group of commands, such as `builder images`.

    Args:
        help: what `--help` says above the commands.
        default: name of the command that is meant if none is named.
    """

    help: str
    commands: Mapping[str, CliCommand]
    default: str | None = None


REBUILD = {"--fresh": "--rebuild"}
KEEP = {"--keep-daily": "--keep", "--keep-weekly": "--keep", "--keep-monthly": "--keep"}

COMMANDS: Mapping[str, CliCommand | Group] = {
    "run": CliCommand("run:run", "Build the golden image of a pipeline, verify it and publish it.", REBUILD),
    "plan": CliCommand("plan:plan", "Show what a run would do, and why; change nothing.", REBUILD),
    "nightly": Group(
        "Build what changed, verify the rest again, write a report.\n\n"
        "`nightly PIPELINE --jobs 2` is short for `nightly run PIPELINE --jobs 2`.",
        {
            "run": CliCommand("nightly:run", "Build what changed, verify the rest again, write a report.", KEEP),
            "install-timer": CliCommand(
                "nightly:install_timer", "Write a systemd timer that starts `builder nightly` here."
            ),
        },
        default="run",
    ),
    "pipelines": CliCommand("recipes:pipelines", "List the pipelines that can be built."),
    "recipes": Group(
        "Make recipes.",
        {"new": CliCommand("recipes:new", "Write a recipe for an ISO, or for a kickstart of your own.")},
    ),
    "schema": CliCommand("recipes:schema", "Print the JSON schema of a recipe, for editors."),
    "kickstart": Group(
        "Render and check kickstarts.",
        {
            "render": CliCommand("recipes:render", "Print a pipeline's kickstart, without its secrets."),
            "lint": CliCommand("lint:lint", "Check a kickstart as its installer reads it; errors exit 2."),
            "adapt": CliCommand("recipes:adapt", "Print a kickstart of your own as builder would adapt it."),
        },
    ),
    "images": Group(
        "Manage golden images that were published.",
        {
            "list": CliCommand("images:list_", "List all versions of all images, the newest first."),
            "show": CliCommand("images:show", "Show one image, its files, its users and its proofs."),
            "diff": CliCommand("images:diff", "Show how image B differs from image A."),
            "verify": CliCommand("images:verify", "Read images again and compare with what was published."),
            "rollback": CliCommand("images:rollback", "Make an older version the latest, and hold the one that was."),
            "release": CliCommand("images:release", "Let a version that is held become the latest again."),
            "prune": CliCommand("images:prune", "Remove old versions; not the latest, nor what is held or used."),
            "export": CliCommand("images:export", "Write an image in another format, and read it back."),
            "warm": CliCommand("warm:warm", "Boot an image once and save it, for clones with --instant."),
            "push": CliCommand("registry:push", "Push an image to a registry."),
            "pull": CliCommand("registry:pull", "Pull an image from a registry, and verify it."),
        },
    ),
    "clone": CliCommand("clone:clone", "Create VMs from a golden image, in a second."),
    "vm": Group(
        "Manage virtual machines cloned from golden images.",
        {
            "list": CliCommand("vm:list_", "List the VMs: state, image, address, newer images."),
            "set": CliCommand("vm:set_", "Change memory, processors or network cards of a VM."),
            "start": CliCommand("vm:start", "Start VMs."),
            "stop": CliCommand("vm:stop", "Stop VMs: press the power button and wait."),
            "console": CliCommand("vm:console", "Attach this terminal to the serial console; Ctrl-] leaves."),
            "ssh": CliCommand("vm:ssh", "Log in as root over SSH, with the host key pinned."),
            "screenshot": CliCommand("vm:screenshot", "Write what the VM's screen shows to a file."),
            "snapshot": CliCommand("vm:snapshot", "Create a snapshot, go back to one, or list them."),
            "rebase": CliCommand("vm:rebase", "Rebase a VM's disk onto another image version."),
            "flatten": CliCommand("vm:flatten", "Make a VM's disk independent of its image."),
            "delete": CliCommand("vm:delete", "Delete VMs with their disks, running or not."),
        },
    ),
    "media": Group(
        "Manage install media.",
        {
            "list": CliCommand("media:list_", "List the media in the store, and the pipelines that name them."),
            "add": CliCommand("media:add", "Add an ISO to the store, so that a run finds it."),
            "inspect": CliCommand("media:inspect", "Show what an ISO is: volume, boot records, checksum, packages."),
            "verify": CliCommand("media:verify", "Read all of an ISO; exit 4 if nothing confirms it."),
            "inject": CliCommand("media:inject", "Copy an ISO with a kickstart in it, for CDs and sticks."),
            "rehearsal": CliCommand("media:rehearsal", "Write a rehearsal medium, for hosts that cannot build one."),
        },
    ),
    "keys": Group(
        "Manage the keys that sign the provenance of images.",
        {
            "list": CliCommand("keys:list_", "List the keys that are trusted, and say which of them can sign."),
            "create": CliCommand("keys:create", "Create a key; what is published from now on is signed."),
            "export": CliCommand("keys:export", "Print the public half of a key, for those who verify."),
            "trust": CliCommand("keys:trust", "Trust what the owner of this public key has signed."),
        },
    ),
    "runs": Group(
        "Show runs, their records and evidence.",
        {
            "list": CliCommand("housekeeping:list_", "List the runs on record, the newest first."),
            "show": CliCommand("housekeeping:show", "Show one run: stages, verdict, evidence."),
            "pack": CliCommand("housekeeping:pack", "Pack a run's record and evidence to be sent, without secrets."),
        },
    ),
    "gc": CliCommand("housekeeping:gc", "Remove old results, downloads and pulls; never an image."),
    "host": Group(
        "Check this host, prepare it, and undo that.",
        {
            "check": CliCommand("host:check", "Check whether a build can run here; exit 3 if not."),
            "prepare": CliCommand("host:prepare", "Give this host what a build needs, or a network."),
            "confirm": CliCommand("host:confirm", "Keep the changed network."),
            "restore": CliCommand("host:restore", "Undo what `prepare` did, the last change first."),
        },
    ),
}


def parse(group: str, name: str, words: Sequence[str]) -> Mapping[str, Any]:
    """Parse words as a command does, and return its parameters; the command is not run.

    Args:
        group, name: of the command, e.g. `nightly` and `run`.

    Raises:
        click's UsageError: the command would refuse the words.
    """
    entry = COMMANDS[group]
    assert isinstance(entry, Group)
    command = _Deferred(name, entry.commands[name]).load()
    context = command.make_context(f"builder {group} {name}", list(words))
    parameters: Mapping[str, Any] = context.params
    return parameters


class OrderedCommand(TyperCommand):
    """A command that also knows in which order its options were given, see `options.in_order`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Note the order, and parse as ever; what is wrong with the words is told by either."""
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        ctx.meta[ORDER] = [option for parameter in order for option in parameter.opts[:1]]
        return super().parse_args(ctx, args)


class _Deferred(TyperCommand):
    """A command as help and completion need it; the real one is made from its module when it runs."""

    def __init__(self, name: str, entry: CliCommand) -> None:
        super().__init__(name, help=entry.summary, rich_markup_mode=None)
        self.entry = entry

    def load(self) -> Any:
        """Import the module and make the command."""
        command = _made(self.name, self.entry.function)
        for old, new in self.entry.renamed.items():
            command.params += _made(None, _refusing(old, new)).params
        return command


class CommandGroup(TyperGroup):
    """A group whose commands come from the table."""

    def __init__(
        self, *, table: Mapping[str, CliCommand | Group] = COMMANDS, default: str | None = None, **attributes: Any
    ) -> None:
        super().__init__(**attributes)
        self.default = default
        for name, entry in table.items():
            self.add_command(_deferred(name, entry))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the default command before words that name none."""
        named = args[:1] in ([name] for name in (*self.commands, *ctx.help_option_names))
        return super().parse_args(ctx, args if named or self.default is None else [self.default, *args])

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        """Find the command that the words name, and import it."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, _Deferred) else command, rest


def _deferred(name: str, entry: CliCommand | Group) -> Any:
    if isinstance(entry, CliCommand):
        return _Deferred(name, entry)
    return CommandGroup(
        name=name,
        help=entry.help,
        table=entry.commands,
        default=entry.default,
        no_args_is_help=entry.default is None,
        rich_markup_mode=None,
    )


def _made(name: str | None, function: Callable[..., None]) -> Any:
    """A function as typer's command."""
    app = typer.Typer(rich_markup_mode=None, add_completion=False)
    app.command(name, cls=OrderedCommand)(function)
    return typer.main.get_command(app)


def _refusing(old: str, new: str) -> Callable[..., None]:
    """A function whose one hidden option is refused."""

    def refuse(value: str | None) -> None:
        if value is not None:
            raise RecipeError(f"{old} is now called {new}", hint=f"write {new} {value}")

    hidden = typer.Option(None, old, hidden=True, expose_value=False, callback=refuse)

    def refused(value: str | None = hidden) -> None:
        """Take the option."""

    return refused
