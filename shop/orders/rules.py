"""The rules that an order's content must satisfy: each function returns the problems of one part.

Rules work on what could be read, so that one unreadable field does not hide the problems of the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from shop.orders import amounts
from shop.orders.errors import Problem, kind, product, shown
from shop.orders.order import Order
from shop.orders.parts import METHODS, PART_METHODS, Address, Item
from shop.settings import Settings
from shop.text.domains import ascii_mail_domain
from shop.values import countries, money

MAX_TEXT = 200
_MAX_LINES = 50
"""Limits the shipping lines, the fees and the part payments of one order."""
_MAX_TOKEN = 255
_CURRENCY = re.compile(r"[A-Za-z]{3}")
_EMAIL = re.compile(r"[^@\s<>,;:\"()\[\]\\]{1,64}@[^@\s<>,;:\"()\[\]\\.]+(\.[^@\s<>,;:\"()\[\]\\.]+)+")
_LAST4 = re.compile(r"[0-9]{4}")

Readable = Mapping[str, Any]
"""The fields of an order that could be read; `items` maps positions to `Item`, and `incomplete` is there if
an amount of the order could not be read."""


def problems(order: Readable, known: set[str], limits: Settings, removed: str) -> list[Problem]:
    """Returns all problems. `known`: the ids of products. `removed`: how values begin that intake removed,
    which are reported by themselves."""
    return [
        *_items(order, known, limits),
        *_customer(order),
        *_email(order),
        *_currency(order),
        *_charges(order),
        *_total(order, limits),
        *_payment(order, removed),
        *_part_payments(order),
        *_addresses(order),
    ]


def _customer(order: Readable) -> Iterator[Problem]:
    customer, email = order.get("customer_id"), order.get("customer_email")
    if "customer_id" in order and "customer_email" in order and customer is None and email is None:
        yield Problem("customer_id", "nothing", "the customer's id, or a customer_email for a guest")
    for name in ("customer_id", "customer_name"):
        yield from _short(name, order.get(name))


def _short(place: str, value: str | None) -> Iterator[Problem]:
    if value is not None and len(value) > MAX_TEXT:
        yield Problem(place, f"{len(value)} characters", f"at most {MAX_TEXT} characters")


def _email(order: Readable) -> list[Problem]:
    email = order.get("customer_email")
    if not email:
        return []
    if len(email) > 254 or not _EMAIL.fullmatch(email):
        return [Problem("customer_email", kind(email), "an e-mail address such as name@example.com")]
    try:
        ascii_mail_domain(email)
    except UnicodeError:
        return [Problem("customer_email", kind(email), "an e-mail address whose domain can exist")]
    return []


def _items(order: Readable, known: set[str], limits: Settings) -> list[Problem]:
    if "items" not in order:
        return []
    items: dict[int, Item] = order["items"]
    if not items and not order.get("incomplete"):
        return [Problem("items", "none", "at least one item")]
    if len(items) > limits.orders.max_items:
        return [Problem("items", f"{len(items)} items", f"at most {limits.orders.max_items} items")]
    most, currency = limits.orders.max_quantity, order.get("currency", "")
    return [
        problem for i, item in items.items() for problem in _item(f"items[{i}]", item, currency, known, most)
    ]


def _item(place: str, item: Item, currency: str, known: set[str], most: int) -> Iterator[Problem]:
    if not item.product_id:
        yield Problem(f"{place}.product_id", "nothing", "a product's id")
    elif item.product_id not in known:
        yield Problem(f"{place}.product_id", product(item.product_id), "a product in the catalogue")
    if not 0 < item.quantity <= most:
        yield Problem(f"{place}.quantity", shown(item.quantity), f"a whole number from 1 to {most}")
    if item.price is None and item.line_total is None:
        yield Problem(f"{place}.price", "nothing", "the price of one piece, or a line_total")
    if item.price is not None and item.price < 0:
        yield Problem(f"{place}.price", shown(item.price), "0 or more")
    if item.line_total is not None or item.discount_amount or item.tax_amount:
        yield from _line(place, item, currency)
    if item.weight_grams is not None and item.weight_grams < 0:
        yield Problem(f"{place}.weight_grams", shown(item.weight_grams), "0 or more")


def _line(place: str, item: Item, currency: str) -> Iterator[Problem]:
    """Checks a line that has more than a price."""
    yield from _amounts(place, item, ("line_total", "discount_amount", "tax_amount"), currency)
    if not money.is_currency(currency) or (item.price is None and item.line_total is None):
        return
    if not amounts.agrees(item, currency):
        expected = f"about price x quantity: {shown((item.price or 0) * item.quantity)}"
        yield Problem(f"{place}.line_total", shown(item.line_total), expected)
    if item.discount_amount > (total := amounts.line_total(item, currency)) >= 0:
        yield Problem(f"{place}.discount_amount", shown(item.discount_amount), f"at most {shown(total)}")


def _amounts(place: str, part: object, names: Sequence[str], currency: str) -> Iterator[Problem]:
    """Checks amounts that must not be negative, nor have more decimals than the currency."""
    for name in names:
        amount: Decimal | None = getattr(part, name)
        if amount:
            yield from _amount(f"{place}.{name}", amount, currency)


def _amount(place: str, amount: Decimal, currency: str) -> Iterator[Problem]:
    if amount < 0:
        yield Problem(place, shown(amount), "0 or more")
    yield from _precision(place, amount, currency)


def _precision(place: str, amount: Decimal, currency: str) -> Iterator[Problem]:
    if money.is_currency(currency) and not money.fits(amount, currency):
        yield Problem(place, shown(amount), f"at most {money.decimals(currency)} decimals ({currency})")


def _currency(order: Readable) -> Iterator[Problem]:
    currency = order.get("currency")
    if currency is not None and not money.is_currency(currency):  # a missing currency is already reported
        given = currency if _CURRENCY.fullmatch(currency) else kind(currency)
        yield Problem("currency", given, "an ISO 4217 code such as USD")


def _charges(order: Readable) -> Iterator[Problem]:
    """Checks what is added to the lines, and taken off."""
    currency = order.get("currency", "")
    for name in ("tax_amount", "shipping_amount", "discount_amount", "tip_amount"):
        if amount := order.get(name):
            yield from _amount(name, amount, currency)
    for name, fields in (
        ("shipping_lines", ("amount", "discount_amount", "tax_amount")),
        ("fees", ("amount", "tax_amount")),
    ):
        parts = order.get(name) or ()
        yield from _few(name, parts)
        for i, part in enumerate(parts):
            yield from _amounts(f"{name}[{i}]", part, fields, currency)


def _few(name: str, parts: Sequence[object]) -> Iterator[Problem]:
    if len(parts) > _MAX_LINES:
        yield Problem(name, f"{len(parts)} entries", f"at most {_MAX_LINES} entries")


def _total(order: Readable, limits: Settings) -> Iterator[Problem]:
    total, currency = order.get("total_amount"), order.get("currency", "")
    if total is None:
        return
    yield from _precision("total_amount", total, currency)
    most = limits.orders.max_total(currency)
    if not 0 <= total <= most:
        yield Problem("total_amount", shown(total), f"0 or more, at most {most}")
        return
    items: Mapping[int, Item] = order.get("items") or {}
    unpriced = [item for item in items.values() if item.price is None and item.line_total is None]
    if not items or unpriced or order.get("incomplete"):
        return  # no sum can be calculated; the reason is reported
    whole = order if isinstance(order, Whole) else Whole(order)
    difference = abs(total - (calculated := amounts.calculated(whole.order)))
    if difference and difference > amounts.tolerance(whole.order):
        yield Problem("total_amount", shown(total), f"{calculated} ({_formula(whole.order)})")


def _formula(order: Order) -> str:
    """Returns the parts of the order's total by name."""
    kinds = dict.fromkeys(extra.kind for extra in amounts.extras(order) if extra.kind != "rounding")
    signs = [f"{'-' if kind == 'discount' else '+'} {kind}" for kind in kinds]
    return " ".join(["items", *signs]) + ("; prices_include_tax" if order.prices_include_tax else "")


