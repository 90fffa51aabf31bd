"""No modules import each other in a circle, and the engine's README has its public names and its modules.
import-linter checks the direction of imports (`make lint`)."""

from __future__ import annotations

import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

import saga
import saga.prefect

ENGINE = Path(saga.__file__).parent

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


def test_the_engines_readme_has_every_public_name_and_every_module() -> None:
    named = set(re.findall(r"`([\w/]+)`", (ENGINE / "README.md").read_text(encoding="utf-8")))
    modules = {
        str(file.relative_to(ENGINE).with_suffix(""))
        for file in ENGINE.rglob("*.py")
        if file.name != "__init__.py"
    }
    assert {*saga.__all__, *saga.prefect.__all__, *modules} <= named
