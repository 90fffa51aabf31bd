"""No modules import each other in a circle. import-linter checks the direction of imports (`make lint`)."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

import grimp
import pytest

PACKAGES = ("deployments", "examples", "flows", "saga", "shop", "tasks")


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Also not by imports inside of functions. Imports for type checkers alone may."""
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 100, "the graph is not complete"
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as circle:
        pytest.fail(" -> ".join(circle.args[1]))
