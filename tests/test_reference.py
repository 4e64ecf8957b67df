"""docs/recipe.md and docs/causes.md agree with the code."""

from __future__ import annotations

import pytest

from builder.errors import Cause
from builder.recipe.models import Recipe
from tools import reference

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("name", reference.PAGES)
def test_pages_are_up_to_date(name: str) -> None:
    fresh = (reference.DOCS / name).read_text() == reference.PAGES[name]()
    assert fresh, f"docs/{name} is out of date: run `make docs` and commit what it wrote"


def test_each_key_of_a_recipe_has_a_meaning() -> None:
    page = reference.recipe_page()
    assert [line for line in page.splitlines() if line.startswith("| `") and line.endswith("|  |")] == []
    assert all(f"| `{info.alias or name}` |" in page for name, info in Recipe.model_fields.items())


def test_each_cause_is_on_the_page() -> None:
    headings = [line.removeprefix("## ") for line in reference.causes_page().splitlines() if line.startswith("## ")]
    assert headings == [cause.value for cause in Cause]
