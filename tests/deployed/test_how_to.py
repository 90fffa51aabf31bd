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

FORMAT = """
from decimal import Decimal

from shop.orders.formats.known import map_order
from shop.orders.intake_content import take_in

ORDER = {
    "id": 17,
    "mail": "ann@example.com",
    "currency": "EUR",
    "state": "paid",
    "payment": "P-1",
    "lines": [{"article": "PROD-001", "pieces": 2, "price": "5.00", "colour": "red"}],
    "postage": 4.5,
    "to_pay": "14.50",
    "basket": "abc",
    "thank_you_url": "https://acme.example",
    "deliver_to": {"name": "Ann", "address": "1 Road", "zip": "1010", "city": "Wien", "country": "AT"},
}
mapped = map_order("acme", ORDER)
order = mapped.checked()
assert (order["id"], order["total_amount"]) == ("acme-17", "14.50")
assert order["shipping_info"]["city"] == "Wien"
assert list(mapped.ignored) == ["lines[].colour"]
assert take_in(mapped.to_store()).ignored == ()


def places(**changes):
    return [problem.place for problem in map_order("acme", {**ORDER, **changes}).problems]


assert places(to_pay="15.50") == ["to_pay"]
assert places(sent_on="2026-01-01") == ["sent_on"]
assert places(energy_fee="0.30") == ["energy_fee"]
assert map_order("acme", {**ORDER, "state": "open"}).waiting
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


def test_a_shop_has_a_format_of_its_own(tmp_path: Path) -> None:
    copy = follow(tmp_path, "docs/how-to/your-shops-format.md")
    run(copy, "-c", FORMAT)
    run(copy, "-m", "ruff", "check", "shop/orders/formats")
    run(copy, "-m", "ruff", "format", "--check", "shop/orders/formats")
