"""Find, read and check recipe files; all faults of one are reported at once, each with its place.

A place is a line of the file, or the `--set` option that brought the value.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from builder.errors import RecipeError
from builder.recipe.models import Recipe
from builder.recipe.section import SectionError

SUFFIX = ".yaml"
LARGEST = 1 << 20  # bytes; a recipe is a page of text
Path_ = tuple[str | int, ...]


@dataclass
class Reading:
    """State of reading one recipe: where each value came from, and the faults so far.

    Args:
        label: the file as shown to people.
        lines: line of each key and list entry of the file, from 1.
        sets: the `--set` text that brought a value.
    """

    label: str
    lines: dict[Path_, int] = field(default_factory=dict)
    sets: dict[Path_, str] = field(default_factory=dict)
    faults: list[tuple[int, str, str]] = field(default_factory=list)
    blamed: set[Path_] = field(default_factory=set)

    def at_line(self, line: int, text: str) -> None:
        """Note a fault at a line of the file."""
        self.faults.append((line, f"{self.label}:{line}: ", text))

    def at(self, places: tuple[Path_, ...], text: str) -> None:
        """Note a fault of a value; of several places the one given by `--set` is to blame, else the first."""
        self.blamed.add(places[0])
        for place in places:
            for length in range(len(place), 0, -1):
                if (option := self.sets.get(place[:length])) is not None:
                    rest = "" if length == len(place) else f"{dotted(place)}: "
                    self.faults.append((LARGEST, f"--set {option}: ", f"{rest}{text}"))
                    return
        place = places[0]
        line = next((self.lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in self.lines), 1)
        self.at_line(line, f"{dotted(place)}: {text}" if place else text)

    def settle(self, what: str) -> None:
        """End with all faults that were noted.

        Raises:
            RecipeError: there is at least one.
        """
        if not self.faults:
            return
        lines = [where + text for _, where, text in sorted(self.faults, key=lambda fault: fault[0])]
        count = "a fault" if len(lines) == 1 else f"{len(lines)} faults"
        raise RecipeError(f"{what} has {count}", "\n".join(lines), "`builder schema` lists all keys and their values")


def dotted(place: Path_) -> str:
    """A place as people write it: `media.sources[0].sha256`."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def find_all(search: tuple[Path, ...]) -> dict[str, Path]:
    """All recipes by name, sorted; of two with one name the one in the earlier folder."""
    found: dict[str, Path] = {}
    for folder in search:
        for path in folder.glob(f"*{SUFFIX}"):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def text_of(name_or_path: str, search: tuple[Path, ...]) -> str:
    """The text of a recipe's file, comments and all.

    Raises:
        RecipeError: there is no such recipe, or it cannot be read.
    """
    return _text(_locate(name_or_path, search))


def load(name_or_path: str, sets: Mapping[str, str], search: tuple[Path, ...]) -> Recipe:
    """The recipe of one pipeline, checked.

    Args:
        name_or_path: a name that is looked up in `search`, or a path to a `.yaml` file.
        sets: dotted place and YAML value each, laid over what the file says.
        search: folders, the first that has the recipe wins.

    Raises:
        RecipeError: there is no such recipe, or it has faults; the details hold one line for each.
    """
    path = _locate(name_or_path, search)
    return loads(_text(path), sets, label=_shown(path), stem=path.stem)


def loads(content: str, sets: Mapping[str, str], *, label: str, stem: str) -> Recipe:
    """The recipe in a text, checked.

    Args:
        label: where the text is from, for messages.
        stem: the name that the recipe has to have.

    Raises:
        RecipeError: it has faults; the details hold one line for each.
    """
    reading = Reading(label)
    data = _parse(content, reading)
    reading.settle(f"recipe {stem}")
    if not isinstance(data, dict):
        reading.at_line(1, "is no recipe: it must hold 'key: value' lines")
        reading.settle(f"recipe {stem}")
    for place, text in sets.items():
        _overlay(data, place, text, reading)
    recipe = _validate(data, reading)
    if data.get("name", stem) != stem and ("name",) not in reading.blamed:
        reading.at((("name",),), f"{data['name']!r} differs from the file's name, {stem!r}")
    reading.settle(f"recipe {stem}")
    assert recipe is not None
    return recipe


def fault(path: Path) -> str | None:
    """Say in short why the recipe in this file cannot be used; None if it can."""
    try:
        load(str(path), {}, ())
    except RecipeError as error:
        return error.brief
    return None


def _locate(name_or_path: str, search: tuple[Path, ...]) -> Path:
    if "/" in name_or_path or name_or_path.endswith((SUFFIX, ".yml")):
        path = Path(name_or_path)
        if path.suffix != SUFFIX or not os.path.isfile(path):  # noqa: PTH113 (a name that is too long is no file either)
            raise RecipeError(f"no recipe at {path}", "a recipe is a file whose name ends with .yaml")
        return path
    known = find_all(search)
    if name_or_path in known:
        return known[name_or_path]
    near = difflib.get_close_matches(name_or_path, known, n=3)
    folders = "\n".join(f"searched: {_shown(folder)}" for folder in search)
    names = f"known: {', '.join(known)}" if known else "no pipeline is known"
    hint = f"did you mean {' or '.join(near)}?" if near else "`builder pipelines` lists what can be built"
    raise RecipeError(f"no pipeline named {name_or_path!r}", f"{names}\n{folders}", hint)


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"cannot read recipe {path}", error.strerror or str(error)) from None
    if len(data) > LARGEST:
        raise RecipeError(f"recipe {path} is too large", f"{len(data)} bytes; the limit is {LARGEST}")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"recipe {path} is no UTF-8 text", f"{path}:{line}: byte {data[error.start]:#04x}") from None


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_absolute() and path.is_relative_to(Path.cwd()) else str(path)


