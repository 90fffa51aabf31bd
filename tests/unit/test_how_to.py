"""Whoever follows a how-to page gets a project that works,
and breaks no test that reads what they changed."""

from __future__ import annotations

from pathlib import Path

from tests.how_to import HOME, follow, run

PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider")
CHECK = """
import asyncio
from shop.orders.intake_content import take_in
from shop.orders.order import EXAMPLE, Order
from shop.orders.validation import validate
from shop.settings import settings


class Catalogue:
    async def known(self, product_ids):
        return product_ids


def found(message):
    (verdict,) = asyncio.run(validate([{**EXAMPLE, "gift_message": message}], Catalogue(), settings()))
    return verdict


assert found("Happy birthday!").gift_message == "Happy birthday!"
assert not isinstance(found("x" * 201), Order)
assert "Happy birthday!" in take_in({**EXAMPLE, "gift_message": "Happy birthday!"}).text
assert take_in(EXAMPLE).fingerprint == take_in({**EXAMPLE, "gift_message": None}).fingerprint
"""


def test_no_test_that_reads_the_table_of_steps_breaks(tmp_path: Path) -> None:
    readers = [
        file
        for file in (HOME / "tests" / "unit").glob("test_*.py")
        if "flows.order_saga" in file.read_text(encoding="utf-8")
    ]
    names = [str(file.relative_to(HOME)) for file in readers if file != Path(__file__)]
    assert len(names) >= 2
    run(follow(tmp_path, "docs/how-to/add-a-step.md"), *PYTEST, *sorted(names))


def test_an_order_has_the_new_field(tmp_path: Path) -> None:
    copy = follow(tmp_path, "docs/how-to/change-the-order.md")
    run(copy, "-c", CHECK)
    run(copy, *PYTEST, "tests/unit/test_order.py", "tests/unit/test_validation.py")
