"""No module imports itself through others, not even for its types only or inside a function."""

from __future__ import annotations

import graphlib

import grimp
import pytest

pytestmark = pytest.mark.unit


def test_modules_import_one_another_in_one_direction() -> None:
    graph = grimp.build_graph("builder", exclude_type_checking_imports=False, cache_dir=None)
    imported = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    graphlib.TopologicalSorter(imported).prepare()