def _parse(text: str, reading: Reading) -> Any:
    """Plain data from YAML text, with the line of each value noted; None when there is nothing or a syntax error."""
    yaml = YAML(typ="safe", pure=True)
    try:
        node = yaml.compose(text)
        return None if node is None else _plain(node, (), reading, yaml, set())
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reading.at_line(mark.line + 1 if mark else 1, f"not YAML: {error.problem or error.context}")
    except YAMLError as error:
        reading.at_line(1, f"not YAML: {str(error).splitlines()[0]}")
    except RecursionError:
        reading.at_line(1, "not a recipe: nested too deeply")
    return None


def _plain(node: Node, place: Path_, reading: Reading, yaml: YAML, seen: set[int]) -> Any:
    reading.lines.setdefault(place, node.start_mark.line + 1)
    if id(node) in seen:
        reading.at_line(reading.lines[place], f"{dotted(place)}: aliases are not allowed: write the value again")
        return None
    seen.add(id(node))
    if isinstance(node, SequenceNode):
        return [_plain(entry, (*place, index), reading, yaml, seen) for index, entry in enumerate(node.value)]
    if not isinstance(node, MappingNode):
        return yaml.constructor.construct_object(node)
    data: dict[str, Any] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        # A key is taken as written: `on:` is a word here, whatever a YAML version makes of it.
        name = key.value if isinstance(key, ScalarNode) else "?"
        here = (*place, name)
        if name in data:
            reading.at_line(line, f"{dotted(here)}: given twice (first in line {reading.lines[here]})")
            continue
        reading.lines[here] = line
        data[name] = _plain(value, here, reading, yaml, seen)
    return data


def _overlay(data: dict[str, Any], dotted_place: str, text: str, reading: Reading) -> None:
    """Lay one `--set` value over the data of the file; an unknown place or a bad value becomes a fault."""
    option = f"{dotted_place}={text}"
    place: Path_ = tuple(int(part) if part.isdecimal() else part for part in dotted_place.split("."))
    reading.sets[place] = option
    given = Reading("--set")
    value: Any = _parse(text, given)
    if given.faults and text[:1] not in ("[", "{", "'", '"'):
        # Meant as it stands: `%end`, `@base` and the like are words that YAML has another use for.
        value = text
    elif given.faults:
        reading.at((place,), given.faults[0][2])
        del reading.sets[place]
        return
    if (wrong := _unknown(place)) is not None:
        reading.at((place,), wrong)
        return
    target: Any = data
    for part in place[:-1]:
        target = _enter(target, part)
    last = place[-1]
    if isinstance(target, list) and isinstance(last, int) and last < len(target):
        target[last] = value
    elif isinstance(target, dict):
        target[str(last)] = value
    else:
        reading.at((place,), "the recipe has no such entry")


def _enter(target: Any, part: str | int) -> Any:
    """Go one step down into plain data: make a section that the file leaves out, return None where there is no way."""
    if isinstance(target, list):
        return target[part] if isinstance(part, int) and part < len(target) else None
    if isinstance(target, dict):
        if target.get(part) is None:
            target[part] = {}
        return target[part]
    return None


def _unknown(place: Path_) -> str | None:
    """Return why a location cannot be part of a recipe, None when it can."""
    for end, part in enumerate(place):
        model = _model(place[:end])
        if model is not None and not isinstance(part, int) and part not in _keys(model):
            return _no_key(part, _keys(model))
    return None


def _no_key(name: object, known: list[str]) -> str:
    near = difflib.get_close_matches(str(name), known, n=1)
    return f"unknown key {str(name)!r}: " + (f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}")


def _keys(model: type[BaseModel]) -> list[str]:
    """The keys of a section as they are written in a file."""
    return [field.alias or name for name, field in model.model_fields.items()]


def _model(place: Path_) -> type[BaseModel] | None:
    """The section that stands at a place, None where values or free names stand."""
    model: type[BaseModel] | None = Recipe
    for part in place:
        if model is None or isinstance(part, int):
            continue
        kind = model.model_fields[part].annotation if part in model.model_fields else None
        kinds = [kind, *get_args(kind)]
        model = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
    return model


def _validate(data: dict[str, Any], reading: Reading) -> Recipe | None:
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        found = error.errors(include_url=False)
        for fault in found:
            place: Path_ = fault["loc"]
            # A list whose entries are all faulty counts as empty: the entries' own faults say more.
            inner = any(len(other["loc"]) > len(place) and other["loc"][: len(place)] == place for other in found)
            if fault["type"] == "too_short" and inner:
                continue
            cause = fault.get("ctx", {}).get("error")
            if isinstance(cause, SectionError):
                for places, text in cause.items:
                    reading.at(tuple(place + inner for inner in places), text)
            else:
                reading.at((place,), _said(fault, place))
    return None


def _said(fault: Any, place: Path_) -> str:
    """A fault found by pydantic, in our words."""
    kind, value, context = fault["type"], fault["input"], fault.get("ctx", {})
    match kind:
        case "missing":
            return "is missing"
        case "extra_forbidden":
            model = _model(place[:-1])
            return _no_key(place[-1], _keys(model) if model else [])
        case "literal_error":
            return f"{value!r} is none of {context['expected'].replace(' or ', ', ')}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return "must be a section of 'key: value' lines"
        case "tuple_type":
            return "must be a list"
        case "too_short":
            return f"needs at least {context['min_length']} entry"
        case "int_type":
            return f"{value!r} is no whole number"
        case "greater_than_equal":
            return f"{value!r} is less than {context['ge']}"
        case "less_than_equal":
            return f"{value!r} is more than {context['le']}"
        case "value_error":
            return str(context["error"])
        case _:
            return f"{value!r}: {fault['msg']}"
