"""What one machine writes and another compares is measured by the database's clock:
who asks this machine's clock has a reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import HOME

_SHOWN = "people see it, and nothing is compared with it"
ALLOWED = {
    "saga/clock.py:machine_time": "for those who have no database",
    "shop/inventory/port.py:release_result": _SHOWN,
    "shop/inventory/port.py:reservation_result": _SHOWN,
    "shop/confirmation/writer.py:finished": _SHOWN,
    "shop/monitoring/log_lines.py:_remove_old_files": (
        "compares it with times that this machine's file system wrote"
    ),
    "shop/payments/sandbox/ledger.py:_now": "the sandbox's own clock, as any gateway has one",
    "tasks/validate_order.py:validate_order": _SHOWN,
    "flows/process_pending_orders.py:_run_name": _SHOWN,
    "flows/reconcile_payments.py:_run_name": _SHOWN,
    "flows/runs.py:name": _SHOWN,
    "flows/optimize_confirmation.py:_run_name": _SHOWN,
    "deployments/standby_run.py:main": "compares it with times that this machine's file system wrote",
    "deployments/local/prefect_server.py:tidy_up": "the Prefect server that it asks runs on this machine",
    "deployments/check/parts.py:payments": (
        "asks for a page of whatever length, to see whether the gateway answers"
    ),
}
_CLOCKS = {
    ("datetime", "now"),
    ("datetime", "utcnow"),
    ("datetime", "today"),
    ("date", "today"),
    ("time", "time"),
    ("time", "time_ns"),
}
_FOLDERS = ("saga", "shop", "tasks", "flows", "deployments")


def test_this_machine_s_clock_is_asked_only_with_a_reason() -> None:
    asked = {place for folder in _FOLDERS for file in (HOME / folder).rglob("*.py") for place in _asks(file)}
    assert asked == set(ALLOWED), "use saga.clock, or say here why not; and take out of here what is gone"


def test_who_asks_is_found(tmp_path: Path) -> None:
    """Else the test above could not fail."""
    code = (
        "import datetime as d\nfrom time import time as now\n"
        "class A:\n    def b(self):\n        return d.datetime.now(), now()\n"
    )
    (tmp_path / "a.py").write_text(f"import time\n{code}async def c():\n    return time.time()\n")
    assert {place.rpartition(":")[2] for place in _asks(tmp_path / "a.py")} == {
        "b",
        "c",
        "import of time.time",
    }


def _asks(file: Path) -> Iterator[str]:
    where = file.relative_to(HOME) if file.is_relative_to(HOME) else file
    for place in _places(ast.parse(file.read_text(encoding="utf-8")), "module"):
        yield f"{where.as_posix()}:{place}"


def _places(node: ast.AST, function: str) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        inside = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
        if isinstance(child, ast.ImportFrom) and child.module == "time":
            yield from (
                f"import of time.{each.name}" for each in child.names if ("time", each.name) in _CLOCKS
            )
        if isinstance(child, ast.Attribute):
            value = child.value
            owner = (
                value.id
                if isinstance(value, ast.Name)
                else value.attr
                if isinstance(value, ast.Attribute)
                else ""
            )
            if (owner, child.attr) in _CLOCKS:
                yield inside
        yield from _places(child, inside)
