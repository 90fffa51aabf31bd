"""Plain text that is pleasant to read: wrapped lines and a table with aligned columns."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterator
from decimal import Decimal

from shop.money import round_to
from shop.order import Item, Order
from shop.plain import one_line

WIDTH = 72
_Row = tuple[str, str, str, str]


def wrapped(text: str, width: int = WIDTH) -> str:
    """The text with no line longer than this, except for a word that is."""
    return "\n".join(line if len(line) <= width else _filled(line, width) for line in text.split("\n"))


def _filled(line: str, width: int) -> str:
    return textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)


def order_table(order: Order) -> str:
    """The items with quantity, price and sum, then what makes up the total, and the total with its currency."""
    total = ("", "Total", "", f"{_amount(order.total_amount, order)} {order.currency}")
    items = [("Qty", "Item", "Price", "Sum"), *[_item(item, order) for item in order.items]]
    extras = list(_extras(order))
    rows = [*items, *extras, total]
    numbers = [max(len(row[column]) for row in rows) for column in (0, 2, 3)]
    name_width = max(20, WIDTH - sum(numbers) - 6)
    widths = (numbers[0], name_width, numbers[1], numbers[2])
    line = "-" * (sum(widths) + 6)
    groups = [items[:1], items[1:], [*extras, total]]
    return f"\n{line}\n".join("\n".join(text for row in group for text in _lines(row, widths)) for group in groups if group)


def _item(item: Item, order: Order) -> _Row:
    name = one_line(item.name) or one_line(item.product_id)
    return str(item.quantity), name, _amount(item.price, order), _amount(item.price * item.quantity, order)


def _extras(order: Order) -> Iterator[_Row]:
    named = [("Tax", order.tax_amount), ("Shipping", order.shipping_amount), ("Discount", -order.discount_amount)]
    for name, amount in named:
        if amount:
            yield "", name, "", _amount(amount, order)


def _amount(amount: Decimal, order: Order) -> str:
    return f"{round_to(amount, order.currency):,}"


def _lines(row: _Row, widths: tuple[int, int, int, int]) -> Iterator[str]:
    """The row, in as many lines as its name needs."""
    quantity, name, price, total = row
    for number, part in enumerate(_folded(name, widths[1])):
        padded = part + " " * (widths[1] - _columns(part))
        if number == 0:
            yield f"{quantity:>{widths[0]}}  {padded}  {price:>{widths[2]}}  {total:>{widths[3]}}"
        else:
            yield f"{'':{widths[0]}}  {part}"


def _folded(text: str, width: int) -> list[str]:
    if text.isascii():
        return textwrap.wrap(text, width) if len(text) > width else [text]
    return textwrap.wrap(text, width if _columns(text) <= width else width // 2) or [text]


def _columns(text: str) -> int:
    """How many columns a terminal gives the text: East Asian letters take two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
