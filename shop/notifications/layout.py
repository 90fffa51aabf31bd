"""How mails look: the templates, and the table of an order's items for both parts of a mail."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from shop.notifications.language import Language
from shop.orders import amounts
from shop.orders.order import Order
from shop.orders.parts import PART_METHODS, Item
from shop.text.sanitize import one_line

WIDTH = 72
"""The width of text mails, in columns."""
_Row = tuple[str, str, str, str]


class ItemRow(NamedTuple):
    """An item of the order, formatted in the customer's language."""

    name: str
    quantity: str
    price: str
    sum: str


class ExtraRow(NamedTuple):
    """An addition to the items' sum, or a deduction."""

    name: str
    sum: str


@dataclass(frozen=True, slots=True)
class Table:
    """The items with quantity, price and sum, then additions and deductions,
    and the total with its currency; then what it contains, and how it is paid."""

    items: list[ItemRow]
    extras: list[ExtraRow]
    """Together with the items they add up to the total."""
    total: str
    head: _Row
    total_name: str
    notes: list[ExtraRow]
    """What is not added: the tax that the prices contain, part payments, and the rest that is due."""

    @property
    def text(self) -> str:
        """The table as text, at most `WIDTH` columns wide unless the amounts need more."""
        items = [self.head, *[(row.quantity, row.name, row.price, row.sum) for row in self.items]]
        last = [*[("", row.name, "", row.sum) for row in self.extras], ("", self.total_name, "", self.total)]
        last += [("", row.name, "", row.sum) for row in self.notes]
        numbers = [max(len(row[column]) for row in (*items, *last)) for column in (0, 2, 3)]
        widths = (numbers[0], max(20, WIDTH - sum(numbers) - 6), numbers[1], numbers[2])
        line = "-" * (sum(widths) + 6)
        groups = [items[:1], items[1:], last]
        return f"\n{line}\n".join(
            "\n".join(text for row in group for text in _lines(row, widths)) for group in groups if group
        )


def order_table(order: Order, language: Language, *, collects: bool = False) -> Table:
    """Returns the table of this order. `collects`: it is shipped before it is paid."""
    head = (language.say("quantity"), language.say("item"), language.say("price"), language.say("sum"))
    return Table(
        [_item(item, order.currency, language) for item in order.items],
        list(_extras(order, language)),
        language.money(order.total_amount, order.currency),
        head,
        language.say("total"),
        list(_notes(order, language, collects=collects)),
    )


def item_name(item: Item) -> str:
    """Returns the item's name, as the customer saw it, with what was chosen for it, in one line."""
    name = one_line(item.name) or one_line(item.product_id)
    if item.variant is None and item.properties is None:
        return name
    chosen = [one_line(item.variant), *(f"{key}: {value}" for key, value in (item.properties or {}).items())]
    return one_line(f"{name} ({', '.join(filter(None, chosen))})", 300)


def wrapped(text: str, width: int = WIDTH) -> str:
    """Wraps the text at this width. A longer word has its own line."""
    return "\n".join(line if len(line) <= width else _filled(line, width) for line in text.split("\n"))


def _filled(line: str, width: int) -> str:
    """Wraps one line. `textwrap` takes six times as long."""
    lines, used = [""], 0
    for word in line.split():
        if used and used + 1 + len(word) > width:
            lines.append(word)
            used = len(word)
        else:
            lines[-1] += f" {word}" if used else word
            used = len(lines[-1])
    return "\n".join(lines)


def _item(item: Item, currency: str, language: Language) -> ItemRow:
    price = language.number(amounts.piece_price(item, currency), currency)
    total = language.number(amounts.line_total(item, currency), currency)
    return ItemRow(item_name(item), str(item.quantity), price, total)


def _extras(order: Order, language: Language) -> Iterator[ExtraRow]:
    for extra in amounts.extras(order):
        name = one_line(extra.name, 80) or language.say(extra.kind)
        yield ExtraRow(name, language.number(extra.amount, order.currency))


def _notes(order: Order, language: Language, *, collects: bool) -> Iterator[ExtraRow]:
    if order.prices_include_tax and (contained := amounts.tax(order)):
        yield ExtraRow(language.say("included_tax"), language.number(contained, order.currency))
    for part in order.part_payments:
        known = part.method if part.method in PART_METHODS else "other"
        yield ExtraRow(language.say(f"part_payment.{known}"), language.number(-part.amount, order.currency))
    if collects and order.payment_info is not None:
        name = language.say(f"to_pay.{order.payment_info.method}")
        yield ExtraRow(name, language.money(order.amount_due, order.currency))
    elif order.part_payments:
        yield ExtraRow(language.say("due"), language.money(order.amount_due, order.currency))


def _lines(row: _Row, widths: tuple[int, int, int, int]) -> Iterator[str]:
    """Yields the row's lines, as many as its name needs."""
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
    """Returns the text's width in a terminal: East Asian letters take two columns, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


if TYPE_CHECKING:
    from jinja2 import Environment, Template

_FOLDER = Path(__file__).parent / "templates"
_EXCESS_BLANK_LINES = re.compile(r"\n{3,}")


def render(name: str, values: Mapping[str, Any]) -> tuple[str, str]:
    """Renders the text and the HTML of the template with this name."""
    for_text, for_html = _templates(name)
    text = for_text.render(values).strip("\n") + "\n"
    return _EXCESS_BLANK_LINES.sub("\n\n", text) if "\n\n\n" in text else text, for_html.render(values)


@lru_cache
def _templates(name: str) -> tuple[Template, Template]:
    return _environment().get_template(f"{name}.txt"), _environment().get_template(f"{name}.html")


@lru_cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=select_autoescape(["html"], default_for_string=True, default=False),
        undefined=StrictUndefined,
        auto_reload=False,
        cache_size=-1,
        trim_blocks=True,
    )
    environment.filters["wrapped"] = wrapped
    environment.filters["text"] = lambda parts: "\n\n".join([wrapped(part) for part in parts])
    environment.filters["lines"] = lambda part: Markup("<br>\n").join(part.split("\n"))
    return environment
