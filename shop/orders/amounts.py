"""What an order's total is made of. Every amount is added once; none is the sum of others.

    total = lines + shipping + fees + tip - discounts + taxes (unless prices_include_tax)

A line costs its `line_total`, or price times quantity, rounded to the currency's smallest unit.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from itertools import chain
from typing import NamedTuple

from shop.orders.order import Order
from shop.orders.parts import Fee, Item, ShippingLine
from shop.values import money

_NOTHING = Decimal(0)


class Extra(NamedTuple):
    """What is added to the lines of an order; a discount is negative."""

    kind: str
    """`discount`, `shipping`, `fee`, `tip`, `tax` or `rounding`."""
    name: str | None
    """The name as the customer saw it, if there is one."""
    amount: Decimal


def line_total(item: Item, currency: str) -> Decimal:
    """Returns what all pieces of the line cost, before its discount."""
    if item.line_total is not None:
        return item.line_total
    return money.round_to((item.price or _NOTHING) * item.quantity, currency)


def piece_price(item: Item, currency: str) -> Decimal:
    """Returns the price of one piece; rounded, if only the line's total is known."""
    if item.price is not None:
        return item.price
    return money.round_to(line_total(item, currency) / max(item.quantity, 1), currency)


def lines_total(order: Order) -> Decimal:
    """Returns the sum of the lines, before discounts."""
    return sum([line_total(item, order.currency) for item in order.items], _NOTHING)


def tax(order: Order) -> Decimal:
    """Returns all tax of the order, whether it is contained in the prices or not."""
    parts: chain[Item | ShippingLine | Fee] = chain(order.items, order.shipping_lines, order.fees)
    return sum([part.tax_amount for part in parts], order.tax_amount)


def discount(order: Order) -> Decimal:
    """Returns the sum of all discounts."""
    parts: chain[Item | ShippingLine] = chain(order.items, order.shipping_lines)
    return sum([part.discount_amount for part in parts], order.discount_amount)


def extras(order: Order) -> Iterator[Extra]:
    """Yields what the lines' sum lacks to the order's total: together they are exactly the total."""
    yield from _parts(order)
    if rest := order.total_amount - calculated(order):
        yield Extra("rounding", None, rest)


def calculated(order: Order) -> Decimal:
    """Returns the sum of the parts."""
    return sum([extra.amount for extra in _parts(order)], lines_total(order))


def _parts(order: Order) -> Iterator[Extra]:
    if not order.prices_include_tax and (more := tax(order)):
        yield Extra("tax", None, more)
    if order.shipping_amount:
        yield Extra("shipping", None, order.shipping_amount)
    for line in order.shipping_lines:
        yield Extra("shipping", line.title, line.amount)
    for fee in order.fees:
        yield Extra("fee", fee.name, fee.amount)
    if order.tip_amount:
        yield Extra("tip", None, order.tip_amount)
    if less := discount(order):
        yield Extra("discount", None, -less)


def tolerance(order: Order) -> Decimal:
    """Returns how far the total may be from the sum of its parts: one of the currency's smallest units, for
    each line with a price that is derived, such as a total divided by a quantity."""
    derived = [
        item
        for item in order.items
        if item.line_total is None and item.price is not None and not money.fits(item.price, order.currency)
    ]
    return money.from_minor(max(1, len(derived)), order.currency)


def agrees(item: Item, currency: str) -> bool:
    """Returns whether the line's price and total agree, as far as the price's decimals say."""
    if item.line_total is None or item.price is None:
        return True
    exponent = item.price.as_tuple().exponent
    step = Decimal(1).scaleb(min(exponent if isinstance(exponent, int) else 0, -money.decimals(currency)))
    unit = money.from_minor(1, currency)
    return abs(item.price * item.quantity - item.line_total) <= max(unit, step * item.quantity)
