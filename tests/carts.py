"""Random carts, for property tests: each as an order, and what it costs by an independent calculation in the
currency's smallest units."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from shop.orders.order import EXAMPLE
from shop.values.money import decimals

CURRENCIES = ("USD", "EUR", "JPY", "KWD")
"""With two, two, none and three decimals."""


@dataclass(frozen=True)
class Cart:
    order: dict[str, Any]
    currency: str
    total: Decimal
    paid_in_part: Decimal


@st.composite
def carts(
    draw: st.DrawFn, currencies: tuple[str, ...] = CURRENCIES, products: tuple[str, ...] = ("P",)
) -> Cart:
    """Carts that a shop can send. Amounts are counted in the smallest unit; lines may come with a price, with
    a total, or with both."""
    currency = draw(st.sampled_from(currencies))
    places = decimals(currency)

    def units(most: int) -> int:
        return draw(st.integers(0, most))

    def amount(count: int) -> str:
        return str(Decimal(count).scaleb(-places))

    included = draw(st.booleans())
    total = taxes = 0
    items = []
    for _ in range(draw(st.integers(1, 4))):
        pieces, cost = draw(st.integers(1, 7)), units(50_000)
        item: dict[str, Any] = {"product_id": draw(st.sampled_from(products)), "quantity": pieces}
        match draw(st.sampled_from(["price", "total", "both"])):
            case "price":
                cost *= pieces
                item["price"] = amount(cost // pieces)
            case "total":
                item["line_total"] = amount(cost)
            case _:  # a price that is the total divided by the quantity
                exact = (Decimal(cost).scaleb(-places) / pieces).quantize(Decimal("0.000001"))
                item |= {"line_total": amount(cost), "price": str(exact)}
        discount, tax = units(cost), units(5_000)
        item |= {"discount_amount": amount(discount), "tax_amount": amount(tax)}
        items.append(item)
        total += cost - discount
        taxes += tax
    shipping_lines = []
    for _ in range(draw(st.integers(0, 2))):
        cost, tax = units(2_000), units(200)
        discount = units(cost)
        shipping_lines.append(
            {"amount": amount(cost), "discount_amount": amount(discount), "tax_amount": amount(tax)}
        )
        total += cost - discount
        taxes += tax
    fees = []
    for _ in range(draw(st.integers(0, 2))):
        cost, tax = units(1_000), units(100)
        fees.append({"name": "Wrapping", "amount": amount(cost), "tax_amount": amount(tax)})
        total += cost
        taxes += tax
    shipping, tip, tax = units(1_000), units(1_000), units(1_000)
    total += shipping + tip
    taxes += tax
    off = units(total)
    total += (0 if included else taxes) - off
    paid, part_payments = 0, []
    for method in draw(st.lists(st.sampled_from(["gift_card", "store_credit"]), max_size=2)):
        if part := units(total - paid):
            part_payments.append({"method": method, "amount": amount(part)})
            paid += part
    order = {
        **EXAMPLE,
        "currency": currency,
        "items": items,
        "prices_include_tax": included,
        "shipping_lines": shipping_lines,
        "fees": fees,
        "shipping_amount": amount(shipping),
        "tip_amount": amount(tip),
        "tax_amount": amount(tax),
        "discount_amount": amount(off),
        "part_payments": part_payments,
        "total_amount": amount(total),
    }
    return Cart(order, currency, Decimal(amount(total)), Decimal(amount(paid)))
