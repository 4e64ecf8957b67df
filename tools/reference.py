"""Write docs/recipe.md and docs/causes.md, from the models of recipes and from the table of causes: `make docs`.

Invariant: a page is generated from the code alone; `tests/test_reference.py` fails while one is out of date.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from builder.diagnosis import patterns
from builder.diagnosis.causes import CAUSES
from builder.errors import Cause
from builder.recipe import types as kinds
from builder.recipe import variables
from builder.recipe.models import Recipe
from builder.recipe.section import Section
from builder.recipe.types import GIB, Duration, Size

DOCS = Path(__file__).parents[1] / "docs"
KINDS = {
    name: kind
    for name, kind in vars(kinds).items()
    if get_origin(kind) is Annotated and "description" in TypeAdapter(kind).json_schema()
}
RECIPE_INTRO = """\
# Recipe reference

Made by `make docs` from `builder/recipe/models.py`, `media.py` and `types.py`. A recipe is a YAML file in `pipelines/`.
`builder schema` prints the same as a JSON schema for editors; `--set machine.memory=4GiB` replaces a value for one run.
An unknown key is an error.
"""
CAUSES_INTRO = """\
# Causes of failures

Made by `make docs` from `builder/diagnosis/causes.py` and `patterns.py`; change it there. The cause of a failed run is
on the terminal, in its `verdict.json`, and in the README of `artifacts/runs/<id>/`. What "may pass by itself" is tried
again by `builder run --retry-transient`. The words below each cause are regular expressions; a cause without any is
found out by builder itself, or from how the machine ended.

Whose words they are, and where they are in that program's source:"""
PLAIN = {bool: "true or false", int: "whole number", str: "text"}


def main() -> None:
    """Write all pages."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")


def recipe_page() -> str:
    """Return docs/recipe.md: each section of a recipe, its keys, values and defaults."""
    return "\n".join(
        [
            RECIPE_INTRO,
            *_section("The whole file", Recipe, ""),
            "## Values",
            "",
            *(f"* **{_words(name)}**: {text}" for name, text in _kinds()),
            "* **variable**: text, a number, true or false, or a list of texts; none can break out of its word in the",
            "  kickstart, and variables with a well-known name have a form of their own:",
            *(f"  `{name}`: {rule.what};" for name, rule in variables.RULES.items()),
            "",
        ]
    )


def causes_page() -> str:
    """Return docs/causes.md: each cause of a failure, what to do about it, and the words that prove it."""
    lines = [
        CAUSES_INTRO,
        _paragraphs(patterns)[1].partition("Every run")[0].removeprefix("Sources, in short: ").strip(),
        "",
    ]
    for cause in Cause:
        text = CAUSES[cause]
        passing = " May pass by itself." if cause.transient else ""
        lines += [f"## {cause.value}", "", f"{_sentence(text.brief)}{passing}", "", f"What to do: {text.hint}.", ""]
        words = [pattern for pattern in patterns.PATTERNS if pattern.cause is cause]
        lines += [f"* {_code(pattern.regex.pattern)} ({pattern.reference})" for pattern in words]
        lines += [""] if words else []
    return "\n".join(lines).rstrip() + "\n"


PAGES: Mapping[str, Callable[[], str]] = {"recipe.md": recipe_page, "causes.md": causes_page}


def _section(title: str, model: type[Section], place: str) -> Iterator[str]:
    """A section of a recipe as a table, then the sections below it."""
    hints = get_type_hints(model, include_extras=True)
    meanings = _arguments(model)
    yield from (f"## {title}", "", _sentence(_summary(model)), "")
    yield from ("| key | value | default | meaning |", "|---|---|---|---|")
    below: list[tuple[str, type[Section]]] = []
    for name, info in model.model_fields.items():
        key = info.alias or name
        inner = _model_in(hints[name])
        if inner is None:
            value, default, meaning = _value(hints[name]), _default(info, hints[name]), meanings.get(name, "")
        else:
            many = "[]" if get_origin(hints[name]) is tuple else ""
            path = f"{place}{key}{many}"
            below.append((path, inner))
            value = f"{'list of sections' if many else 'section'} [`{path}`](#{re.sub(r'[^a-z]', '', path)})"
            default = "" if many and info.default == () else _default(info, hints[name])
            meaning = meanings.get(name, _summary(inner))
        yield f"| `{key}` | {value} | {default} | {_sentence(meaning)} |"
    yield ""
    for path, inner in below:
        yield from _section(f"`{path}`", inner, f"{path}.")


def _model_in(hint: Any) -> type[Section] | None:
    """The section that a value is, or a list of values holds."""
    inner = get_args(hint)[0] if get_origin(hint) is tuple else hint
    return inner if isinstance(inner, type) and issubclass(inner, Section) else None


def _value(hint: Any) -> str:
    """The kind of a value, for people."""
    for name, kind in KINDS.items():
        if hint == kind:
            return _words(name)
    if hint == variables.Variable:
        return "variable"
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(f"`{argument}`" for argument in arguments)
    if origin is tuple:
        many = len(get_args(arguments[0])) > 1 and arguments[0] not in KINDS.values()
        return "list of values" if many else f"list of {_value(arguments[0])}s"
    if origin is dict:
        return f"{_value(arguments[0])}: {_value(arguments[1])}"
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_value(argument) for argument in arguments if argument is not type(None)))
    if origin is Annotated:
        described = TypeAdapter(hint).json_schema().get("description")
        return str(described).partition(":")[0] if described else _value(arguments[0])
    return PLAIN.get(hint, "variable")


def _default(info: FieldInfo, hint: Any) -> str:
    """The default of a key as a recipe would have it."""
    if info.is_required():
        return "required"
    value = info.default
    if isinstance(value, Section) or value in (None, ()) or info.default_factory is not None:
        return ""
    if hint == Size:
        return f"`{value // GIB}GiB`"
    return f"`{value // 60}m`" if hint == Duration else f"`{value}`"


def _kinds() -> Iterator[tuple[str, str]]:
    """Kinds of values, and how each is written."""
    for name, kind in KINDS.items():
        what = TypeAdapter(kind).json_schema()["description"]
        yield name, what.partition(": ")[2] or what


def _words(name: str) -> str:
    """A name such as GuestPath as words."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def _paragraphs(item: object) -> list[str]:
    """Paragraphs of a docstring, each on one line."""
    return [" ".join(part.split()) for part in (inspect.getdoc(item) or "").split("\n\n")]


def _summary(item: object) -> str:
    return _paragraphs(item)[0]


def _arguments(item: object) -> dict[str, str]:
    """What the part `Args:` of a docstring says, by name."""
    part = (inspect.getdoc(item) or "").partition("Args:\n")[2]
    entries = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", part, re.M)
    return {name: " ".join(text.split()) for name, text in entries}


def _sentence(text: str) -> str:
    """With a capital letter in front and a full stop at the end; what is quoted stays as it is."""
    if not text:
        return ""
    first = text if text.startswith("`") else text[0].upper() + text[1:]
    return first if first.endswith(".") else f"{first}."


def _code(text: str) -> str:
    """As code in Markdown."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


if __name__ == "__main__":
    main()
