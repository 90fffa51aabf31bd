"""No modules import each other in a circle, only the package that has a table writes it, and the engine's
README has its public names and its modules. import-linter checks the direction of imports (`make lint`)."""

from __future__ import annotations

import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest
from sqlmodel import SQLModel

import saga
import saga.prefect
import shop.tables
from shop.orders.store import ORDERS

ENGINE = Path(saga.__file__).parent
HOME = ENGINE.parent

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


def test_only_the_package_that_has_a_table_writes_it() -> None:
    """The engine writes the journal and the leases. Retention deletes the rows of others that are too old."""
    owners = {
        mapper.local_table.key: Path(*mapper.class_.__module__.split(".")[:-1])
        for mapper in SQLModel._sa_registry.mappers
        if mapper.class_.__module__.startswith(shop.tables.__package__)
    }
    owners |= {ORDERS.instances: Path("shop/orders"), ORDERS.journal: Path("saga"), "lease": Path("saga")}
    assert {*SQLModel.metadata.tables} == {*owners}
    writes = re.compile(r"(?:INSERT INTO|UPDATE|DELETE FROM) (\w+)")
    foreign = {
        f"{file.relative_to(HOME)}: {found[0]}"
        for package in PACKAGES
        for file in (HOME / package).rglob("*.py")
        if "migrations" not in file.parts
        for found in writes.finditer(file.read_text(encoding="utf-8"))
        if found[1] in owners and owners[found[1]] not in file.relative_to(HOME).parents
    }
    assert not foreign


def test_the_engines_readme_has_every_public_name_and_every_module() -> None:
    named = set(re.findall(r"`([\w/]+)`", (ENGINE / "README.md").read_text(encoding="utf-8")))
    modules = {
        str(file.relative_to(ENGINE).with_suffix(""))
        for file in ENGINE.rglob("*.py")
        if file.name != "__init__.py"
    }
    assert {*saga.__all__, *saga.prefect.__all__, *modules} <= named
