"""Digests: the same inputs give the same digest, and any change gives another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from builder.pipeline.changes import MOST, changes
from builder.stage import Inputs, Job, Ledger, Stage, canonical, digest

pytestmark = pytest.mark.unit


class Everything(Inputs):
    """Inputs of every shape that stages use."""

    name: str = "x"
    size: int = 1
    flag: bool = False
    vars: dict[str, Any] = Field(default_factory=dict)
    packages: tuple[str, ...] = ()
    maybe: str | None = None


def run(_job: Job[Any]) -> None:
    raise AssertionError("a digest runs nothing")


STAGE = Stage("toy", 1, ("a", "b"), lambda _: Everything(), run, "toy")
NEEDS = {"a": "0" * 64, "b": "1" * 64}

texts = st.text(st.characters(codec="utf-8"), max_size=4)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
mappings = st.dictionaries(texts, values, max_size=3)
inputs = st.builds(
    Everything,
    name=texts,
    size=st.integers(0, 3),
    flag=st.booleans(),
    vars=mappings,
    packages=st.lists(texts, max_size=3).map(tuple),
    maybe=st.none() | texts,
)


@given(inputs)
def test_equal_inputs_have_equal_digests(some: Everything) -> None:
    backwards = dict(reversed(some.model_dump().items()))
    backwards["vars"] = dict(reversed(some.vars.items()))
    again = Everything(**backwards)
    assert digest(STAGE, again, dict(reversed(NEEDS.items()))) == digest(STAGE, some, NEEDS)


@given(inputs, inputs)
def test_different_inputs_have_different_digests(one: Everything, other: Everything) -> None:
    # As JSON: to Python True equals 1, to a stage it does not.
    same = canonical(one.model_dump(mode="json")) == canonical(other.model_dump(mode="json"))
    assert (digest(STAGE, one, NEEDS) == digest(STAGE, other, NEEDS)) is same


@given(inputs, st.sampled_from(["name", "version", "a", "b"]))
def test_name_version_and_needs_count(some: Everything, what: str) -> None:
    before = digest(STAGE, some, NEEDS)
    if what in NEEDS:
        assert digest(STAGE, some, NEEDS | {what: "2" * 64}) != before
    else:
        other = replace(STAGE, name="other") if what == "name" else replace(STAGE, version=2)
        assert digest(other, some, NEEDS) != before


def test_needs_that_are_not_named_do_not_count() -> None:
    assert digest(STAGE, Everything(), NEEDS | {"c": "3" * 64}) == digest(STAGE, Everything(), NEEDS)


def test_a_default_counts_like_a_given_value() -> None:
    assert digest(STAGE, Everything(), NEEDS) == digest(STAGE, Everything(size=1), NEEDS)


def test_a_digest_stays_what_it_was() -> None:
    """A change here would make every store forget what it has."""
    assert digest(STAGE, Everything(), NEEDS) == "9da6f1ea76b02e5ae3f27556df4f8e952ad16e6aab4d807716c7240d842fc2cd"


def test_inputs_are_frozen_and_closed() -> None:
    with pytest.raises(ValidationError):
        Everything.model_validate({"unknown": 1})
    with pytest.raises(ValidationError):
        Everything().name = "other"


@given(mappings, mappings)
def test_changes_are_told_exactly_when_there_are_some(old: dict[str, Any], new: dict[str, Any]) -> None:
    told = changes(old, new)
    assert bool(told) is (canonical(old) != canonical(new))
    assert len(told) <= MOST


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ({"vars": {"hostname": "a"}}, {"vars": {"hostname": "b"}}, ["vars.hostname changed"]),
        ({"packages": ["core"]}, {"packages": ["core", "tree"]}, ["+packages.tree"]),
        ({"packages": ["a", "b"]}, {"packages": ["b", "a"]}, ["packages changed its order"]),
        ({"vars": {}}, {"vars": {"x": 1}}, ["+vars.x"]),
        ({"vars": {"x": 1}}, {"vars": {}}, ["-vars.x"]),
        ({"keys": ["ssh-rsa AAAA secret"]}, {"keys": []}, ["keys changed"]),
        ({"size": 1}, {"size": 2}, ["size changed"]),
        ({}, dict.fromkeys("abcde", 1), ["+a", "+b", "+c", "2 more changes"]),
    ],
)
def test_changes_are_told_in_few_words(old: dict[str, Any], new: dict[str, Any], told: list[str]) -> None:
    assert changes(old, new) == told


def test_a_ledger_adds_up_also_when_the_work_fails() -> None:
    ledger = Ledger()
    with ledger.spend("copy", 5):
        pass
    with pytest.raises(ValueError, match="broken"), ledger.spend("copy", 7):
        raise ValueError("broken")
    assert ledger.moved == {"copy": 12}
    assert ledger.seconds.keys() == {"copy"}
