"""What a cart costs: for any lines, taxes, discounts, fees, part payments and currencies, the order's total
is the cart's, to the smallest unit, and the mail's table adds up to it."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shop.notifications.language import language
from shop.notifications.layout import order_table
from shop.orders import amounts
from shop.orders.errors import OrderRejected
from shop.orders.order import EXAMPLE, Order
from shop.orders.validation import validate
from shop.settings import Settings
from shop.values import money
from tests.carts import Cart, carts

relaxed = hypothesis_settings(deadline=None)
LIMITS = Settings(_env_file=None)


class Everything:
    async def known(self, product_ids: set[str]) -> set[str]:
        return product_ids


async def verdict_on(order: dict[str, Any]) -> Order | OrderRejected:
    (verdict,) = await validate([order], Everything(), LIMITS)
    return verdict


async def taken(order: dict[str, Any]) -> Order:
    verdict = await verdict_on(order)
    assert isinstance(verdict, Order), verdict
    return verdict


@relaxed
@given(carts())
async def test_an_order_costs_what_its_cart_says(cart: Cart) -> None:
    order = await taken(cart.order)
    assert order.total_amount == cart.total
    assert order.amount_due == cart.total - cart.paid_in_part
    assert amounts.calculated(order) == cart.total


@relaxed
@given(carts(), st.integers(2, 10**6), st.sampled_from([-1, 1]))
async def test_another_total_is_rejected(cart: Cart, units: int, sign: int) -> None:
    off = sign * money.from_minor(units, cart.currency)
    verdict = await verdict_on({**cart.order, "total_amount": str(cart.total + off)})
    assert isinstance(verdict, OrderRejected)
    assert "total_amount" in [problem.place for problem in verdict.problems]


@relaxed
@given(carts(), st.sampled_from(["en", "de"]), st.integers(-1, 1))
async def test_the_mail_s_table_adds_up_to_its_total(cart: Cart, code: str, off: int) -> None:
    total = cart.total + money.from_minor(off, cart.currency)
    if total < cart.paid_in_part:
        return
    order = await taken({**cart.order, "total_amount": str(total)})
    words = language(code)
    table = order_table(order, words)
    places = money.decimals(cart.currency)

    def read(text: str) -> Decimal:
        digits = re.sub(r"[^0-9-]", "", text)
        return Decimal(digits).scaleb(-places)

    assert sum([read(row.sum) for row in (*table.items, *table.extras)], Decimal(0)) == read(table.total)
    assert read(table.total) == order.total_amount
    if order.part_payments:
        *paid, due = table.notes[-len(order.part_payments) - 1 :]
        assert read(table.total) + sum([read(row.sum) for row in paid], Decimal(0)) == read(due.sum)


# -- single rules


def one_line(**fields: Any) -> dict[str, Any]:
    return {**EXAMPLE, "items": [{"product_id": "P", "quantity": 3, **fields}]}


@pytest.mark.parametrize(
    "order",
    [
        {**one_line(price="3.333333"), "total_amount": "10.00"},
        {**one_line(price="3.33", line_total="10.00"), "total_amount": "10.00"},
        {**one_line(line_total="10"), "total_amount": "10.00"},
        {**one_line(price=0), "total_amount": 0},
        {**one_line(line_total=10, discount_amount=10), "total_amount": 0},
        {**one_line(line_total=10, tax_amount="1.60"), "prices_include_tax": True, "total_amount": 10},
        {**one_line(line_total=10, tax_amount="1.60"), "total_amount": "11.60"},
        {**one_line(line_total=10), "total_amount": "12.50", "tip_amount": "2.50"},
        {
            **one_line(line_total=10),
            "shipping_lines": [{"title": "Express", "amount": 5, "discount_amount": 5, "tax_amount": 1}],
            "fees": [{"name": "Wrapping", "amount": 2}],
            "total_amount": 13,
            "part_payments": [{"method": "gift_card", "amount": 13, "reference": "GC-1"}],
            "payment_info": None,
        },
        {**one_line(price="1.005"), "currency": "JPY", "total_amount": 4},
        {**one_line(price="1.0005"), "currency": "KWD", "total_amount": "3.002"},
    ],
)
async def test_real_carts(order: dict[str, Any]) -> None:
    await taken(order)


@pytest.mark.parametrize(
    ("order", "place"),
    [
        ({**one_line(), "total_amount": 10}, "items[0].price"),
        ({**one_line(price="2.50", line_total="10.00"), "total_amount": "10.00"}, "items[0].line_total"),
        ({**one_line(line_total=5, discount_amount=6), "total_amount": 0}, "items[0].discount_amount"),
        ({**one_line(line_total=-5), "total_amount": 0}, "items[0].line_total"),
        ({**one_line(line_total=5), "fees": [{"amount": -1}], "total_amount": 4}, "fees[0].amount"),
        ({**one_line(line_total=5), "tip_amount": -1, "total_amount": 4}, "tip_amount"),
        (
            {
                **one_line(line_total=5),
                "total_amount": 5,
                "part_payments": [{"method": "gift_card", "amount": 6}],
            },
            "part_payments",
        ),
        (
            {
                **one_line(line_total=5),
                "total_amount": 5,
                "part_payments": [{"method": "beads", "amount": 1}],
            },
            "part_payments[0].method",
        ),
        (
            {
                **one_line(line_total=5),
                "total_amount": 5,
                "part_payments": [{"amount": 0, "method": "other"}],
            },
            "part_payments[0].amount",
        ),
    ],
)
async def test_carts_that_do_not_add_up(order: dict[str, Any], place: str) -> None:
    verdict = await verdict_on(order)
    assert isinstance(verdict, OrderRejected)
    assert place in [problem.place for problem in verdict.problems]


async def test_only_derived_prices_widen_the_tolerance() -> None:
    def order(price: str, off: str) -> dict[str, Any]:
        lines = [{"product_id": "P", "quantity": 1, "price": price}] * 3
        total = sum([money.round_to(Decimal(price), "USD")] * 3) + Decimal(off)
        return {**EXAMPLE, "items": lines, "total_amount": str(total)}

    assert isinstance(await verdict_on(order("3.333333", "0.03")), Order)
    assert isinstance(await verdict_on(order("3.333333", "0.04")), OrderRejected)
    assert isinstance(await verdict_on(order("3.33", "0.01")), Order)
    assert isinstance(await verdict_on(order("3.33", "0.02")), OrderRejected)
