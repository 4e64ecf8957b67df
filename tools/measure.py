"""Measure the code against its limits: `make measure`. Exit 1 where a figure is over its limit."""

from __future__ import annotations

import ast
import collections
import graphlib
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import grimp
from packaging.requirements import Requirement

from builder.cli.commands import COMMANDS, CliCommand, Group

PACKAGE = Path(__file__).parents[1] / "builder"
Function = ast.FunctionDef | ast.AsyncFunctionDef
# A program of its own, which runs inside the rehearsal medium: its lines count, its classes have their own world.
APART = "rehearsal/installer/"


@dataclass(frozen=True)
class Figure:
    """One measured value.

    Args:
        limit: the most that is allowed.
        items: where the value comes from, for those that are over the limit.
    """

    what: str
    value: float
    limit: float
    items: tuple[str, ...] = ()


def main() -> int:
    """Print all figures, and what is behind those over their limit."""
    trees = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_bytes()) for path in PACKAGE.rglob("*.py")}
    figures = (*_layout(), *_imports(trees), *_definitions(trees), *_size(), _help_time(), _packages())
    for figure in figures:
        over = figure.value > figure.limit
        print(f"{figure.what:52} {figure.value:8g}  at most {figure.limit:g}{'  <-- over' if over else ''}")
        for item in figure.items if over else ():
            print(f"    {item}")
    return int(any(figure.value > figure.limit for figure in figures))


def _layout() -> Iterator[Figure]:
    loose = sorted(path.name for path in PACKAGE.glob("*.py") if not path.name.startswith("__"))
    yield Figure("loose modules at the package root", len(loose), 5, tuple(loose))
    sizes = {
        folder.relative_to(PACKAGE).as_posix(): sum(path.name != "__init__.py" for path in folder.glob("*.py"))
        for folder in {path.parent for path in PACKAGE.rglob("*.py")}
    }
    largest = max(sizes, key=lambda name: sizes[name])
    yield Figure("modules in the largest folder", sizes[largest], 20, (largest,))


def _imports(trees: dict[str, ast.Module]) -> Iterator[Figure]:
    """Circles (imports for types and in functions count, too), and imports in functions."""
    graph = grimp.build_graph("builder", exclude_type_checking_imports=False, cache_dir=None)
    circle: tuple[str, ...] = ()
    try:
        graphlib.TopologicalSorter(
            {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
        ).prepare()
    except graphlib.CycleError as fault:
        circle = (" -> ".join(fault.args[1]),)
    yield Figure("import circles", len(circle), 0, circle)
    hidden = {
        f"{name}:{node.lineno}"
        for name, tree in trees.items()
        for function in ast.walk(tree)
        if isinstance(function, Function)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    yield Figure("imports inside functions", len(hidden), 20, tuple(sorted(hidden)))


def _definitions(trees: dict[str, ast.Module]) -> Iterator[Figure]:
    classes = collections.defaultdict(list)
    long, wide = [], []
    commands = _command_functions()
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not name.startswith(APART):
                classes[node.name].append(name)
            if isinstance(node, Function):
                place = f"{name}:{node.lineno} {node.name}"
                # The parameters of a command are its options: of a command the body counts.
                command = f"{name}:{node.name}" in commands
                lines = (node.end_lineno or node.lineno) - (node.body[0].lineno if command else node.lineno) + 1
                arguments = node.args
                count = len([*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs])
                if not command and count > 8:
                    wide.append(f"{place} ({count})")
                if lines > 60:
                    long.append(f"{place} ({lines})")
    twice = tuple(f"{name}: {', '.join(where)}" for name, where in sorted(classes.items()) if len(where) > 1)
    yield Figure("class names used twice", len(twice), 0, twice)
    yield Figure("functions of more than 60 lines", len(long), 0, tuple(long))
    yield Figure("functions of more than 8 parameters", len(wide), 0, tuple(wide))


def _command_functions(table: object = COMMANDS) -> set[str]:
    """`cli/module.py:function` of each command."""
    found: set[str] = set()
    for entry in table.values() if isinstance(table, dict) else ():
        if isinstance(entry, CliCommand):
            found.add("cli/{}.py:{}".format(*entry.target.split(":")))
        elif isinstance(entry, Group):
            found |= _command_functions(entry.commands)
    return found


def _size() -> Iterator[Figure]:
    lines = {
        path.relative_to(PACKAGE).as_posix(): len(path.read_bytes().splitlines()) for path in PACKAGE.rglob("*.py")
    }
    large = tuple(f"{name} ({count})" for name, count in sorted(lines.items()) if count > 400)
    yield Figure("files of more than 400 lines", len(large), 0, large)
    yield Figure("lines of Python in builder/", sum(lines.values()), 26_500)


def _help_time() -> Figure:
    """Processor seconds that `builder --help` takes, the best of three; a loaded machine does not show in them."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "builder", "--help"], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return Figure("seconds of builder --help", round(min(times), 2), 0.2)


def _packages() -> Figure:
    """Packages that builder needs at run time, with all that they need."""
    found: set[str] = set()
    waiting = ["builder"]
    while waiting:
        for text in metadata.requires(waiting.pop()) or ():
            requirement = Requirement(text)
            name = requirement.name.lower().replace("_", "-")
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if wanted and name not in found:
                found.add(name)
                waiting.append(name)
    return Figure("packages at run time", len(found), 42, tuple(sorted(found)))


if __name__ == "__main__":
    sys.exit(main())