class Whole(dict[str, Any]):
    """The fields of an order with all its amounts, and the order itself."""

    __slots__ = ("_order",)

    def __init__(self, fields: Mapping[str, Any], order: Order | None = None) -> None:
        super().__init__(fields)
        self._order = order

    @property
    def order(self) -> Order:
        """The order; without validation, if some of its other fields could not be read."""
        if self._order is None:
            fields = {name: field.get_default(call_default_factory=True) for name, field in _OPTIONAL.items()}
            given = {"currency": "", **self, "items": list(self["items"].values())}
            self._order = Order.model_construct(**{**fields, **given})
        return self._order


_OPTIONAL = {name: field for name, field in Order.model_fields.items() if not field.is_required()}


def _payment(order: Readable, removed: str) -> Iterator[Problem]:
    payment = order.get("payment_info")
    if payment is None:
        return
    if payment.method not in METHODS:
        yield Problem("payment_info.method", kind(payment.method), "one of " + ", ".join(METHODS))
    last4 = payment.card_last4
    if last4 is not None and not last4.startswith(removed) and not _LAST4.fullmatch(last4):
        yield Problem("payment_info.card_last4", f"{len(last4)} characters", "the card's last four digits")
    for name in ("token", "reference", "provider"):
        value = getattr(payment, name)
        if value is not None and len(value) > _MAX_TOKEN:
            yield Problem(f"payment_info.{name}", f"{len(value)} characters", f"at most {_MAX_TOKEN}")


def _part_payments(order: Readable) -> Iterator[Problem]:
    parts, currency = order.get("part_payments") or (), order.get("currency", "")
    yield from _few("part_payments", parts)
    for i, part in enumerate(parts):
        place = f"part_payments[{i}]"
        if part.method not in PART_METHODS:
            yield Problem(f"{place}.method", kind(part.method), "one of " + ", ".join(PART_METHODS))
        if part.amount <= 0:
            yield Problem(f"{place}.amount", shown(part.amount), "more than 0")
        yield from _precision(f"{place}.amount", part.amount, currency)
    paid = sum([part.amount for part in parts], Decimal(0))
    if parts and (total := order.get("total_amount")) is not None and paid > total:
        yield Problem("part_payments", shown(paid), f"at most the total of {shown(total)}")


def _addresses(order: Readable) -> Iterator[Problem]:
    for name in ("shipping_info", "billing_info"):
        if (address := order.get(name)) is not None:
            yield from address_problems(name, address)


def address_problems(place: str, address: Address) -> Iterator[Problem]:
    """Yields the problems of an address."""
    given = vars(address)
    for name in ("address", "city"):
        if given[name] == "":
            yield Problem(f"{place}.{name}", "nothing", "text that is not empty")
    for name, value in given.items():
        if name != "country" and value is not None and len(value) > MAX_TEXT:
            yield Problem(f"{place}.{name}", f"{len(value)} characters", f"at most {MAX_TEXT}")
    country = given["country"]
    if country is not None and not countries.is_country(country):
        meant = countries.meant(country)
        expected = "an ISO 3166 code of two letters" + (f": {meant}" if meant else "")
        yield Problem(f"{place}.country", kind(country), expected)
