"""Variables of a kickstart: no accepted value can leave the word that it is part of."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.recipe import RULES, check_variable

pytestmark = pytest.mark.unit

NAMES = st.sampled_from([*RULES, "role", "motd_file", "proxy"])
# Text made of dangerous and harmless pieces, so that near misses are common.
DANGEROUS = [
    "\n",
    "\r",
    "\0",
    "\x85",
    "\u2028",
    '"',
    "'",
    "`",
    "$",
    "\\",
    "%end",
    "#",
    " ",
    "\t",
    ";",
    "(",
    "é",
    "\u200b",
]
HARMLESS = [
    "UTC",
    "Europe",
    "/",
    "en_US",
    ".",
    "UTF-8",
    "us",
    "host",
    "@core",
    "a",
    "Z",
    "0",
    "_",
    "=",
    ":",
    "*",
    "-",
]
PIECES = st.sampled_from([*DANGEROUS, *HARMLESS])
VALUES = st.one_of(st.text(max_size=8), st.lists(PIECES, max_size=5).map("".join))


@given(name=NAMES, value=VALUES)
def test_an_accepted_value_is_one_plain_word(name: str, value: str) -> None:
    many = name in RULES and RULES[name].many
    if check_variable(name, [value] if many else value) is not None:
        return
    assert len(value.splitlines()) <= 1
    assert value.isprintable()
    assert not set(value) & set("\"'`$\\#;&|<>()\r\n\0 \t")
    assert not value.startswith("%")
    # Both parsers of a kickstart see one word, whatever stands around it.
    assert shlex.split(f"before {value}x after", comments=True) == ["before", f"{value}x", "after"]


@given(name=NAMES, values=st.lists(VALUES, min_size=1, max_size=3))
def test_a_list_is_accepted_only_if_each_entry_is(name: str, values: list[str]) -> None:
    if check_variable(name, values) is None:
        assert all(check_variable(name, [value]) is None for value in values)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hostname", "web-1.example.org"),
        ("hostname", "localhost.localdomain"),
        ("timezone", "America/Argentina/Buenos_Aires"),
        ("timezone", "Etc/GMT+5"),
        ("lang", "de_DE.UTF-8"),
        ("lang", "C"),
        ("keyboard", "de-nodeadkeys"),
        ("packages", []),
        ("packages", ["vim-enhanced", "@core", "@^minimal", "-nano", "libstdc++", "python*"]),
        ("role", "db_1"),
        ("role", ""),
        ("proxy", "http://proxy:3128/"),
        ("count", 5),
        ("flag", True),
    ],
)
def test_accepted(name: str, value: object) -> None:
    assert check_variable(name, value) is None


@pytest.mark.parametrize(
    ("name", "value", "wrong"),
    [
        ("role", "a\nb", "line break"),
        ("role", "a\rb", "line break"),
        ("role", "a\0b", "control character"),
        ("role", "a\u202eb", "control character"),
        ("role", 'a"b', "double quote"),
        ("role", "a'b", "single quote"),
        ("role", "a`b`", "backquote"),
        ("role", "a$b", "dollar"),
        ("role", "a\\b", "backslash"),
        ("role", "a#b", "comment"),
        ("role", "%end", "section"),
        ("role", "--lock", "plain word"),
        ("role", "a b", "plain word"),
        ("role", "a;b", "plain word"),
        ("role", None, "must be text"),
        ("role", 1.5, "must be text"),
        ("role", ["a", "b\n"], "line break"),
        ("hostname", "-a", "host name"),
        ("hostname", "a" * 64, "host name"),
        ("hostname", "a..b", "host name"),
        ("hostname", ["a"], "not a list"),
        ("timezone", "UTC --nontp", "time zone"),
        ("timezone", "../etc", "time zone"),
        ("lang", "en_US.UTF-8 x", "locale"),
        ("keyboard", 5, "must be text"),
        ("packages", "vim", "must be a list"),
        ("packages", ["vim nano"], "package"),
        ("packages", ["--all"], "package"),
        ("Role", "a", "no variable name"),
        ("a-b", "a", "no variable name"),
        (5, "a", "no variable name"),
        ("root_password", "a", "no secrets"),
    ],
)
def test_refused(name: str, value: object, wrong: str) -> None:
    assert wrong in (check_variable(name, value) or "")
