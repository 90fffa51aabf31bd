"""What was ordered and how it is paid, for the page of an order and `order-saga show`.

A page is kept by the Prefect server, so `OrderDetails` has nothing of the customer. What it leaves out,
names and other words as well as addresses, is read for a terminal only (`customer_lines`), and is erased with
the customer's data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pydantic import ValidationError

from shop.orders import amounts
from shop.orders.order import Order, read_stored
from shop.orders.parts import (
    ALREADY_PAID,
    BANK_TRANSFER,
    CASH_ON_DELIVERY,
    METHODS,
    PART_METHODS,
    Address,
    Item,
)
from shop.runtime.times import shown
from shop.values.money import show

_MOST_LINES = 50
"""Limits the lines of an order that are shown one by one."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the order, as texts."""

    product: str
    quantity: str
    price: str
    total: str


@dataclass(frozen=True, slots=True)
class OrderDetails:
    """What was ordered, without customer data."""

    lines: Sequence[Line]
    more_lines: int
    """How many lines are left out."""
    sums: Sequence[tuple[str, str]]
    """What follows the lines: discounts, shipping, fees, tip, tax, total, part payments."""
    facts: Sequence[tuple[str, str]]
    """Number, times, and how it is paid."""


@dataclass(frozen=True, slots=True)
class PaymentSoFar:
    """What is known of the order's payment."""

    status: str | None = None
    """`payment_status` of the step's result; None before it is done."""
    received: Decimal = Decimal(0)
    """What was recorded as received by transfer or on delivery."""
    outcome: str | None = None


def details_of(content: Mapping[str, Any], paid: PaymentSoFar) -> OrderDetails | None:
    """Returns the details of an order's content; None if it is not well-formed."""
    if (order := _read(content)) is None:
        return None
    currency = order.currency
    return OrderDetails(
        lines=[
            Line(
                _product(item),
                str(item.quantity),
                show(amounts.piece_price(item, currency), currency),
                show(amounts.line_total(item, currency), currency),
            )
            for item in order.items[:_MOST_LINES]
        ],
        more_lines=max(0, len(order.items) - _MOST_LINES),
        sums=list(_sums(order)),
        facts=list(_facts(order, paid)),
    )


def _read(content: Mapping[str, Any]) -> Order | None:
    try:
        return read_stored(content)
    except ValidationError:
        return None


def _product(item: Item) -> str:
    sku, kind = f"SKU {item.sku}" if item.sku else None, "digital" if item.digital else None
    known = ", ".join(filter(None, [sku, kind]))
    return f"{item.product_id}: {known}" if known else item.product_id


def _sums(order: Order) -> Iterator[tuple[str, str]]:
    currency = order.currency
    for extra in amounts.extras(order):
        yield extra.kind, show(extra.amount, currency)
    contained = amounts.tax(order) if order.prices_include_tax else Decimal(0)
    tax = f", with {show(contained, currency)} tax" if contained else ", tax included"
    yield f"total{tax if order.prices_include_tax else ''}", show(order.total_amount, currency)
    for part in order.part_payments:
        by = f", {part.provider}" if part.provider else ""
        yield f"paid before by {_method(part.method)}{by}", show(-part.amount, currency)
    if order.part_payments:
        yield "due", show(order.amount_due, currency)


def _facts(order: Order, paid: PaymentSoFar) -> Iterator[tuple[str, str]]:
    if order.order_number:
        yield "number", order.order_number
    if order.ordered_at is not None:
        yield "ordered", shown(order.ordered_at)
    if order.customer_id is None:
        yield "customer", "a guest"
    yield "payment", _payment(order, paid)
    if paid.received:
        extra = paid.received - order.amount_due
        give_back = f", {show(extra, order.currency)} more than is due: give it back" if extra > 0 else ""
        yield "received", show(paid.received, order.currency) + give_back


def _method(given: str) -> str:
    """Returns the method in words. That of an order that is not valid may be any text."""
    return given.replace("_", " ") if given in {*METHODS, *PART_METHODS} else "another method"


def _payment(order: Order, paid: PaymentSoFar) -> str:
    """Returns how the order is paid, and what is still to come."""
    if order.amount_due == 0:
        return "nothing is due"
    info, due = order.payment_info, show(order.amount_due, order.currency)
    if info is None:
        return f"{due} due, and no means of payment"
    method = _method(info.method)
    if info.method == ALREADY_PAID:
        return ", ".join(filter(None, [f"{due} paid already", info.provider, info.reference]))
    if info.method not in {BANK_TRANSFER, CASH_ON_DELIVERY}:
        return f"{due} by {method}"
    missing = max(Decimal(0), order.amount_due - paid.received)
    rest = show(missing, order.currency)
    if not missing:
        return f"{due} by {method}, received"
    if paid.outcome not in {None, "completed"}:
        return f"{due} by {method}, not received: {rest}"
    return f"{due} by {method}, {'to collect' if paid.status == 'collect' else 'waits for'} {rest}"


def customer_lines(content: Mapping[str, Any]) -> list[str]:
    """Returns what `OrderDetails` leaves out, a line each: customer, addresses, names of products and
    charges, what was chosen, metadata. No means of payment."""
    if (order := _read(content)) is None:
        return []
    customer = ", ".join(filter(None, [order.customer_id, order.customer_name, order.customer_email]))
    lines = [f"customer: {customer}"] if customer else []
    addresses: dict[str, Address | None] = {"ships to": order.shipping_info, "billed to": order.billing_info}
    for name, address in addresses.items():
        if address is not None and (given := address.model_dump(exclude_none=True)):
            lines.append(f"{name}: {', '.join(str(value) for value in given.values())}")
    for item in order.items[:_MOST_LINES]:
        chosen = [f"{key}: {value}" for key, value in (item.properties or {}).items()]
        if words := ", ".join(filter(None, [item.name, item.variant, *chosen])):
            lines.append(f"{item.product_id} is {words}")
    for extra in amounts.extras(order):
        if extra.name:
            lines.append(f"{extra.kind} {extra.name}: {show(extra.amount, order.currency)}")
    if order.notes:
        lines.append(f"notes: {order.notes}")
    if order.metadata:
        lines.append(f"metadata: {json.dumps(order.metadata, ensure_ascii=False)}")
    return lines
